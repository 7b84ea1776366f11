"""Synthetic index with the shape of a real one, fast enough to fill a database of a million features.

Rows are drawn and encoded for COPY by numpy, many at a time. For that, rows are drawn in groups whose arrays have equal
lengths; within an SAE the groups are mixed, so that neighbouring features differ as they do in a real index.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ARRAY, REAL, BigInteger, Double, Integer, SmallInteger, Table
from sqlalchemy.types import TypeEngine

from app.tables import Base, ExampleBand, Feature

VOCABULARY = 49_152
LENGTH = 128
"""Tokens per sequence."""
SEQUENCES = 8_192
TOPICS = tuple(f"Topic {number}" for number in range(40))
LABELLED = 0.04
"""Share of features with a label."""

_CHUNK = 8_192
"""Features encoded at a time."""
_DEAD = 0.03
_SHAPES = 12
"""Different sets of array lengths among the live features."""
_SYLLABLES = tuple(first + last for first in "bdfghjklmnprstvwxyz" for last in ("a", "e", "i", "o", "u", "an", "er"))
_MARKS = (".", ",", "\n", " (", ")", '"', " -", ":", "...", "</", "\t", " =", "\u2192", "'s", "?", " \u201c")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def vocabulary() -> list[bytes]:
    """Return synthetic tokens: end of text, punctuation, single bytes, words with and without a space."""
    tokens = [b"<|endoftext|>", *(mark.encode() for mark in _MARKS), *(bytes([0xC0 + place]) for place in range(32))]
    for number in range(VOCABULARY - len(tokens)):
        rest, word = number, ""
        while rest or not word:
            rest, place = divmod(rest, len(_SYLLABLES))
            word += _SYLLABLES[place]
        tokens.append((word if number % 3 == 0 else f" {word}").encode())
    return tokens


def frequent_tokens(random: np.random.Generator, shape: tuple[int, ...]) -> Ints:
    """Sample token ids with the frequencies of words: the id is the rank, and the frequency falls with it."""
    ids = np.exp(random.random(shape) * np.log(VOCABULARY - 1)).astype(np.int64)
    return np.asarray(np.minimum(ids, VOCABULARY - 1))


def sequences(seed: int) -> list[tuple[list[int], list[int]]]:
    """Return the token ids of each sequence, and each token's document: two or three per sequence."""
    random = np.random.default_rng(seed)
    tokens = frequent_tokens(random, (SEQUENCES, LENGTH))
    tokens[:, 0] = 0
    documents = 2 * np.arange(SEQUENCES)[:, None] + (np.arange(LENGTH) >= random.integers(20, 108, (SEQUENCES, 1)))
    documents[:, 0] = -1
    return list(zip(tokens.tolist(), documents.tolist(), strict=True))


COUNTED = SEQUENCES * (LENGTH - 1)


@dataclass(frozen=True)
class SyntheticIndex:
    """The features of one SAE, all drawn from `seed`."""

    features: int
    seed: int
    words: NDArray[np.str_]
    """The text of each token, as it is searched."""

    @cached_property
    def counts(self) -> Ints:
        """Return the number of active tokens per feature: a power law, some dead, few dense."""
        random = np.random.default_rng((self.seed, 0))
        rare = 8 * (1 - random.random(self.features)) ** (-1 / 0.75)
        counts = np.minimum(rare, COUNTED * 0.3 * random.random(self.features)).astype(np.int64)
        return np.where(random.random(self.features) < _DEAD, 0, np.maximum(counts, 3))

    @cached_property
    def shapes(self) -> Ints:
        """Return the shape of each feature's arrays, longer for denser features; -1 for dead ones."""
        rank = np.argsort(np.argsort(self.counts + np.random.default_rng((self.seed, 1)).random(self.features)))
        return np.where(self.counts == 0, -1, rank * _SHAPES // self.features)

    def feature_rows(self, index_id: int) -> Iterator[bytes]:
        """Yield rows of the table `feature`, encoded, in order of number."""
        for numbers, random in self._chunks(2):
            yield _in_order((of, self._features(index_id, of, shape, random)) for of, shape in self._groups(numbers))

    def band_rows(self, index_id: int) -> Iterator[bytes]:
        """Yield rows of the table `example_band`, encoded, in order of feature and band."""
        for numbers, random in self._chunks(3):
            yield _in_order((of, _bands(index_id, of, shape, random)) for of, shape in self._groups(numbers))

    def labelled(self) -> Ints:
        """Return the labelled features."""
        return np.flatnonzero(np.random.default_rng((self.seed, 4)).random(self.features) < LABELLED)

    def _chunks(self, purpose: int) -> Iterator[tuple[Ints, np.random.Generator]]:
        for start in range(0, self.features, _CHUNK):
            yield (
                np.arange(start, min(start + _CHUNK, self.features)),
                np.random.default_rng((self.seed, purpose, start)),
            )

    def _groups(self, numbers: Ints) -> Iterator[tuple[Ints, int]]:
        """Yield each shape with those of `numbers` that have it."""
        shapes = self.shapes[numbers]
        for shape in np.unique(shapes):
            yield numbers[shapes == shape], int(shape)

    def _features(self, index_id: int, numbers: Ints, shape: int, random: np.random.Generator) -> list[bytes]:
        m, counts = len(numbers), self.counts[numbers]
        alive = shape >= 0
        ten = 10 if alive else 0
        maxima = random.lognormal(2, 0.8, m) * alive
        tokens = frequent_tokens(random, (m, ten))
        shares = _falling(random, m, ten)
        given = random.random((m, ten))
        topics = _falling(random, m, 3 if alive else 0)
        return _encoded(
            Feature,
            {
                "index_id": np.full(m, index_id),
                "number": numbers,
                "count": counts,
                "density": counts / COUNTED,
                "max": maxima,
                "mean": maxima * random.uniform(0.1, 0.5, m),
                "histogram": _histogram(random, counts),
                "band_edges": maxima[:, None] * np.array([0.001, 0.05, 0.12, 0.22, 0.4, 1]),
                "top_token_ids": tokens,
                "top_token_counts": (shares * counts[:, None]).astype(np.int64) + 1,
                "top_token_shares": shares,
                "top_token_means": shares * maxima[:, None],
                "promoted_ids": random.integers(0, VOCABULARY, (m, 15)),
                "promoted_logits": _falling(random, m, 15),
                "suppressed_ids": random.integers(0, VOCABULARY, (m, 15)),
                "suppressed_logits": -_falling(random, m, 15),
                "coactive": random.integers(0, self.features, (m, ten)),
                "coactive_pmi": 9 * _falling(random, m, ten),
                "coactive_joint": (given * counts[:, None]).astype(np.int64) + 1,
                "coactive_given_this": given,
                "coactive_given_other": given[:, ::-1],
                "near": random.integers(0, self.features, (m, 10)),
                "near_cosine": _falling(random, m, 10),
                "topics": random.integers(0, len(TOPICS), (m, topics.shape[1])),
                "topic_counts": (topics * counts[:, None]).astype(np.int64),
                "topic_shares": topics,
                "topic_lifts": 1 + 9 * topics,
                "health": np.full((m, 1), "dense" if shape == _SHAPES - 1 else "dead")[:, : int(shape < 0)],
                "top_tokens_text": _joined(self.words[tokens]),
            }
            | ({"coherence": random.gamma(2, 1.5, m)} if shape > 0 else {}),
        )


def _bands(index_id: int, numbers: Ints, shape: int, random: np.random.Generator) -> list[bytes]:
    """The six bands of each feature, one after the other; a dead one has none. The lowest shape has few examples."""
    if shape < 0:
        return [b""] * len(numbers)
    sizes = [20, 5, 5, 5, 5, 5] if shape else [3, 1, 1, 1]
    lengths = 1 + (np.arange(sum(sizes)) * 7 % (1 + shape))  # non-zero activations in an example's sequence
    strengths = random.lognormal(2, 0.8, len(numbers))
    bands, done = [], 0
    for band, size in enumerate(sizes):
        strongest = 1.0 if band == 0 else band / 5
        activations = strengths[:, None] * strongest * _falling(random, len(numbers), size)
        bands.append(_band(index_id, numbers, band, activations, lengths[done : done + size], random))
        done += size
    return [b"".join(rows) for rows in zip(*bands, strict=True)]


def _band(
    index_id: int, numbers: Ints, band: int, activations: Floats, lengths: Ints, random: np.random.Generator
) -> list[bytes]:
    m = len(numbers)
    places, values, own = [], [], []
    for example, length in enumerate(lengths.tolist()):
        step = (LENGTH - 2) // length
        places.append(1 + step * np.arange(length) + random.integers(0, step, (m, length)))
        strengths = activations[:, example, None] * random.random((m, length))
        strengths[:, length // 2] = activations[:, example]
        values.append(strengths)
        own.append(places[-1][:, length // 2])
    return _encoded(
        ExampleBand,
        {
            "index_id": np.full(m, index_id),
            "feature": numbers,
            "band": np.full(m, band),
            "sequences": random.integers(0, SEQUENCES, (m, len(lengths))),
            "positions": np.stack(own, axis=1),
            "activations": activations,
            "lengths": np.tile(lengths, (m, 1)),
            "active_positions": np.concatenate(places, axis=1),
            "active_values": np.concatenate(values, axis=1),
        },
    )


def _falling(random: np.random.Generator, rows: int, columns: int) -> Floats:
    """Sample numbers in (0, 1), largest first in each row."""
    return np.sort(random.random((rows, columns)) ** 2, axis=1)[:, ::-1]


def _histogram(random: np.random.Generator, counts: Ints) -> Ints:
    """Return histograms of 50 bins: many weak activations, few strong ones."""
    weights = np.exp(-random.uniform(0.05, 0.4, (len(counts), 1)) * np.arange(50))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True) * counts[:, None]).astype(np.int64)


def _joined(words: NDArray[np.str_]) -> NDArray[np.bytes_]:
    """Join the words of each row with blanks, padded to the longest row's length."""
    texts = [" ".join(row).encode() for row in words.tolist()]
    width = max(1, *map(len, texts))
    return np.array([text.ljust(width) for text in texts], np.bytes_)


def _in_order(groups: Iterable[tuple[Ints, list[bytes]]]) -> bytes:
    """Yield the rows of all groups in order of their number."""
    rows = {number: row for numbers, encoded in groups for number, row in zip(numbers.tolist(), encoded, strict=True)}
    return b"".join(rows[number] for number in sorted(rows))


# --- Postgres' binary format


_CODES = {SmallInteger: ">i2", BigInteger: ">i8", Integer: ">i4", Double: ">f8", REAL: ">f4"}
_OIDS = {"i2": 21, "i4": 23, "f4": 700, "S": 25}
"""Postgres' type ids of array elements."""


def columns_of(table: type[Base]) -> list[str]:
    """Return the columns of encoded rows, in order."""
    return [column.name for column in table.__table__.columns]


def _encoded(table: type[Base], columns: Mapping[str, NDArray[Any]]) -> list[bytes]:
    """Encode rows for COPY: each field's length and bytes, numbers big-endian. Columns that are not given are null."""
    described = table.__table__
    assert isinstance(described, Table)
    types = {name: described.columns[name].type for name in columns_of(table)}
    fields = {name: _field(kind, columns.get(name)) for name, kind in types.items()}
    rows = np.zeros(len(next(iter(columns.values()))), np.dtype([("fields", ">i2"), *fields.items()]))
    rows["fields"] = len(fields)
    for name, kind in types.items():
        _fill(rows[name], kind, columns.get(name))
    size, block = rows.dtype.itemsize, rows.tobytes()
    return [block[start : start + size] for start in range(0, len(block), size)]


def _code(kind: TypeEngine[Any], values: NDArray[Any]) -> str:
    """Return numpy's type of one value; text is as wide as the widest of `values`."""
    number = next((code for type_, code in _CODES.items() if isinstance(kind, type_)), None)
    return number or f"S{max(1, values.dtype.itemsize // (4 if values.dtype.kind == 'U' else 1))}"


def _field(kind: TypeEngine[Any], values: NDArray[Any] | None) -> np.dtype[Any]:
    """Return the layout of a field: its length, then a value or an array; a null has a length alone."""
    if values is None:
        return np.dtype([("size", ">i4")])
    if not isinstance(kind, ARRAY):
        return np.dtype([("size", ">i4"), ("value", _code(kind, values))])
    head = [("size", ">i4"), ("dimensions", ">i4"), ("nulls", ">i4"), ("type", ">i4")]
    if not values.shape[1]:
        return np.dtype(head)
    item = np.dtype([("size", ">i4"), ("value", _code(kind.item_type, values))])
    return np.dtype([*head, ("length", ">i4"), ("lower", ">i4"), ("items", item, (values.shape[1],))])


def _fill(field: NDArray[Any], kind: TypeEngine[Any], values: NDArray[Any] | None) -> None:
    if values is None:
        field["size"] = -1
        return
    field["size"] = field.dtype.itemsize - 4
    if not isinstance(kind, ARRAY):
        field["value"] = values
        return
    code = np.dtype(_code(kind.item_type, values))
    field["type"] = _OIDS["S" if code.kind == "S" else f"{code.kind}{code.itemsize}"]
    if values.shape[1]:
        field["dimensions"], field["length"], field["lower"] = 1, values.shape[1], 1
        field["items"]["size"], field["items"]["value"] = code.itemsize, values
