"""The actor of a request. While there are no accounts, a person is a name."""

from dataclasses import dataclass

from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Actor:
    """A person who writes labels, keeps lists or starts runs."""

    name: str

    def named(self, name: str | None) -> "Actor":
        """Return the actor of this name, or this actor where no name is given."""
        return Actor(name) if name else self


def local_actor(settings: Settings) -> Actor:
    """Return the actor who runs this installation."""
    return Actor(settings.author)
