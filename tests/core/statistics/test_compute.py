"""The statistics equal those by brute force, and do not depend on blocks and shards."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_core.errors import ArtifactError
from sae_core.models import InputTokens, OutputDirections
from sae_core.statistics import coactivation, coherence, ranges, token_table
from sae_core.statistics.compute import compute_statistics
from sae_core.statistics.spec import BY_NAME, HEALTH_FLAGS, RANKED_LISTS
from sae_core.statistics.types import Examples, FeatureStatistics
from sae_core.store import activation_store
from sae_core.store.activation_store import ActivationStore, build_store
from tests.core.statistics import small
from tests.core.statistics.brute_force import Dense
from tests.core.statistics.small import Cut

SEED = 5
SEQUENCES = small.small_sequences()
F = small.small_activations(SEQUENCES)
SAE = small.small_sae()
OUTPUT = OutputDirections(
    torch.randn(small.FEATURES, 50, generator=torch.Generator().manual_seed(2)), torch.arange(0, 150, 3)
)
NONE = "the test says so"
TOKENS = InputTokens(
    torch.randn(small.VOCABULARY, 8, generator=torch.Generator().manual_seed(3)), np.arange(small.VOCABULARY) // 2
)
DENSE = Dense(F, SEQUENCES, SAE.W_dec.detach().numpy())
EVERY = range(small.FEATURES)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return build_store(SAE, Cut(F, [10, 11, 30]), SEQUENCES, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def found(built: ActivationStore) -> FeatureStatistics:
    return compute_statistics(built, SEQUENCES, SAE, OUTPUT, TOKENS, seed=SEED)


def listed(ids: np.ndarray, *columns: np.ndarray) -> list[tuple]:
    """One feature's list as tuples, up to the first -1; only padding follows."""
    size = int((ids >= 0).sum())
    assert (ids[size:] == -1).all()
    assert all((column[size:] == 0).all() for column in columns)
    return [tuple(column[i].item() for column in (ids, *columns)) for i in range(size)]


def close(ours: list[tuple], reference: list[tuple]) -> None:
    """Whole numbers exactly, others to float tolerance."""
    assert len(ours) == len(reference)
    for mine, theirs in zip(ours, reference, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a == (pytest.approx(b, rel=1e-5) if isinstance(b, float) else b)


def test_the_arrays_are_those_declared(found: FeatureStatistics) -> None:
    assert {*found.arrays, "health"} == set(BY_NAME)
    assert tuple(found.health) == HEALTH_FLAGS
    for ranked in RANKED_LISTS:
        assert {found[statistic.name].shape for statistic in ranked.statistics} == {(small.FEATURES, ranked.length)}


def test_a_statistic_that_is_not_declared_is_refused(found: FeatureStatistics) -> None:
    with pytest.raises(ValueError, match=r"spec\.py are not the same: median"):
        dataclasses.replace(found, arrays={**found.arrays, "median": found["mean"]})


def test_counts_and_moments(found: FeatureStatistics) -> None:
    assert found.tokens == DENSE.tokens
    for i in EVERY:
        values = np.array([value for *_, value in DENSE.active(i)])
        assert found["count"][i] == len(values)
        assert found["density"][i] == len(values) / DENSE.tokens
        assert found["max"][i] == max(values, default=0)
        assert found["mean"][i] == pytest.approx(values.mean() if len(values) else 0, rel=1e-6)
        assert found["histogram"][i].tolist() == DENSE.histogram(i)
        assert found["band_edges"][i].tolist() == DENSE.band_edges(i)


def test_coherence(found: FeatureStatistics) -> None:
    for i in EVERY:
        reference = DENSE.coherence(i, SEED, TOKENS.embeddings.double().numpy(), TOKENS.spellings)
        assert found["coherence"][i] == pytest.approx(reference, rel=1e-5, nan_ok=True)
    assert np.isnan(found["coherence"][[small.DEAD, small.ONCE, small.FEW_SEQUENCES]]).all()
    assert np.isfinite(found["coherence"]).sum() > small.FEATURES / 2


def test_the_coherence_of_a_token_is_the_information_of_its_word(found: FeatureStatistics) -> None:
    share = np.isin(SEQUENCES.token_ids[SEQUENCES.counted], [4, 5]).mean()
    assert found["coherence"][small.TOKEN] == pytest.approx(-np.log2(share), rel=1e-6)


def examples_of(examples: Examples, feature: int) -> dict[tuple[int, int], tuple[int, int, float]]:
    mine = np.flatnonzero(examples.feature == feature)
    return {
        (int(examples.band[i]), int(examples.rank[i])): (
            int(examples.sequence[i]),
            int(examples.position[i]),
            float(examples.activation[i]),
        )
        for i in mine
    }


def test_top_and_band_examples(found: FeatureStatistics) -> None:
    for i in EVERY:
        top = {(0, rank): run for rank, run in enumerate(DENSE.top_examples(i))}
        assert examples_of(found.examples, i) == top | DENSE.band_examples(i, SEED)


def test_examples_hold_every_activation_of_their_sequence_and_are_sorted(found: FeatureStatistics) -> None:
    examples = found.examples
    for i in range(len(examples)):
        entries = slice(examples.indptr[i], examples.indptr[i + 1])
        whole = DENSE.f[examples.sequence[i], :, examples.feature[i]]
        assert examples.positions[entries].tolist() == np.flatnonzero(whole).tolist()
        assert examples.values[entries].tolist() == whole[whole > 0].tolist()
    order = np.lexsort((examples.rank, examples.band, examples.feature))
    assert (order == np.arange(len(order))).all()


def test_a_feature_of_few_sequences_has_examples_in_every_band(found: FeatureStatistics) -> None:
    drawn = [key for key in examples_of(found.examples, small.FEW_SEQUENCES) if key[0] > 0]
    assert sorted(drawn) == [(band, 0) for band in (1, 2, 3, 4, 5)]


def test_another_seed_draws_other_examples(built: ActivationStore, found: FeatureStatistics) -> None:
    other = compute_statistics(built, SEQUENCES, SAE, OUTPUT, TOKENS, seed=SEED + 1)
    assert examples_of(other.examples, small.DENSE) != examples_of(found.examples, small.DENSE)
    assert (other["histogram"] == found["histogram"]).all()


def test_top_tokens(found: FeatureStatistics) -> None:
    for i in EVERY:
        columns = found["top_token_counts"][i], found["top_token_shares"][i], found["top_token_means"][i]
        close(listed(found["top_token_ids"][i], *columns), DENSE.top_tokens(i))


@pytest.mark.parametrize("held", [0, token_table.HELD_BYTES])
@pytest.mark.parametrize("floor", [coactivation.COACTIVE_MIN_GIVEN_THIS, 0.15])
def test_coactive_features(built: ActivationStore, floor: float, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_table, "HELD_BYTES", held)
    monkeypatch.setattr(coactivation, "COACTIVE_MIN_GIVEN_THIS", floor)
    found = compute_statistics(built, SEQUENCES, SAE, NONE, TOKENS)
    for i in EVERY:
        columns = (
            found["coactive_pmi"][i],
            found["coactive_joint"][i],
            found["coactive_given_this"][i],
            found["coactive_given_other"][i],
        )
        close(listed(found["coactive"][i], *columns), DENSE.coactive(i, floor))
    assert found["coactive"][small.TWIN, 0] == small.OTHER_TWIN


def test_near_decoders(found: FeatureStatistics) -> None:
    for i in EVERY:
        close(listed(found["near"][i], found["near_cosine"][i]), DENSE.near(i))


def test_topics(found: FeatureStatistics) -> None:
    topics, names = found["topics"], found.topic_names
    for i in EVERY:
        mine = listed(topics[i], found["topic_counts"][i], found["topic_shares"][i], found["topic_lifts"][i])
        close([(names[number], *rest) for number, *rest in mine], DENSE.topics(i))
    assert names[topics[small.TOPIC, 0]] == "Law"
    assert found["count"][small.ONE_DOCUMENT] >= 10
    assert (topics[small.ONE_DOCUMENT] == -1).all()


def test_output_tokens(found: FeatureStatistics) -> None:
    for i in EVERY:
        ranked = DENSE.output_tokens(i, OUTPUT.by_token.double().numpy(), OUTPUT.token_ids.numpy())
        close(listed(found["promoted_ids"][i], found["promoted_logits"][i]), ranked[:15])
        close(listed(found["suppressed_ids"][i], found["suppressed_logits"][i]), ranked[::-1][:15])


def test_there_are_no_output_tokens_outside_the_residual_stream(built: ActivationStore) -> None:
    without = compute_statistics(built, SEQUENCES, SAE, NONE, TOKENS)
    assert (without["promoted_ids"] == -1).all()
    assert (without["suppressed_ids"] == -1).all()
    assert without.provenance["output_tokens"] == {"absent": NONE}


def test_health_flags(found: FeatureStatistics) -> None:
    for i in EVERY:
        assert {flag: bool(found.health[flag][i]) for flag in found.health} == DENSE.health(i)


def test_planted_features_have_their_flags(found: FeatureStatistics) -> None:
    flagged = {flag: set(np.flatnonzero(values).tolist()) for flag, values in found.health.items()}
    assert flagged["dead"] == {small.DEAD}
    assert small.DENSE in flagged["dense"]
    assert flagged["duplicate"] == {small.TWIN, small.OTHER_TWIN}
    assert found["near_cosine"][[small.DEAD, small.SPLIT], 0].min() > 0.95
    assert DENSE.joint[small.SPLIT, small.OTHER_SPLIT] > 0
    assert flagged["positional"] == {small.POSITION}
    assert flagged["special_token"] == {small.AFTER_SPECIAL}
    assert flagged["single_token"] == {small.TOKEN, small.ABSORBER}
    assert small.PART in flagged["splitting"]
    assert small.ABSORBER in flagged["absorption"]
    assert not {small.PARENT, small.ABSORBER} & flagged["splitting"]
    assert not {small.PARENT, small.PART} & flagged["absorption"]


def digest(found: FeatureStatistics) -> str:
    """Hash of every byte of the statistics."""
    parts = hashlib.sha256()

    def add(value: object) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                add(getattr(value, field.name))
        elif isinstance(value, np.ndarray):
            parts.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values()):
            for key in sorted(value):
                add(value[key])
        else:
            parts.update(json.dumps(value, sort_keys=True).encode())

    add(found)
    return parts.hexdigest()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.sets(st.integers(1, small.SEQUENCES - 1), max_size=12),
    nonzeros=st.integers(1, 4000),
    piece=st.integers(1, 4000),
    features=st.integers(1, 80),
    encoded=st.integers(1, 300),
    held=st.booleans(),
)
def test_bytes_do_not_depend_on_shards_and_blocks(
    cuts: set[int],
    nonzeros: int,
    piece: int,
    features: int,
    encoded: int,
    held: bool,
    found: FeatureStatistics,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_store, "ENCODE_TOKENS", encoded)
        patch.setattr(ranges, "BLOCK_NONZEROS", nonzeros)
        patch.setattr(ranges, "BLOCK_FEATURES", features)
        patch.setattr(ranges, "PIECE_NONZEROS", piece)
        patch.setattr(coherence, "BLOCK_FEATURES", features)
        patch.setattr(token_table, "HELD_BYTES", token_table.HELD_BYTES if held else 0)
        patch.setattr(token_table, "CHUNK_NONZEROS", nonzeros)
        patch.setattr(coactivation, "CHUNK_NONZEROS", nonzeros)
        patch.setattr(coactivation, "TABLE_ROWS", features)
        patch.setattr(coactivation, "OWN_NONZEROS", nonzeros)
        patch.setattr(coactivation, "JOINT_BYTES", 4 * small.FEATURES * features)
        patch.setattr(coactivation, "ROWS", features)
        folder: Path = tmp_path_factory.mktemp("store")
        other = build_store(SAE, Cut(F, sorted(cuts)), SEQUENCES, folder)
        assert digest(compute_statistics(other, SEQUENCES, SAE, OUTPUT, TOKENS, seed=SEED)) == digest(found)


def test_an_empty_store_has_dead_features_only(tmp_path: Path) -> None:
    nothing = build_store(SAE, Cut(np.zeros_like(F)), SEQUENCES, tmp_path)
    found = compute_statistics(nothing, SEQUENCES, SAE, OUTPUT, TOKENS)
    assert found.health["dead"].all()
    assert len(found.examples) == 0
    assert (found["coactive"] == -1).all()
    assert (found["near"] >= 0).all()


def test_progress_counts_features_to_the_end(built: ActivationStore) -> None:
    reports: list[tuple[int, int]] = []
    compute_statistics(
        built, SEQUENCES, SAE, OUTPUT, TOKENS, progress=lambda done, total, _=None, /: reports.append((done, total))
    )
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (small.FEATURES, small.FEATURES)


def test_a_store_of_another_sae_is_refused(built: ActivationStore) -> None:
    with pytest.raises(ArtifactError, match="another SAE"):
        compute_statistics(built, SEQUENCES, small.small_sae(seed=1), NONE, TOKENS)


def test_provenance_is_json_and_names_what_was_used(found: FeatureStatistics) -> None:
    provenance = json.loads(json.dumps(found.provenance))
    assert provenance["seed"] == SEED
    assert provenance["store"]["sequences_sha256"] == SEQUENCES.sha256
    assert provenance["health"]["dense_density"] == 0.1
    assert provenance["statistics_version"] == 3
    assert provenance["output_tokens"] == {
        "score": "(logit effect - its mean over features) / its standard deviation over features",
        "tokens": 50,
    }
