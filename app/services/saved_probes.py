"""Rules of saved probes: only what its author saves is kept, for whoever has the link, until its owner deletes it."""

from dataclasses import replace
from secrets import token_urlsafe

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries import saved_probes as queries
from app.queries.saes import SaeDetail
from app.queries.saved_probes import Fields, SavedProbeView
from app.queries.sql.pg_safe import storable
from app.services.actors import Actor, ensure_person
from app.services.labels import tidy_name

_ID_BYTES = 9
"""As in a list's address."""


async def save_probe(session: AsyncSession, sae: SaeDetail, title: str, fields: Fields, *, actor: Actor) -> str:
    """Keep a prompt with its settings; return its id.

    Raises:
        Unprocessable: the title is empty or too long, or the prompt has characters that cannot be stored.
    """
    title = tidy_name("saved probe", title)
    if not all(storable(part) for field in fields for part in field):
        raise Unprocessable("The prompt has a NUL or half a character, which cannot be stored: remove it, then save.")
    public_id = token_urlsafe(_ID_BYTES)
    author = tidy_name("author", actor.name)
    owner_id = await ensure_person(session, replace(actor, name=author))
    await queries.add_saved_probe(session, sae.id, public_id, title, author, owner_id, fields)
    return public_id


async def find_saved_probe(session: AsyncSession, sae: SaeDetail, public_id: str) -> SavedProbeView:
    """Return a saved probe.

    Raises:
        NotFound: there is none, or it was deleted.
    """
    found = await queries.get_saved_probe(session, sae.id, public_id) if storable(public_id) else None
    if found is None:
        raise NotFound(f"{sae.slug} has no saved probe at this address. It may have been deleted.")
    return found


async def delete_saved_probe(session: AsyncSession, sae: SaeDetail, public_id: str, *, actor: Actor) -> None:
    """Delete a saved probe, for good.

    Raises:
        NotFound: there is none.
        Forbidden: it is somebody else's.
    """
    found = await find_saved_probe(session, sae, public_id)
    actor.check_change(found.owner_id, "This probe", found.author)
    await queries.delete_saved_probe(session, sae.id, public_id)
