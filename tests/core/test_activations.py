import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_core.activations import ActivationCache, ActivationStream
from sae_core.activations.order import permutation, shuffled_batches
from sae_core.corpora import Corpus, Sequences, pack
from sae_core.errors import ArtifactError, ModelError
from sae_core.models import HookPoint, LanguageModel

HOOK = HookPoint("resid_post", 1)


@pytest.fixture(scope="module")
def dense(model: LanguageModel, sequences: Sequences) -> Tensor:
    """Activations of everything at once: [sequence, position, d_in]."""
    return model.activations(torch.from_numpy(sequences.token_ids).long(), HOOK)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, model: LanguageModel, sequences: Sequences) -> ActivationCache:
    folder = tmp_path_factory.mktemp("cache")
    return ActivationCache.build(model, HOOK, sequences, folder, batch_size=4, shard_sequences=16)


@pytest.fixture(params=["cache", "stream", "small stream"])
def source(
    request: pytest.FixtureRequest, cache: ActivationCache, model: LanguageModel, sequences: Sequences
) -> ActivationCache | ActivationStream:
    if request.param == "cache":
        return cache
    buffer_bytes = {"stream": 2**24, "small stream": 400 * 32 * 4}[request.param]
    return ActivationStream(model, HOOK, sequences, buffer_bytes=buffer_bytes, batch_size=4)


def moments(activations: Tensor) -> Tensor:
    """Sums that rows in any order share, and that change if a row is missing, doubled or another one."""
    return torch.stack([activations.double().pow(power).sum(dim=0) for power in (0, 1, 2, 3)])


class StoppedError(Exception): ...


def interrupt_after(calls: int):
    made = iter(range(calls))

    def progress(done: int, total: int, metrics: object = None) -> None:
        if next(made, None) is None:
            raise StoppedError

    return progress


# What both sources hold to


def test_an_epoch_is_every_counted_training_token_once(
    source: ActivationCache | ActivationStream, dense: Tensor, sequences: Sequences
) -> None:
    train = torch.from_numpy(sequences.counted & ~sequences.is_validation()[:, None])
    expected = dense[train]
    assert source.train_tokens == len(expected)
    batches = list(islice(source.batches(64, seed=0), -(-2 * len(expected) // 64)))
    assert all(batch.shape == (64, 32) and batch.dtype == torch.float32 for batch in batches)
    stream = torch.cat(batches)
    torch.testing.assert_close(moments(stream[: len(expected)]), moments(expected))
    torch.testing.assert_close(moments(stream[len(expected) : 2 * len(expected)]), moments(expected))
    assert not torch.equal(stream[: len(expected)], stream[len(expected) : 2 * len(expected)])


def test_validation_is_every_counted_held_out_token_in_order(
    source: ActivationCache | ActivationStream, dense: Tensor, sequences: Sequences
) -> None:
    expected = dense[torch.from_numpy(sequences.counted & sequences.is_validation()[:, None])]
    batches = list(source.validation(50))
    assert source.validation_tokens == len(expected) > 100
    assert [len(batch) for batch in batches[:-1]] == [50] * (len(batches) - 1)
    torch.testing.assert_close(torch.cat(batches), expected)


def test_batches_depend_on_the_seed_alone(source: ActivationCache | ActivationStream) -> None:
    def first(seed: int) -> Tensor:
        return next(source.batches(64, seed=seed))

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


@pytest.mark.parametrize("skip", [1, 7, 200])
def test_skipping_is_consuming(source: ActivationCache | ActivationStream, skip: int) -> None:
    assert source.train_tokens // 64 < 200  # the last skip lies in a later epoch
    consumed = source.batches(64, seed=3)
    for _ in range(skip):
        next(consumed)
    skipped = source.batches(64, seed=3, skip=skip)
    for _ in range(5):
        torch.testing.assert_close(next(skipped), next(consumed))


def test_tokens_of_a_sequence_are_spread_over_the_epoch(cache: ActivationCache, sequences: Sequences) -> None:
    order = permutation(cache.train_tokens, 0, 0)
    halves = np.flatnonzero(np.isin(order, range(30))) < cache.train_tokens / 2  # the first sequence's tokens
    assert 3 < halves.sum() < 27


def test_training_may_write_into_a_batch(cache: ActivationCache) -> None:
    before = next(cache.batches(8, seed=0)).clone()
    next(cache.batches(8, seed=0)).zero_()
    assert torch.equal(next(cache.batches(8, seed=0)), before)


# Order


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.integers(0, 30))
def test_every_epoch_is_a_permutation_and_can_be_jumped_into(n: int, batch_size: int, seed: int, skip: int) -> None:
    def take(batches: Iterator[np.ndarray], count: int) -> list[int]:
        return np.concatenate(list(islice(batches, count))).tolist()

    numbers = take(shuffled_batches(n, batch_size, seed=seed), skip + 3 * n)
    for epoch in range(3):
        assert sorted(numbers[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert (
        take(shuffled_batches(n, batch_size, seed=seed, skip=skip), 3) == numbers[skip * batch_size :][: 3 * batch_size]
    )


# The cache


def test_shards_are_consecutive_sequences(cache: ActivationCache, dense: Tensor, sequences: Sequences) -> None:
    assert cache.n_shards == -(-len(sequences) // 16)
    assert (cache.d_in, cache.n_counted) == (32, sequences.n_counted)
    assert cache.train_tokens + cache.validation_tokens == cache.n_counted
    end = 0
    for index in range(cache.n_shards):
        numbers, activations = cache.shard(index)
        assert numbers.start == end
        end = numbers.stop
        torch.testing.assert_close(activations, dense[numbers])
    assert end == len(sequences)


def test_a_finished_cache_is_opened_without_the_model(cache: ActivationCache, sequences: Sequences) -> None:
    opened = ActivationCache.open(cache.folder, sequences)
    assert torch.equal(next(opened.batches(64, seed=0)), next(cache.batches(64, seed=0)))


def test_an_interrupted_build_continues_and_ends_with_the_same_bytes(
    tmp_path: Path, cache: ActivationCache, model: LanguageModel, sequences: Sequences
) -> None:
    options = {"batch_size": 4, "shard_sequences": 16}
    with pytest.raises(StoppedError):  # in the third shard
        ActivationCache.build(model, HOOK, sequences, tmp_path, progress=interrupt_after(11), **options)
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("shard-*")}
    assert sorted(kept) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    with pytest.raises(ArtifactError, match="unfinished"):
        ActivationCache.open(tmp_path, sequences)
    reported: list[tuple[int, int]] = []
    resumed = ActivationCache.build(
        model, HOOK, sequences, tmp_path, progress=lambda done, total, _=None: reported.append((done, total)), **options
    )
    for index in range(cache.n_shards):
        name = f"shard-{index:05d}.safetensors"
        assert (tmp_path / name).read_bytes() == (cache.folder / name).read_bytes()
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert reported[0] == (int(sequences.counted[:32].sum()), sequences.n_counted)
    assert reported[-1] == (sequences.n_counted, sequences.n_counted)
    assert resumed.n_shards == cache.n_shards
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_caches_of_several_hooks_are_built_from_one_pass_and_are_those_built_alone(
    tmp_path: Path, model: LanguageModel, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [(HOOK, None), (HookPoint("mlp_in", 2), HookPoint("mlp_out", 2)), (HookPoint("resid_post", 3), None)]
    for number, (hook, target) in enumerate(points):
        alone = tmp_path / f"alone-{number}"
        ActivationCache.build(model, hook, sequences, alone, target=target, batch_size=4, shard_sequences=16)

    folders = [tmp_path / f"together-{number}" for number in range(3)]
    half, options = len(sequences) // 32, {"batch_size": 4, "shard_sequences": 16}
    with pytest.raises(StoppedError):  # the middle one is further than the others
        ActivationCache.build(
            model, points[1][0], sequences, folders[1], target=points[1][1], progress=interrupt_after(5), **options
        )
    passes = 0
    forward = LanguageModel._forward

    def counted(self: LanguageModel, token_ids: Tensor) -> object:
        nonlocal passes
        passes += token_ids.shape[1] > 1
        return forward(self, token_ids)

    monkeypatch.setattr(LanguageModel, "_forward", counted)
    with pytest.raises(StoppedError):
        ActivationCache.build_together(
            model, points, sequences, folders, progress=interrupt_after(4 * half + 2), **options
        )
    ActivationCache.build_together(model, points, sequences, folders, **options)
    assert passes <= -(-len(sequences) // 4) + 5  # one pass per batch; only what was interrupted is repeated
    for number in range(3):
        written = {path.name: path.read_bytes() for path in (tmp_path / f"together-{number}").iterdir()}
        assert written == {path.name: path.read_bytes() for path in (tmp_path / f"alone-{number}").iterdir()}


def test_activations_of_something_else_are_not_reused(
    cache: ActivationCache, model: LanguageModel, sequences: Sequences, corpus: Corpus
) -> None:
    with pytest.raises(ArtifactError, match="hook"):
        ActivationCache.build(model, HookPoint("resid_post", 2), sequences, cache.folder, shard_sequences=16)
    other = pack(corpus, model, length=32, seed=1)
    with pytest.raises(ArtifactError, match="sequences_sha256"):
        ActivationCache.build(model, HOOK, other, cache.folder, shard_sequences=16)
    with pytest.raises(ArtifactError, match="other sequences"):
        ActivationCache.open(cache.folder, other)


def test_a_model_under_another_name_has_the_same_activations(
    tmp_path: Path, model: LanguageModel, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    ActivationCache.build(model, HOOK, sequences, tmp_path)
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    monkeypatch.setattr(model, "name", "renamed")
    ActivationCache.build(model, HOOK, sequences, tmp_path)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == kept


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    tmp_path: Path, model: LanguageModel, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ArtifactError, match=r"needs .* MB but"):
        ActivationCache.build(model, HOOK, sequences, tmp_path, progress=interrupt_after(0))


def test_a_missing_or_damaged_cache_is_refused(tmp_path: Path, model: LanguageModel, sequences: Sequences) -> None:
    with pytest.raises(ArtifactError, match="no activation cache"):
        ActivationCache.open(tmp_path, sequences)
    ActivationCache.build(model, HOOK, sequences, tmp_path)
    (tmp_path / "shard-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="damaged"):
        ActivationCache.open(tmp_path, sequences)
    with pytest.raises(ModelError, match="0 to 3"):
        ActivationCache.build(model, HookPoint("resid_post", 9), sequences, tmp_path / "other")


# Rows for transcoders


@pytest.mark.parametrize("kind", ["cache", "stream"])
def test_a_row_for_a_transcoder_is_its_input_and_its_target(
    kind: str, model: LanguageModel, sequences: Sequences, tmp_path: Path
) -> None:
    read, target = HookPoint("mlp_in", 1), HookPoint("mlp_act", 1)
    token_ids = torch.from_numpy(sequences.token_ids).long()
    x, y = model.activations(token_ids, read), model.activations(token_ids, target)
    if kind == "cache":
        source: ActivationCache | ActivationStream = ActivationCache.build(
            model, read, sequences, tmp_path, target=target, shard_sequences=16
        )
        where, shard = source.shard(1)
        torch.testing.assert_close(shard, x[where])
    else:
        source = ActivationStream(model, read, sequences, target=target)
    assert (source.d_in, source.d_out) == (32, 64)
    rows = torch.cat(list(source.validation(100)))
    held_out = torch.from_numpy(sequences.counted & sequences.is_validation()[:, None])
    torch.testing.assert_close(rows, torch.cat([x, y], dim=-1)[held_out])
    batch = next(source.batches(64, seed=0))
    assert batch.shape == (64, 96)
    assert torch.equal(next(source.batches(64, seed=0, part=slice(16, 32))), batch[16:32])


def test_a_cache_of_rows_for_another_target_is_refused(
    model: LanguageModel, sequences: Sequences, tmp_path: Path
) -> None:
    ActivationCache.build(model, HOOK, sequences, tmp_path)
    with pytest.raises(ArtifactError, match=r"d_out, target differ"):
        ActivationCache.build(model, HOOK, sequences, tmp_path, target=HookPoint("mlp_out", 1))


# The stream


def test_filling_the_buffer_is_reported_and_can_be_stopped(model: LanguageModel, sequences: Sequences) -> None:
    stream = ActivationStream(model, HOOK, sequences, batch_size=4, progress=interrupt_after(3))
    with pytest.raises(StoppedError):
        next(stream.batches(64, seed=0))


def test_a_buffer_that_holds_no_sequence_is_refused(model: LanguageModel, sequences: Sequences) -> None:
    stream = ActivationStream(model, HOOK, sequences, buffer_bytes=1000)
    with pytest.raises(ArtifactError, match=r"Give it at least 0\.0 MB, or take smaller batches"):
        next(stream.batches(64, seed=0))


def live_rows(width: int) -> int:
    """Rows of that width in all float32 tensors that are alive, each storage counted once."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor and thing.dtype == torch.float32 and thing.ndim == 2 and thing.shape[1] == width:
            storages[thing.data_ptr() or id(thing)] = thing.untyped_storage().nbytes() // (4 * width)
    return sum(storages.values())


def test_the_stream_never_holds_more_than_stated(model: LanguageModel, sequences: Sequences) -> None:
    before = live_rows(32)
    held: list[int] = []
    stream = ActivationStream(
        model,
        HOOK,
        sequences,
        buffer_bytes=400 * 32 * 4,
        batch_size=4,
        progress=lambda *_: held.append(live_rows(32) - before),  # while the buffer is being filled
    )
    for _ in islice(stream.batches(64, seed=0), 10):  # some four buffers; to look at all objects takes a while
        held.append(live_rows(32) - before)  # with a batch in its reader's hands
    assert 200 < max(held) <= 400
