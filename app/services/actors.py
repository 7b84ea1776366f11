"""The actor of a request: a person with an account, or the one who uses a site that has no accounts."""

from dataclasses import dataclass, replace
from enum import IntEnum

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden
from app.queries.people import PersonView, ensure_name, find_account
from app.queries.sql.visibility import Reader
from app.settings import Settings


class Role(IntEnum):
    """What an actor may do; each role may do all that the ones before it may."""

    anyone = 0
    """Nobody is signed in."""
    viewer = 1
    """Read everything, and run prompts through models."""
    labeller = 2
    """Label, comment, and make lists and edits of one's own."""
    reviewer = 3
    """Make label sets, decide between labels, and change what others made."""
    admin = 4
    """Start runs, delete SAEs, and look after accounts."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request. `person_id` is None for a name that has made nothing yet."""

    name: str
    person_id: int | None = None
    role: Role = Role.admin
    is_account: bool = False

    @classmethod
    def of(cls, person: PersonView) -> "Actor":
        """Return the actor of an account."""
        return cls(person.name, person.id, Role[person.role], person.is_account)

    def named(self, name: str | None) -> "Actor":
        """Return the actor of this name, or this actor where no name is given.

        Raises:
            Forbidden: the actor has an account, and the name is another.
        """
        if not name or name == self.name:
            return self
        if self.is_account:
            raise Forbidden(
                f"You are signed in as {self.name}, and can write under that name alone: leave out the author."
            )
        return replace(self, name=name, person_id=None)

    @property
    def reader(self) -> Reader:
        """Return what of others' labels they may see."""
        return Reader(self.person_id, sees_all=self.role >= Role.reviewer)

    @property
    def site_has_accounts(self) -> bool:
        """True if people sign in to this site, so that a name alone proves nothing."""
        return self.is_account or self.role is Role.anyone

    @property
    def may_write(self) -> bool:
        """True if this actor may label, and make lists and edits."""
        return self.role >= Role.labeller

    def check_change(self, owner_id: int | None, what: str, owner: str) -> None:
        """Refuse a change of what somebody else made.

        Raises:
            Forbidden: this actor may not change it.
        """
        if not self.may_change(owner_id):
            raise Forbidden(
                f"{what} is {owner}\u2019s: they and reviewers may change it, and whoever has the link may read it."
            )

    def owns(self, owner_id: int | None) -> bool:
        """True if this actor made something whose owner is `owner_id`."""
        return self.person_id is not None and self.person_id == owner_id

    def may_change(self, owner_id: int | None) -> bool:
        """True if this actor may change what `owner_id` made: their own, or anything from a reviewer up."""
        return self.role >= Role.reviewer or (self.role >= Role.labeller and self.owns(owner_id))


NOBODY = Actor("", role=Role.anyone)
"""Who has not signed in to a site that has accounts."""


def local_actor(settings: Settings) -> Actor:
    """Return the actor who uses a site that has no accounts."""
    return Actor(settings.author)


async def ensure_person_of_run(session: AsyncSession, name: str) -> int:
    """Return the id of whoever a run says started it: the account of that name, else the name."""
    account = await find_account(session, name)
    return await ensure_name(session, name) if account is None else account[0].id


async def ensure_person(session: AsyncSession, actor: Actor) -> int:
    """Return the id of the actor's person; a name that has made nothing yet becomes one."""
    return actor.person_id or await ensure_name(session, actor.name)
