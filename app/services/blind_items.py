"""Items of blind tests: held-out snippets, what is asked of them, and the truth."""

from dataclasses import dataclass
from typing import Literal, get_args

BlindKind = Literal["detection", "fuzzing", "intruder"]
BLIND_KINDS: tuple[BlindKind, ...] = get_args(BlindKind)
"""detection: is the feature active in this snippet? fuzzing: are the marked tokens those on which it is active?
intruder: which one of several snippets does not belong?"""

NEGATIVES = ("random", "near_miss", "neighbour")
"""Where a feature is not active: anywhere, beside a token on which it was active elsewhere, or where a feature with a
near decoder direction is active."""
RANDOM_MARKS = "random_marks"
"""Of fuzzing: the feature is active in the snippet, but other tokens are marked, as many."""

ITEMS = 20
"""Items of a test of detection or fuzzing, half of them positive."""
MAX_ITEMS = 100
INTRUDER_ITEMS = 5
INTRUDER_SNIPPETS = 5
"""Snippets per item of an intruder test; one of them does not belong."""
MIN_POSITIVES = 5
"""A test needs this many held-out snippets in which the feature is active."""


@dataclass(frozen=True, slots=True)
class BlindSnippet:
    """A window of a held-out sequence. `marked`, `active` and `values` refer to its tokens by place."""

    sequence: int
    start: int
    token_ids: tuple[int, ...]
    marked: tuple[int, ...]
    """Tokens that the tester sees marked; none in detection."""
    active: tuple[int, ...]
    """Tokens on which the feature is active."""
    values: tuple[float, ...]
    """Its activations on them."""


@dataclass(frozen=True, slots=True)
class BlindItem:
    """One question of a test, and its answer.

    `truth` is 1 or 0 where the answer is yes or no, and for an intruder its place among the snippets. `why` says where
    the snippet, or the intruder, is from: "band_1" to "band_5" by its strongest activation, one of `NEGATIVES`, or
    `RANDOM_MARKS`.
    """

    snippets: tuple[BlindSnippet, ...]
    truth: int
    why: str
