"""Rules of audits: a run makes one, nobody changes it, and its owner or a reviewer deletes it."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries import audits as queries
from app.queries.audits import AuditView
from app.queries.sql.pg_safe import is_id
from app.queries.text_sets import TextSetView
from app.services.actors import Actor

MIN_PAIRS = 10
"""With fewer pairs, or texts in groups, an audit has nothing to say."""


def check_auditable(view: TextSetView) -> None:
    """Refuse a set that has neither pairs nor two groups, or too few of them.

    Raises:
        Unprocessable: it cannot be audited, and what it lacks.
    """
    if view.counts.pairs >= MIN_PAIRS or (len(view.counts.groups) > 1 and view.counts.texts >= 2 * MIN_PAIRS):
        return
    raise Unprocessable(
        f"The set {view.name} has {view.counts.pairs} pairs and {len(view.counts.groups)} groups: an audit needs at "
        f"least {MIN_PAIRS} pairs, or texts of two groups. Add the set again, and say which column holds the pair."
    )


async def find_audit(session: AsyncSession, audit_id: int) -> AuditView:
    """Return an audit.

    Raises:
        NotFound: there is none, or it was deleted.
    """
    found = await queries.get_audit(session, audit_id) if is_id(audit_id) else None
    if found is None:
        raise NotFound("There is no audit of this number. It may have been deleted. All audits are at /audits.")
    return found


async def raw_values(session: AsyncSession, audit_id: int) -> str:
    """Return the values from which every figure of an audit can be computed again, as JSON lines.

    Raises:
        NotFound: there is no such audit.
    """
    found = await queries.raw_values(session, audit_id) if is_id(audit_id) else None
    if found is None:
        raise NotFound("There is no audit of this number. It may have been deleted. All audits are at /audits.")
    return found


async def delete_audit(session: AsyncSession, audit_id: int, *, actor: Actor) -> None:
    """Delete an audit, for good.

    Raises:
        NotFound: there is none.
        Forbidden: it is somebody else's.
    """
    audit = await find_audit(session, audit_id)
    actor.check_change(audit.owner_id, "This audit", audit.owner)
    await queries.delete_audit(session, audit_id)
