"""Draw the items of a blind test from an activation store, among sequences that nobody saw while labelling."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, repeat

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from app.errors import NotFound, Unprocessable
from app.queries.held_out import example_sequences, near_and_bands, sequence_tokens, sequences_with, special_tokens
from app.queries.saes import IndexInfo, SaeDetail
from app.services.blind_items import (
    INTRUDER_ITEMS,
    INTRUDER_SNIPPETS,
    ITEMS,
    MIN_POSITIVES,
    NEGATIVES,
    RANDOM_MARKS,
    BlindItem,
    BlindKind,
    BlindSnippet,
)
from sae_core.evaluation.held_out import WindowGrid, held_out_sequences
from sae_core.statistics.spec import BANDS
from sae_core.store.activation_store import ActivationStore, FeatureBlock

_SEARCHED = 2_000
"""Sequences that are searched for near misses."""
_NEAR = 5
"""Neighbours whose snippets are taken, the nearest first."""
_LEAST_TOKENS = 0.5
"""A snippet has at least this share of a window's tokens: the last of a sequence may be short."""


async def draw_blind_items(
    session: AsyncSession,
    sae: SaeDetail,
    store: ActivationStore,
    feature: int,
    *,
    kind: BlindKind,
    seed: int,
    items: int = ITEMS,
    without: Collection[int] = (),
) -> list[BlindItem]:
    """Draw a blind test of one feature: held-out snippets, in random order, with what is asked and the truth.

    No two snippets are from one sequence, and none from a sequence among the feature's stored examples. In a snippet
    that counts as negative the feature is active on no token. Where snippets of one kind do not suffice, random ones
    take their places.

    Args:
        session: to read the text with.
        sae: with an index.
        store: of that index.
        feature: its number.
        kind: of test.
        seed: equal seeds give the same test.
        items: of a test of detection or fuzzing, half of them positive; an intruder test has `INTRUDER_ITEMS`.
        without: sequences to leave out besides, such as those that an earlier test showed.

    Raises:
        NotFound: there is no such feature, or no index.
        Unprocessable: too few held-out snippets show the feature, or too few do not.
    """
    if sae.index is None or feature not in range(sae.d_sae):
        raise NotFound("There is no such feature.")
    draw = await _prepare(session, sae, sae.index, store, feature, seed, without)
    match kind:
        case "detection":
            drawn = await draw.detection(items // 2)
        case "fuzzing":
            drawn = await draw.fuzzing(items // 2)
        case "intruder":
            drawn = await draw.intruder()
    return [drawn[place] for place in draw.random.permutation(len(drawn))]


async def _prepare(
    session: AsyncSession,
    sae: SaeDetail,
    index: IndexInfo,
    store: ActivationStore,
    feature: int,
    seed: int,
    without: Collection[int],
) -> "_Draw":
    shown = await example_sequences(session, index, feature) | set(without)
    near, edges = await near_and_bands(session, index, feature)
    count = index.sequence_set.sequences
    allowed = await run_in_threadpool(held_out_sequences, store.sequences_sha256, count, without=shown)
    block = await run_in_threadpool(store.block, feature, feature + 1)
    return _Draw(
        session=session,
        index=index,
        store=store,
        near=near[:_NEAR],
        band_edges=edges,
        special=await special_tokens(session, sae.model.id),
        allowed=allowed,
        block=block,
        random=np.random.default_rng([seed, feature]),
    )


@dataclass
class _Draw:
    """One test being drawn."""

    session: AsyncSession
    index: IndexInfo
    store: ActivationStore
    near: list[int]
    band_edges: list[float]
    special: set[int]
    """Tokens that are never marked."""
    allowed: NDArray[np.int64]
    """Sequences from which snippets may be, ascending."""
    block: FeatureBlock
    """Of the feature."""
    random: np.random.Generator
    used: set[int] = field(default_factory=set)
    """Sequences from which a snippet was taken."""

    def __post_init__(self) -> None:
        self.grid = WindowGrid(self.index.sequence_set.length)
        self.own = self.grid.active(self.block)
        self.texts: dict[int, list[int]] = {}

    async def detection(self, half: int) -> list[BlindItem]:
        """Return as many snippets in which the feature is active as others."""
        positives = await self._positives(half, _alternating())
        items = [BlindItem((self._snippet(window),), 1, f"band_{band}") for window, band in positives]
        negatives = await self._negatives(len(items), [window for window, _ in positives])
        return items + [BlindItem((self._snippet(window),), 0, why) for window, why in negatives]

    async def fuzzing(self, half: int) -> list[BlindItem]:
        """Return snippets in which the feature is active: in one half those tokens are marked, in the other others."""
        positives = await self._positives(2 * half, _alternating(), markable=True)
        items = []
        for place, (window, band) in enumerate(positives):
            is_true = place % 2 == 0  # bands come in turns of five, so both halves have all of them
            snippet = self._snippet(window)
            marked = snippet.active if is_true else self._random_marks(snippet, len(snippet.active))
            items.append(
                BlindItem((_marked(snippet, marked),), int(is_true), f"band_{band}" if is_true else RANDOM_MARKS)
            )
        return items

    async def intruder(self) -> list[BlindItem]:
        """Return groups of snippets of one band, each with an intruder.

        In the intruder random tokens are marked, as many as the feature is active on in one of the others.
        """
        per_item = INTRUDER_SNIPPETS - 1
        positives = await self._positives(INTRUDER_ITEMS * per_item, _in_groups(per_item), markable=True)
        groups = [positives[i : i + per_item] for i in range(0, len(positives) - per_item + 1, per_item)]
        if not groups:
            raise self._too_few()
        intruders = await self._negatives(len(groups), [window for window, _ in positives])
        items = []
        for group, (window, why) in zip(groups, intruders, strict=True):
            belong = [self._snippet(each) for each, _ in group]
            shown = [_marked(snippet, snippet.active) for snippet in belong]
            like = belong[int(self.random.integers(per_item))]
            odd = self._snippet(window)
            truth = int(self.random.integers(INTRUDER_SNIPPETS))
            shown.insert(truth, _marked(odd, self._random_marks(odd, len(like.active))))
            items.append(BlindItem(tuple(shown), truth, why))
        return items

    # --- positives

    async def _positives(self, count: int, bands: Iterator[int], *, markable: bool = False) -> list[tuple[int, int]]:
        """Return windows in which the feature is active, each with the band of its strongest activation.

        Args:
            count: wanted; fewer come where there are no more.
            bands: the band wanted of each. Another takes the place of one that has no more.
            markable: leave out windows that are too short for as many random marks.
        """
        left = self._by_band()
        await self._load({self.grid.sequence(window) for windows in left.values() for window in windows[:_SEARCHED]})
        taken: list[tuple[int, int]] = []
        for wanted in bands:
            window = None
            for band in sorted(left, key=lambda other: abs(other - wanted)):
                window = self._take(left[band], markable=markable)
                if window is not None:
                    taken.append((window, band))
                    break
            if window is None or len(taken) == count:
                break
        if len(taken) < MIN_POSITIVES:
            raise self._too_few()
        return taken

    def _by_band(self) -> dict[int, list[int]]:
        """Return the allowed windows in which the feature is active by band, each shuffled."""
        places = np.flatnonzero(np.isin(self.own.number // self.grid.per_sequence, self.allowed))
        found: dict[int, list[int]] = {band: [] for band in range(1, BANDS + 1)}
        for place in self.random.permutation(places):
            band = bisect_left(self.band_edges[1:-1], float(self.own.peak[place])) + 1
            found[band].append(int(self.own.number[place]))
        return found

    def _take(self, windows: list[int], *, markable: bool = False) -> int | None:
        """Take the first of the windows that can be shown and whose sequence was not used; None if there is none."""
        while windows:
            window = windows.pop(0)
            if self.grid.sequence(window) in self.used or not self._long_enough(window):
                continue
            if markable and 2 * len(self.grid.activations(self.block, window)) > len(self._tokens(window)):
                continue
            self.used.add(self.grid.sequence(window))
            return window
        return None

    # --- negatives

    async def _negatives(self, count: int, positives: Sequence[int]) -> list[tuple[int, str]]:
        """Return windows in which the feature is not active, and which kind of negative each is."""
        sources = {
            "neighbour": await self._of_neighbours(),
            "near_miss": await self._near_misses(positives),
            "random": await self._anywhere(),
        }
        taken: list[tuple[int, str]] = []
        for place in range(count):
            why = NEGATIVES[place % len(NEGATIVES)]
            window = self._take(sources[why])
            if window is None:
                why, window = "random", self._take(sources["random"])
            if window is None:
                raise Unprocessable(
                    f"Feature {self.block.start} is active nearly everywhere: too few held-out snippets are without "
                    "it, so no test can be drawn."
                )
            taken.append((window, why))
        return taken

    async def _of_neighbours(self) -> list[int]:
        """Return windows in which a near feature is active, the nearest feature's first."""
        found: list[int] = []
        for other in self.near:
            if other == self.block.start:
                continue
            block = await run_in_threadpool(self.store.block, other, other + 1)
            found += self._inactive(self.grid.active(block).number)
        await self._load(map(self.grid.sequence, found[:_SEARCHED]))
        return found[:_SEARCHED]

    async def _near_misses(self, positives: Sequence[int]) -> list[int]:
        """Return windows with a token on which the feature is active in one of the positives."""
        strongest = dict(zip(self.own.number.tolist(), self.own.position.tolist(), strict=True))
        tokens = {self.texts[self.grid.sequence(window)][strongest[window]] for window in positives}
        searched = self.random.permutation(self.allowed)[:_SEARCHED].tolist()
        texts = await sequences_with(self.session, self.index, searched, tokens, limit=_SEARCHED)
        self.texts |= texts
        windows = [window for sequence in texts for window in self._windows(sequence)]
        return [window for window in self._inactive(np.array(windows, np.int64)) if tokens & set(self._tokens(window))]

    async def _anywhere(self) -> list[int]:
        """Return windows from random sequences."""
        sequences = self.random.permutation(self.allowed)[:_SEARCHED].tolist()
        await self._load(sequences)
        return self._inactive(np.array([w for sequence in sequences for w in self._windows(sequence)], np.int64))

    def _inactive(self, windows: NDArray[np.int64]) -> list[int]:
        """Return those of the windows that are allowed and in which the feature is not active, shuffled."""
        allowed = np.isin(windows // self.grid.per_sequence, self.allowed) & ~np.isin(windows, self.own.number)
        return [int(window) for window in self.random.permutation(windows[allowed])]

    # --- text

    async def _load(self, sequences: Iterable[int]) -> None:
        missing = set(sequences) - self.texts.keys()
        if missing:
            self.texts |= await sequence_tokens(self.session, self.index, missing)

    def _windows(self, sequence: int) -> range:
        return range(sequence * self.grid.per_sequence, (sequence + 1) * self.grid.per_sequence)

    def _tokens(self, window: int) -> list[int]:
        start = self.grid.start(window)
        return self.texts.get(self.grid.sequence(window), [])[start : start + self.grid.size]

    def _long_enough(self, window: int) -> bool:
        return len(self._tokens(window)) >= self.grid.size * _LEAST_TOKENS

    def _snippet(self, window: int) -> BlindSnippet:
        activations = self.grid.activations(self.block, window)
        return BlindSnippet(
            sequence=self.grid.sequence(window),
            start=self.grid.start(window),
            token_ids=tuple(self._tokens(window)),
            marked=(),
            active=tuple(activations),
            values=tuple(activations.values()),
        )

    def _random_marks(self, snippet: BlindSnippet, count: int) -> tuple[int, ...]:
        """Draw tokens on which the feature is not active, in order of place."""
        places = [
            place
            for place, token in enumerate(snippet.token_ids)
            if place not in snippet.active and token not in self.special
        ]
        return tuple(sorted(self.random.permutation(places)[:count].tolist()))

    def _too_few(self) -> Unprocessable:
        return Unprocessable(
            f"Too few held-out snippets show feature {self.block.start} of which no earlier test told the truth: a "
            f"test needs {MIN_POSITIVES}. Let somebody else make one, or index a larger corpus."
        )


def _marked(snippet: BlindSnippet, places: tuple[int, ...]) -> BlindSnippet:
    return replace(snippet, marked=places)


def _alternating() -> Iterator[int]:
    """Yield the bands in turns, the strongest first."""
    return cycle(range(BANDS, 0, -1))


def _in_groups(size: int) -> Iterator[int]:
    """Yield each band `size` times, the strongest first, then all of them again."""
    return chain.from_iterable(repeat(band, size) for band in _alternating())
