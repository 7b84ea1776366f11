"""Items of blind tests, held to the dense activations that they are drawn from."""

from collections import Counter

import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries.held_out import example_sequences
from app.services.blind_items import BlindItem, BlindKind, BlindSnippet
from app.storage.blind_draw import draw_blind_items
from sae_core.evaluation.held_out import is_held_out
from sae_core.store.activation_store import ActivationStore
from tests.blind import OPTIONS, make_store
from tests.factories import Synthetic

pytestmark = pytest.mark.read_only
FEATURES = (0, 13, 15, 17)
OFTEN_SILENT = (13, 17)
"""Features of few tokens, with windows in which those leave them silent."""


@pytest.fixture(scope="session")
def made_options() -> dict[str, int]:
    return OPTIONS


@pytest.fixture(scope="module")
def store(module_made: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(module_made, tmp_path_factory.mktemp("blind") / "store")


async def drawn(
    session: AsyncSession, made: Synthetic, store: ActivationStore, feature: int, kind: BlindKind, seed: int = 3
) -> list[BlindItem]:
    """Draw a test, and hold its snippets to what holds for all kinds."""
    items = await draw_blind_items(session, made.sae, store, feature, kind=kind, seed=seed)
    snippets = [snippet for item in items for snippet in item.snippets]
    sequences = [snippet.sequence for snippet in snippets]
    assert len(set(sequences)) == len(sequences)
    assert made.sae.index is not None
    assert is_held_out(store.sequences_sha256, np.array(sequences)).all()
    assert not set(sequences) & await example_sequences(session, made.sae.index, feature)
    for snippet in snippets:
        row = dense(made, feature, snippet)
        assert snippet.active == tuple(np.flatnonzero(row))
        assert snippet.values == tuple(row[row > 0])
        shown = made.corpus.token_ids[snippet.sequence, snippet.start : snippet.start + 32]
        assert snippet.token_ids == tuple(shown.tolist())
    return items


def dense(made: Synthetic, feature: int, snippet: BlindSnippet) -> np.ndarray:
    return made.features.activations[feature, snippet.sequence, snippet.start : snippet.start + 32]


@pytest.mark.parametrize("feature", FEATURES)
async def test_detection_asks_of_all_bands_and_of_negatives_of_each_kind(
    module_made: Synthetic, session: AsyncSession, store: ActivationStore, feature: int
) -> None:
    items = await drawn(session, module_made, store, feature, "detection")
    why = Counter(item.why for item in items)
    positives = [item for item in items if item.truth]
    assert len(items) == 2 * len(positives) >= 10
    assert set(why) >= ({"random", "near_miss", "neighbour"} if feature in OFTEN_SILENT else {"random"})
    near = [near for near in module_made.features.rows()[feature].near if near != feature][:5]
    values = module_made.features.activations[feature]
    edges = np.quantile(values[values > 0], np.linspace(0, 1, 6)).astype(np.float32)
    strongest_tokens = {
        item.snippets[0].token_ids[int(dense(module_made, feature, item.snippets[0]).argmax())] for item in positives
    }
    for item in items:
        [snippet] = item.snippets
        row = dense(module_made, feature, snippet)
        assert snippet.marked == ()
        assert item.truth == int(row.any())
        if item.truth:
            band = int(item.why.removeprefix("band_"))
            assert edges[band - 1] - 1e-6 <= row.max() <= edges[band] + 1e-6
        if item.why == "near_miss":
            assert strongest_tokens & set(snippet.token_ids)
        if item.why == "neighbour":
            assert any(dense(module_made, other, snippet).any() for other in near)


@pytest.mark.parametrize("feature", FEATURES)
async def test_fuzzing_marks_the_active_tokens_or_as_many_others(
    module_made: Synthetic, session: AsyncSession, store: ActivationStore, feature: int
) -> None:
    items = await drawn(session, module_made, store, feature, "fuzzing")
    assert abs(sum(item.truth for item in items) - len(items) / 2) <= 0.5
    for item in items:
        [snippet] = item.snippets
        assert len(snippet.marked) == len(snippet.active) > 0
        if item.truth:
            assert snippet.marked == snippet.active
        else:
            assert item.why == "random_marks"
            assert not set(snippet.marked) & set(snippet.active)
            assert all(snippet.token_ids[place] != 0 for place in snippet.marked)  # no special token


async def test_one_snippet_of_five_is_the_intruder(
    module_made: Synthetic, session: AsyncSession, store: ActivationStore
) -> None:
    places = set()
    for feature in FEATURES:
        for item in await drawn(session, module_made, store, feature, "intruder"):
            assert [place for place, snippet in enumerate(item.snippets) if not snippet.active] == [item.truth]
            assert len(item.snippets) == 5
            assert all(snippet.marked for snippet in item.snippets)
            places.add(item.truth)
    assert len(places) > 2


async def test_the_seed_decides_and_the_order_does_not_tell(
    module_made: Synthetic, session: AsyncSession, store: ActivationStore
) -> None:
    first = await drawn(session, module_made, store, 0, "detection", seed=3)
    assert first == await drawn(session, module_made, store, 0, "detection", seed=3)
    assert first != await drawn(session, module_made, store, 0, "detection", seed=4)
    orders = {
        tuple(item.truth for item in await drawn(session, module_made, store, 0, "detection", seed=seed))
        for seed in range(6)
    }
    assert len(orders) == 6


async def test_too_few_snippets_or_none_without_the_feature_are_refused(
    module_made: Synthetic, session: AsyncSession, store: ActivationStore
) -> None:
    active = (module_made.features.activations > 0).any(axis=2).sum(axis=1)
    rare = int(active.argmin())
    with pytest.raises(Unprocessable, match="a test needs 5"):
        await draw_blind_items(session, module_made.sae, store, rare, kind="detection", seed=0)
    with pytest.raises(NotFound):
        await draw_blind_items(session, module_made.sae, store, 24, kind="detection", seed=0)


async def test_what_an_earlier_test_showed_is_left_out(
    module_made: Synthetic, session: AsyncSession, store: ActivationStore
) -> None:
    first = await drawn(session, module_made, store, 0, "detection")
    seen = {item.snippets[0].sequence for item in first}
    again = await draw_blind_items(session, module_made.sae, store, 0, kind="detection", seed=3, items=10, without=seen)
    assert len(again) == 10
    assert not seen & {item.snippets[0].sequence for item in again}
