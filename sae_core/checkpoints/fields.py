"""How an import treats each field of a config: it is applied, refused, reported in a note, or harmless.

Each format declares its fields once, by the names in its files; a dot leads into a JSON object. What a format does not
declare is named in a note, so nothing of a config is dropped in silence.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_core.checkpoints.reading import Config, listed, short
from sae_core.errors import CheckpointError


def names(text: str) -> frozenset[str]:
    """Return the words of a text: a compact way to write long lists of names."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Rule:
    """A field that must not be overlooked, unless it has a value that changes nothing."""

    sentence: str
    """Its consequence, as the end of the sentence "The config says NAME is VALUE: …"."""
    unless: tuple[Any, ...] = (None, False)
    """Values that change nothing."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Every field of a config, in exactly one of four lists."""

    applied: frozenset[str] = frozenset()
    """The reader does what they say, or refuses a value that it cannot do."""
    refused: Mapping[str, Rule] = field(default_factory=dict)
    """SeeSAE cannot do what they say."""
    said: Mapping[str, Rule] = field(default_factory=dict)
    """SeeSAE does something else, which the user is told."""
    harmless: frozenset[str] = frozenset()
    """They change nothing of what an SAE computes or reads: where and how it was trained, names of versions."""

    def under(self, section: str) -> "Fields":
        """Return the same fields inside the JSON object `section`."""
        return Fields(
            applied=frozenset(f"{section}.{name}" for name in self.applied),
            refused={f"{section}.{name}": rule for name, rule in self.refused.items()},
            said={f"{section}.{name}": rule for name, rule in self.said.items()},
            harmless=frozenset(f"{section}.{name}" for name in self.harmless),
        )

    def __or__(self, other: "Fields") -> "Fields":
        return Fields(
            applied=self.applied | other.applied,
            refused={**self.refused, **other.refused},
            said={**self.said, **other.said},
            harmless=self.harmless | other.harmless,
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        return self.applied | self.refused.keys() | self.said.keys() | self.harmless

    @cached_property
    def _sections(self) -> frozenset[str]:
        names = (name.split(".") for name in self._known)
        return frozenset(".".join(parts[:depth]) for parts in names for depth in range(1, len(parts)))

    def check(self, path: Path, config: Config) -> list[str]:
        """Return the notes for a config, one sentence each.

        Args:
            path: the config's file, for messages.
            config: its content.

        Raises:
            CheckpointError: a field says something that SeeSAE cannot do; the message names it.
        """
        notes, unknown = list[str](), list[str]()
        for name, value in self._values(config):
            if name not in self._known:
                if value is not None:
                    unknown.append(name if name.isprintable() else repr(name))
            elif name in self.refused and value not in self.refused[name].unless:
                raise CheckpointError(f"{path} says {name} is {short(repr(value))}: {self.refused[name].sentence}")
            elif name in self.said and value not in self.said[name].unless:
                notes.append(f"The config says {name} is {short(repr(value))}: {self.said[name].sentence}")
        if unknown:
            notes.append(f"The config also has {listed(unknown)}, which SeeSAE does not know and made nothing of.")
        return notes

    def _values(self, config: Config, section: str = "") -> Iterator[tuple[str, Any]]:
        """Yield the name and value of each field; an object that has declared fields is entered."""
        for key, value in config.items():
            # A dot inside a key must not be taken for the way into an object.
            name = section + (repr(key) if "." in key else key)
            if isinstance(value, dict) and name in self._sections:
                yield from self._values(value, f"{name}.")
            elif not (name in self._sections and value is None):
                yield name, value
