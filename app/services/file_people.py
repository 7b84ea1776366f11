"""Who the names of a file of labels are here."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries import label_files as queries
from app.queries.label_files import NO_ACCOUNT
from app.queries.people import ensure_name
from app.services.label_records import CommentRecord, DecisionRecord, LabelRecord, Line, SetRecord


@dataclass(slots=True)
class FilePeople:
    """Who the names of a file are: the accounts that are given for them, else names without one.

    A name becomes a person when something that is not here yet is theirs, so that a file of this very instance does not
    make a second person out of each account.
    """

    session: AsyncSession
    accounts: Mapping[str, tuple[int, str]]
    """Ids and names of accounts, by names of the file."""
    in_file: Set[str]
    names: dict[str, int]
    """Ids of names without an account."""
    called: Mapping[str, int]
    """Ids of those whom exports of this instance tell from an account of the same name."""

    def find(self, name: str) -> int | None:
        """Return the id of whoever has this name, None for one that is new."""
        return self.accounts[name][0] if name in self.accounts else self.names.get(self._plain(name))

    async def ensure(self, name: str) -> int:
        """Return the id of whoever has this name, who becomes a person if it is new."""
        found = self.find(name)
        if found is None:
            plain = self._plain(name)
            found = self.names[plain] = await ensure_name(self.session, plain)
        return found

    def author(self, record: LabelRecord) -> str:
        """Return the name that a new label shows."""
        return self.accounts[record.person][1] if record.person in self.accounts else record.author

    def _plain(self, name: str) -> str:
        plain = name.removesuffix(NO_ACCOUNT)
        # Where nobody else in the file has the name itself, it is told from an account without help.
        told = name in self.called or plain in self.accounts or plain not in self.in_file
        return plain if told else name


async def people_of(
    session: AsyncSession, lines: Iterable[tuple[int, Line]], accounts: Mapping[str, str]
) -> FilePeople:
    """Return who the people of a file are; `accounts` are those that names of the file belong to.

    Raises:
        NotFound: there is no such account.
    """
    in_file = {name for _, record in lines for name in _names_in(record)}
    wanted = {name: account for name, account in accounts.items() if name in in_file}
    found = await queries.accounts_named(session, list(wanted.values())) if wanted else {}
    missing = next((account for account in wanted.values() if account not in found), None)
    if missing is not None:
        raise NotFound(f"There is no account named {missing[:80]}.")
    names = await queries.names_without_account(session)
    called = await queries.people_names(session)
    ids = set(names.values())
    return FilePeople(
        session,
        accounts={name: found[account] for name, account in wanted.items()},
        in_file=in_file,
        names=names,
        called={name: number for number, name in called.items() if number in ids and name not in names},
    )


def _names_in(record: Line) -> Iterable[str]:
    if isinstance(record, SetRecord):
        yield from (one.person for one in record.guidelines)
        if record.created_by:
            yield record.created_by
    if isinstance(record, LabelRecord | DecisionRecord | CommentRecord):
        yield record.person
    if isinstance(record, LabelRecord):
        yield from (one.person for one in record.revisions)
        yield from (one.person for one in record.votes)
    if isinstance(record, DecisionRecord):
        yield from (one.person for one in record.labels)
    if isinstance(record, CommentRecord):
        yield from record.mentions
