"""The content of an activation store, and a killed build that continues to the same bytes."""

import copy
import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.activations import ActivationCache
from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError, CorpusError
from sae_core.files import sha256_file
from sae_core.models import HookPoint, LanguageModel
from sae_core.store import activation_store
from sae_core.store.activation_store import ActivationStore, build_store
from tests.core.statistics import small
from tests.core.statistics.small import Cut

SEQUENCES = small.small_sequences()
F = small.small_activations(SEQUENCES)
SAE = small.small_sae()
CUTS = [7, 20, 21]


class KilledError(Exception):
    pass


class KillAfter:
    """A progress that stops the work at its n-th report."""

    def __init__(self, reports: int) -> None:
        self.left = reports

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        self.left -= 1
        if self.left < 0:
            raise KilledError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_holds_the_nonzero_activations_of_counted_tokens_and_no_others(tmp_path: Path) -> None:
    built = build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    block = built.block(0, small.FEATURES)
    restored = np.zeros((small.SEQUENCES * small.LENGTH, small.FEATURES), np.float32)
    restored[block.position, block.row] = block.value
    expected = np.where(SEQUENCES.counted[:, :, None], F, 0).reshape(restored.shape)
    assert (restored == expected).all()
    assert len(block.value) == np.count_nonzero(expected)
    assert (built.count == np.count_nonzero(expected, axis=0)).all()
    assert all((np.diff(run) > 0).all() for run in np.split(block.position, block.indptr[1:-1]))


@pytest.mark.parametrize("features", [(0, 0), (0, 1), (5, 23), (63, 64)])
@pytest.mark.parametrize("shards", [None, range(1, 3), range(0)])
def test_a_block_of_features_and_shards_is_that_part_of_the_whole(
    tmp_path: Path, features: tuple[int, int], shards: range | None
) -> None:
    built = build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    whole, block = built.block(0, small.FEATURES), built.block(*features, shards)
    sequences = range(small.SEQUENCES) if shards is None else range(7, 21) if shards else range(0)
    kept = np.isin(whole.position // small.LENGTH, sequences) & (whole.row >= features[0]) & (whole.row < features[1])
    assert block.position.tolist() == whole.position[kept].tolist()
    assert block.value.tolist() == whole.value[kept].tolist()
    assert (block.row + features[0]).tolist() == whole.row[kept].tolist()


@pytest.mark.parametrize("reports", range(9))
def test_a_build_killed_at_any_report_ends_with_the_same_bytes(
    tmp_path: Path, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_store, "ENCODE_TOKENS", 150)
    build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path / "whole")
    killed, resumed = Cut(F, CUTS), Cut(F, CUTS)
    with pytest.raises(KilledError):
        build_store(SAE, killed, SEQUENCES, tmp_path / "killed", progress=KillAfter(reports))
    written = len(list((tmp_path / "killed").glob("shard-*")))
    with pytest.raises(ArtifactError, match="finish"):
        ActivationStore.open(tmp_path / "killed")
    build_store(SAE, resumed, SEQUENCES, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert resumed.asked == list(range(written, 4))


def test_progress_counts_tokens_to_the_end_also_when_resumed(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path, progress=KillAfter(3))
    reports: list[int] = []
    build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path, progress=lambda done, total, _=None, /: reports.append(done))
    assert reports == sorted(reports)
    assert reports[0] > 0
    assert reports[-1] == SEQUENCES.n_counted


def test_a_finished_store_is_opened_as_it_is(tmp_path: Path) -> None:
    build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    again = Cut(F)
    assert build_store(SAE, again, SEQUENCES, tmp_path).n_shards == 4
    assert again.asked == []


def test_another_sae_replaces_the_store_and_its_shards(tmp_path: Path) -> None:
    build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    build_store(small.small_sae(seed=1), Cut(F, [20]), SEQUENCES, tmp_path)
    build_store(small.small_sae(seed=1), Cut(F, [20]), SEQUENCES, tmp_path.with_name("fresh"))
    assert contents(tmp_path) == contents(tmp_path.with_name("fresh"))


@pytest.mark.parametrize("changed", [{"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"}])
def test_equal_weights_with_another_config_are_another_sae(changed: dict[str, Any]) -> None:
    other = copy.copy(SAE)
    other.config = replace(SAE.config, **changed)
    assert activation_store.weights_sha256(other) != activation_store.weights_sha256(SAE)


def test_a_build_hashes_each_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr(activation_store, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    built = build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    assert len(hashed) == len(set(hashed)) == built.n_shards


def test_a_store_that_is_being_replaced_is_not_open_to_readers(tmp_path: Path) -> None:
    build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    with pytest.raises(KilledError):
        build_store(small.small_sae(seed=1), Cut(F, CUTS), SEQUENCES, tmp_path, progress=KillAfter(2))
    with pytest.raises(ArtifactError, match="no finished"):
        ActivationStore.open(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_reported_in_one_line_and_the_build_continues_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def full_at_the_third(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_at_the_third)
        with pytest.raises(ArtifactError, match="disk is full"):
            build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    resumed = Cut(F, CUTS)
    build_store(SAE, resumed, SEQUENCES, tmp_path)
    assert resumed.asked == [2, 3]


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    build_store(SAE, Cut(F, CUTS), SEQUENCES, tmp_path)
    shard = tmp_path / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ArtifactError, match="shard-00002"):
        ActivationStore.open(tmp_path)


def test_activations_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    for wrong in (np.nan, np.inf):
        f = F.copy()
        f[8, 4, 9] = wrong
        with pytest.raises(ArtifactError, match="not numbers"):
            build_store(SAE, Cut(f), SEQUENCES, tmp_path)


def test_shards_of_other_sequences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="follow one another"):
        build_store(SAE, Cut(F[:30]), SEQUENCES, tmp_path)


def test_sequences_too_long_for_the_stores_integers_are_refused(tmp_path: Path) -> None:
    long = small.small_sequences()
    object.__setattr__(long, "length", 40_000)
    with pytest.raises(CorpusError, match="32,767"):
        build_store(SAE, Cut(F), long, tmp_path)


def test_a_real_model_and_sae_are_stored_as_the_sae_encodes_them(
    tmp_path: Path, model: LanguageModel, sequences: Sequences
) -> None:
    hook = HookPoint.parse("resid_post.1")
    cache = ActivationCache.build(model, hook, sequences, tmp_path / "cache", shard_sequences=50)
    sae = small.random_jumprelu(d_in=model.d_model, d_sae=96)
    built = build_store(sae, cache, sequences, tmp_path / "store")
    assert built.n_shards == cache.n_shards > 1
    block = built.block(0, sae.d_sae)
    restored = np.zeros((sequences.token_ids.size, sae.d_sae), np.float32)
    restored[block.position, block.row] = block.value
    activations = model.activations(torch.from_numpy(sequences.token_ids).long(), hook)
    with torch.no_grad():
        expected = sae.encode(activations.reshape(-1, model.d_model)).numpy()
    expected = np.where(sequences.counted.reshape(-1, 1), expected, 0)
    assert 0.01 < (expected > 0).mean() < 0.5
    assert np.allclose(restored, expected, rtol=1e-4, atol=1e-5)
