"""Rules of audits: a run makes one, nobody changes it, and its owner or a reviewer deletes it."""

import re
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, TooLarge, Unprocessable
from app.queries import audits as queries
from app.queries.audits import AuditView
from app.queries.sql.pg_safe import is_id
from app.queries.text_sets import Counts, TextItem
from app.services.actors import Actor
from app.services.audit_results import MEASURED_SETS
from app.services.text_set_about import About
from app.services.text_set_files import read_file
from app.services.text_sets import count_texts

MAX_FILE_BYTES = 100_000_000
MIN_PAIRS = 10
"""With fewer pairs, or texts in groups, an audit has nothing to say."""


def check_auditable(name: str, counts: Counts) -> None:
    """Refuse a set that has neither pairs with two sides nor two groups, or too few of them.

    Raises:
        Unprocessable: it cannot be audited, and what it lacks.
    """
    if name in MEASURED_SETS:
        return
    if counts.pairs:
        if counts.pairs < MIN_PAIRS:
            raise Unprocessable(f"The set {name} has {counts.pairs} pairs, and an audit needs {MIN_PAIRS}.")
        if len(counts.labels) != 2:
            raise Unprocessable(
                f"The texts of {name} have {len(counts.labels)} different labels. An audit needs two, which say "
                "the side of a pair that a text is."
            )
    elif len(counts.groups) != 2 or counts.texts < 2 * MIN_PAIRS:
        raise Unprocessable(
            f"The set {name} has no pairs, and {len(counts.groups)} groups of {counts.texts} texts: an audit "
            f"needs {MIN_PAIRS} pairs with a label for each side, or {2 * MIN_PAIRS} texts of two groups. Add the set "
            "again, and say which column holds what."
        )


def read_audited_file(path: Path) -> tuple[About, list[TextItem]]:
    """Return the texts of a file as a set, which is named like the file.

    Raises:
        UserError: the file cannot be read, or its texts cannot be audited.
    """
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:60].strip("-") or "texts"
    if name in MEASURED_SETS:
        raise Unprocessable(f"{path.name} would become a set named {name}, which is a built-in one. Rename the file.")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TooLarge(f"{path.name} is larger than {MAX_FILE_BYTES / 1e6:,.0f} MB. Audit a part of it.")
        with path.open("rb") as file:
            items = read_file(file, path.name)
    except OSError as error:
        raise Unprocessable(f"{path.name} cannot be read: {error.strerror}.") from None
    check_auditable(name, count_texts(items))
    return About(name=name, source=f"the file {path.name}", offensive=True), items


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
