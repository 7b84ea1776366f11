"""SAEs by name, and which two can be compared."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries.saes import SaeDetail, get_sae, list_saes

_NAMES_IN_MESSAGE = 20


async def find_sae(session: AsyncSession, slug: str) -> SaeDetail:
    """Return the SAE with this slug.

    Raises:
        NotFound: there is none; the message names those that there are.
    """
    sae = await get_sae(session, slug)
    if sae is None:
        raise _no_such_sae(slug, await list_saes(session))
    return sae


def pick_sae(saes: Sequence[SaeDetail], slug: str) -> SaeDetail:
    """Return the SAE with this slug, as `find_sae` does, where all SAEs are at hand.

    Raises:
        NotFound: there is none.
    """
    found = next((sae for sae in saes if sae.slug == slug), None)
    if found is None:
        raise _no_such_sae(slug, saes)
    return found


def _no_such_sae(slug: str, known: Sequence[SaeDetail]) -> NotFound:
    names = [sae.slug for sae in known[:_NAMES_IN_MESSAGE]]
    if len(known) > len(names):
        names.append(f"{len(known) - len(names)} more")
    others = f"There are: {', '.join(names)}." if names else "Train one first."
    return NotFound(f"There is no SAE “{slug[:80]}”. {others}")


def check_comparable(a: SaeDetail, b: SaeDetail) -> None:
    """Refuse two SAEs that cannot be compared.

    Raises:
        Unprocessable: they are the same SAE, or SAEs of different models.
    """
    if a.id == b.id:
        raise Unprocessable(f"{a.slug} cannot be compared with itself: choose two SAEs.")
    if a.model.id != b.model.id:
        raise Unprocessable(
            f"{a.slug} is an SAE of {a.model.name}, {b.slug} one of {b.model.name}: "
            "only SAEs of one model are compared."
        )
