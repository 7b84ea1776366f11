"""Spool of an export on disk: examples come in any order, and may not fit into memory."""

import json
import mmap
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import overload

from app.errors import Unprocessable
from app.exchange.neuronpedia.records import Activation

_TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE feature (number INTEGER PRIMARY KEY, body TEXT);
    CREATE TABLE example (
        feature INTEGER, low REAL, high REAL, sequence INTEGER, position INTEGER, activation REAL,
        positions BLOB, activations BLOB
    );
    CREATE TABLE explanation (
        feature INTEGER, author TEXT, explanation TEXT, is_machine INTEGER, PRIMARY KEY (feature, author, is_machine)
    );
"""


@dataclass(frozen=True, slots=True)
class SpooledFeature:
    """A feature as read; tokens are numbers of the spool's vocabulary."""

    number: int
    density: float
    maximum: float
    heights: list[int]
    middles: list[float]
    promoted: list[int]
    promoted_logits: list[float]
    suppressed: list[int]
    suppressed_logits: list[float]
    near: list[int]
    near_cosine: list[float]


@dataclass(frozen=True, slots=True)
class SpooledExample:
    """An example as read; `low` is None for top examples."""

    low: float | None
    high: float | None
    sequence: int
    position: int
    activation: float
    positions: list[int]
    activations: list[float]


class SpooledSequences(Sequence[tuple[list[int], list[int]]]):
    """Token ids of all sequences, and -1 per token, because no document is known; read on access."""

    def __init__(self, path: Path, starts: "array[int]", ids: Sequence[int]) -> None:
        """`ids` are the tokens' ids by their numbers in the spool's vocabulary."""
        self._starts, self._ids = starts, ids
        self._file = path.open("rb")
        self._numbers: memoryview | None = None
        if starts[-1]:
            self._numbers = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)).cast("i")

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> tuple[list[int], list[int]]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[list[int], list[int]]]: ...
    def __getitem__(self, place: int | slice) -> tuple[list[int], list[int]] | Sequence[tuple[list[int], list[int]]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        start, end = self._starts[place], self._starts[place + 1]
        if start == end or self._numbers is None:
            return [], []
        return [self._ids[number] for number in self._numbers[start:end]], list(repeat(-1, end - start))

    def token(self, sequence: int, position: int) -> int:
        """Return the id of one token."""
        assert self._numbers is not None
        return self._ids[self._numbers[self._starts[sequence] + position]]


class Spool:
    """Takes records in any order, and returns features in order of their numbers, with their examples."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "spool.sqlite", check_same_thread=False)
        self._database.executescript(_TABLES)
        self._sequences_path = folder / "sequences"
        self._sequences_file = self._sequences_path.open("wb")
        self._starts = array("q", [0])
        self._known: dict[bytes, int] = {}
        self._vocabulary: dict[str, int] = {}
        self.longest = 0
        """Tokens of the longest sequence."""

    def close(self) -> None:
        """Close the files; they may then be deleted."""
        self._database.close()
        self._sequences_file.close()

    @property
    def vocabulary(self) -> Sequence[str]:
        """Tokens in order of first occurrence."""
        return list(self._vocabulary)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the numbers of these tokens."""
        vocabulary = self._vocabulary
        return [vocabulary.setdefault(text, len(vocabulary)) for text in texts]

    def add_feature(self, feature: SpooledFeature, where: str) -> None:
        """Add a feature.

        Raises:
            Unprocessable: the feature was added before.
        """
        try:
            self._database.execute("INSERT INTO feature VALUES (?, ?)", (feature.number, json.dumps(asdict(feature))))
        except sqlite3.IntegrityError:
            raise Unprocessable(f"{where}: feature {feature.number} is there twice.") from None

    def add_example(self, feature: int, activation: Activation) -> bool:
        """Add an example; return False if the feature is not active on its token, and leave the example out."""
        positions = [position for position, value in enumerate(activation.values) if value > 0]
        if not positions:
            return False
        position = _own_token(activation, positions)
        if position is None:
            return False
        values = array("d", [activation.values[index] for index in positions])
        self._database.execute(
            "INSERT INTO example VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                feature,
                None if activation.is_top else activation.low,
                None if activation.is_top else activation.high,
                self._sequence(activation.tokens),
                position,
                activation.values[position],
                array("h", positions).tobytes(),
                values.tobytes(),
            ),
        )
        return True

    def add_explanation(self, feature: int, author: str, explanation: str, *, is_machine: bool) -> None:
        """Add an explanation by a person or a machine; a later one by the same author replaces it."""
        row = (feature, author, explanation, is_machine)
        self._database.execute("INSERT OR REPLACE INTO explanation VALUES (?, ?, ?, ?)", row)

    def _sequence(self, texts: Sequence[str]) -> int:
        """Return the number of a sequence of tokens; equal sequences are stored once."""
        numbers = array("i", self.tokens(texts)).tobytes()
        key = blake2b(numbers, digest_size=16).digest()
        number = self._known.setdefault(key, len(self._known))
        if number == len(self._starts) - 1:
            self._sequences_file.write(numbers)
            self._starts.append(self._starts[-1] + len(texts))
            self.longest = max(self.longest, len(texts))
        return number

    def finish(self) -> None:
        """Prepare for reading."""
        self._sequences_file.flush()
        self._database.execute("CREATE INDEX example_feature ON example (feature)")
        self._known.clear()

    def sequences(self, ids: Sequence[int]) -> SpooledSequences:
        """Return all sequences; `ids` are the ids assigned to the vocabulary's tokens."""
        return SpooledSequences(self._sequences_path, self._starts, ids)

    def numbers(self) -> list[int]:
        """Return the numbers of all features, in order."""
        return [number for (number,) in self._database.execute("SELECT number FROM feature ORDER BY number")]

    def features(self) -> Iterator[SpooledFeature]:
        """Yield all features, in order of their numbers."""
        for (body,) in self._database.execute("SELECT body FROM feature ORDER BY number"):
            yield SpooledFeature(**json.loads(body))

    def examples(self, feature: int) -> list[SpooledExample]:
        """Return the examples of a feature, in the order in which they were read."""
        query = (
            "SELECT low, high, sequence, position, activation, positions, activations FROM example "
            "WHERE feature = ? ORDER BY rowid"
        )
        rows = self._database.execute(query, (feature,))
        return [
            SpooledExample(
                low, high, sequence, position, activation, list(array("h", positions)), list(array("d", values))
            )
            for low, high, sequence, position, activation, positions, values in rows
        ]

    def count_strays(self) -> int:
        """Return the number of examples and explanations whose feature is missing."""
        count = "SELECT count(*) FROM {} WHERE feature NOT IN (SELECT number FROM feature)"
        return sum(self._database.execute(count.format(table)).fetchone()[0] for table in ("example", "explanation"))

    def explanations(self, *, is_machine: bool) -> Iterator[tuple[int, str, str]]:
        """Yield feature, author and text of people's explanations, or machines', whose feature exists."""
        query = """
            SELECT feature, author, explanation FROM explanation
            WHERE is_machine = ? AND feature IN (SELECT number FROM feature)
        """
        return iter(self._database.execute(query, (is_machine,)))


_ROUNDING = 1e-3
"""SAEDashboard writes activations and intervals with three decimals."""


def _own_token(activation: Activation, active: Sequence[int]) -> int | None:
    """Return the position of the token that an example is for; None if the feature is not active on it.

    If the export does not state it, as in Neuronpedia's releases, it is the strongest token of a top example, else the
    first one in the example's interval.
    """
    stated, values = activation.position, activation.values
    if stated is not None and 0 <= stated < len(values):
        return stated if values[stated] > 0 else None
    if activation.is_top or activation.low is None or activation.high is None:
        return values.index(max(values))
    low, high = activation.low - _ROUNDING, activation.high + _ROUNDING
    return next((position for position in active if low <= values[position] <= high), None)
