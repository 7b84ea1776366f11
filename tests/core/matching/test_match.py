"""Matching two SAEs against a dense reference that reads as the definitions do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.errors import ArtifactError
from sae_core.matching import Counterparts, Matching, Partners, match_features, pairs
from sae_core.saes import SAEConfig
from sae_core.statistics import nearest
from sae_core.store.activation_store import ActivationStore, build_store
from tests.core.statistics import small
from tests.core.statistics.small import Cut, Identity

SEQUENCES = small.small_sequences()
N, M, D = small.FEATURES, 24, 16
TOKENS = int(SEQUENCES.counted.sum())

FIRST_PART, SECOND_PART, RIVAL, TWIN, LATER_TWIN, EVERYWHERE, SELDOM, DEAD = range(8)
"""Features of `b`: two parts of `a`'s PARENT, one like them in another direction, equals, and others."""
PARENT, OTHER_PARENT = 20, 21


def activations() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    a = small.small_activations(SEQUENCES, seed=3)
    shape = SEQUENCES.counted.shape
    # Features of `b` are noisy sums of a few of `a`, so that there is something to find.
    mix = (random.random((N, M)) < 0.05) * random.uniform(0.2, 2, (N, M))
    b = (a @ mix).astype(np.float32) * (random.random((*shape, M)) < 0.8)
    a[:, :, PARENT] = a[:, :, OTHER_PARENT] = random.gamma(1, 2, shape) * (random.random(shape) < 0.08)
    on = a[:, :, PARENT] > 0
    a[:, :, OTHER_PARENT] += random.random(shape) < 0.01  # more frequent still, and so the better by tokens
    half = random.random(shape) < 0.5
    b[:, :, FIRST_PART] = on & half
    b[:, :, SECOND_PART] = 3 * (on & ~half & (random.random(shape) < 0.7))
    b[:, :, RIVAL] = on & half
    b[:, :, LATER_TWIN] = b[:, :, TWIN] = a[:, :, 30]
    b[:, :, EVERYWHERE] = 1.0  # constant: correlates with nothing
    b[:, :, SELDOM] = 0
    b[5, [4, 5], SELDOM] = 1
    b[:, :, DEAD] = 0
    return a.astype(np.float32), b.astype(np.float32)


A, B = activations()


def decoders() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    W_a, W_b = torch.randn(N, D, generator=generator), torch.randn(M, D, generator=generator)
    for part in (FIRST_PART, SECOND_PART):
        W_b[part] = 2 * W_a[PARENT] + 0.3 * W_b[part]
    W_b[RIVAL] = -W_a[PARENT]
    W_a[OTHER_PARENT] = W_a[PARENT] + W_a[OTHER_PARENT]
    W_b[TWIN] = W_b[LATER_TWIN] = 5 * W_a[30]
    W_b[DEAD] = 0
    return W_a, W_b


W_A, W_B = decoders()


def store_of(f: np.ndarray, folder: Path, cuts: list[int]) -> ActivationStore:
    sae = Identity(SAEConfig(d_in=f.shape[2], d_sae=f.shape[2]))
    return build_store(sae, Cut(f, cuts), SEQUENCES, folder)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ActivationStore, ActivationStore]:
    folder = tmp_path_factory.mktemp("stores")
    return store_of(A, folder / "a", [10, 11, 30]), store_of(B, folder / "b", [17])


@pytest.fixture(scope="module")
def found(stores: tuple[ActivationStore, ActivationStore]) -> Matching:
    return match_features(W_A, W_B, stores)


class Dense:
    """Every pair of features, over every counted token."""

    def __init__(self, f: np.ndarray, other: np.ndarray, W: torch.Tensor, W_other: torch.Tensor) -> None:
        counted = SEQUENCES.counted.reshape(-1)
        self.f, self.other = (x.reshape(-1, x.shape[2])[counted].astype(np.float64) for x in (f, other))
        self.on, self.other_on = self.f > 0, self.other > 0
        self.joint = self.on.T.astype(int) @ self.other_on.astype(int)
        x, y = W.double().numpy(), W_other.double().numpy()
        norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
        self.cosine = np.divide(x @ y.T, norms, out=np.zeros((len(x), len(y))), where=norms > 0)
        n = len(x)
        with np.errstate(invalid="ignore", divide="ignore"):
            self.correlation = np.nan_to_num(np.corrcoef(self.f.T, self.other.T)[:n, n:])
        self.correlation[:, self.other.std(axis=0) == 0] = 0
        self.correlation[self.f.std(axis=0) == 0] = 0

    def near(self, i: int) -> float:
        return float(self.cosine[i].max())

    def coactive(self, i: int) -> float | None:
        known = [
            self.correlation[i, j]
            for j in range(self.joint.shape[1])
            if self.joint[i, j] >= 5 and self.correlation[i, j] > 1e-9
        ]
        return max(known, default=None)

    def parent(self, i: int) -> int | None:
        count, others = int(self.on[:, i].sum()), self.other_on.sum(axis=0)
        candidates = [
            j
            for j in range(len(others))
            if count >= 10
            and others[j] > count
            and others[j] <= 0.1 * TOKENS
            and self.joint[i, j] >= count / 2
            and self.cosine[i, j] >= 0.3
        ]
        return max(candidates, key=lambda j: self.cosine[i, j], default=None)

    def covered(self, i: int, parts: list[int]) -> int:
        return int((self.on[:, i] & self.other_on[:, parts].any(axis=1)).sum())


FROM_A, FROM_B = Dense(A, B, W_A, W_B), Dense(B, A, W_B, W_A)


def check_pair(partners: Partners, i: int, dense: Dense) -> None:
    j = int(partners.ids[i])
    assert partners.cosine[i] == pytest.approx(dense.cosine[i, j], abs=1e-5)
    assert partners.correlation[i] == pytest.approx(dense.correlation[i, j], abs=1e-5)
    assert partners.joint[i] == dense.joint[i, j]


@pytest.mark.parametrize("side", ["a", "b"])
def test_partners_are_those_of_the_definitions(found: Matching, side: str) -> None:
    ours: Counterparts = getattr(found, side)
    dense, back = (FROM_A, FROM_B) if side == "a" else (FROM_B, FROM_A)
    assert ours.count.tolist() == dense.on.sum(axis=0).tolist()
    assert found.tokens == TOKENS
    parents = [back.parent(j) for j in range(len(back.cosine))]
    for i in range(len(dense.cosine)):
        assert ours.near.cosine[i] == pytest.approx(dense.near(i), abs=1e-5)
        check_pair(ours.near, i, dense)
        best = dense.coactive(i)
        if best is None:
            assert ours.coactive.ids[i] == -1
            assert ours.coactive.correlation[i] == ours.coactive.joint[i] == 0
        else:
            assert ours.coactive.correlation[i] == pytest.approx(best, abs=1e-5)
            check_pair(ours.coactive, i, dense)
        parent = dense.parent(i)
        assert ours.parent.ids[i] == (-1 if parent is None else parent)
        if parent is not None:
            check_pair(ours.parent, i, dense)
        parts = [j for j, whose in enumerate(parents) if whose == i]
        assert ours.parts[i] == len(parts)
        assert ours.covered[i] == dense.covered(i, parts)


def test_planted_parts_are_found(found: Matching) -> None:
    assert found.b.parent.ids[[FIRST_PART, SECOND_PART, RIVAL, SELDOM, DEAD, EVERYWHERE]].tolist() == [
        PARENT,
        PARENT,
        *[-1] * 4,
    ]
    assert found.a.parts[PARENT] == 2
    assert 0.7 * found.a.count[PARENT] < found.a.covered[PARENT] < found.a.count[PARENT]


def test_ties_go_to_the_lower_index_and_to_one_only(found: Matching) -> None:
    assert found.a.near.ids[30] == found.a.coactive.ids[30] == TWIN
    assert found.b.near.ids[[TWIN, LATER_TWIN]].tolist() == [30, 30]
    assert found.b.near_matched[[TWIN, LATER_TWIN]].tolist() == [True, False]
    assert found.b.coactive_matched[[TWIN, LATER_TWIN]].tolist() == [True, False]
    assert found.a.near_matched[30]
    assert found.a.coactive_matched[30]


@pytest.mark.parametrize("how", ["near", "coactive"])
def test_matches_are_one_to_one_and_above_the_floor(found: Matching, how: str) -> None:
    a, b = getattr(found.a, how), getattr(found.b, how)
    matched = {i: int(a.ids[i]) for i in np.flatnonzero(getattr(found.a, f"{how}_matched"))}
    back = {int(b.ids[j]): int(j) for j in np.flatnonzero(getattr(found.b, f"{how}_matched"))}
    assert matched == back
    value = a.cosine if how == "near" else a.correlation
    mutual = [i for i in range(N) if a.ids[i] >= 0 and b.ids[a.ids[i]] == i]
    assert sorted(matched) == [i for i in mutual if value[i] >= 0.5]
    assert 0 < len(matched) < len(mutual)


def test_features_that_never_vary_or_never_fire_correlate_with_nothing(found: Matching) -> None:
    assert found.b.coactive.ids[[EVERYWHERE, DEAD, SELDOM]].tolist() == [-1, -1, -1]
    assert found.b.near.cosine[DEAD] == 0


def test_results_do_not_depend_on_blocks_chunks_and_shards(
    stores: tuple[ActivationStore, ActivationStore],
    found: Matching,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nearest, "ROWS", 8)
    monkeypatch.setattr(pairs, "PAIRS", 16 * M)
    monkeypatch.setattr(pairs, "CHUNK_NONZEROS", 300)
    again = match_features(W_A, W_B, (store_of(A, tmp_path / "a", [1, 13, 14, 39]), stores[1]))
    swapped = match_features(W_B, W_A, stores[::-1])
    for other in (again, Matching(swapped.b, swapped.a, swapped.tokens)):
        for side in ("a", "b"):
            ours, theirs = getattr(found, side), getattr(other, side)
            for name in ("count", "parts", "covered", "near_matched", "coactive_matched"):
                assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
            for how in ("near", "coactive", "parent"):
                mine, yours = getattr(ours, how), getattr(theirs, how)
                assert mine.ids.tolist() == yours.ids.tolist()
                assert mine.joint.tolist() == yours.joint.tolist()
                np.testing.assert_allclose(mine.cosine, yours.cosine, atol=1e-6)
                np.testing.assert_allclose(mine.correlation, yours.correlation, atol=1e-6)


def test_without_stores_only_directions_are_compared(found: Matching) -> None:
    bare = match_features(W_A, W_B, None)
    assert bare.tokens == 0
    assert bare.a.near.ids.tolist() == found.a.near.ids.tolist()
    assert bare.b.near_matched.tolist() == found.b.near_matched.tolist()
    for side in (bare.a, bare.b):
        assert (side.coactive.ids == -1).all()
        assert (side.parent.ids == -1).all()
        assert not side.count.any()
        assert not side.parts.any()
        assert not side.near.correlation.any()


def test_decoders_and_stores_that_cannot_be_compared_are_refused(
    stores: tuple[ActivationStore, ActivationStore], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="16 and 15 dimensions"):
        match_features(W_A, W_B[:, :15], None)
    with pytest.raises(ArtifactError, match="not those of these SAEs"):
        match_features(W_A, W_B, stores[::-1])
    sequences = small.small_sequences(seed=9)
    sae = Identity(SAEConfig(d_in=M, d_sae=M))
    elsewhere = build_store(sae, Cut(B), sequences, tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="different sequences"):
        match_features(W_A, W_B, (stores[0], elsewhere))


def test_progress_is_reported_and_ends_at_the_total(stores: tuple[ActivationStore, ActivationStore]) -> None:
    told: list[tuple[int, int]] = []
    match_features(W_A, W_B, stores, progress=lambda done, total, metrics=None, /: told.append((done, total)))
    assert told[-1] == (N, N)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
