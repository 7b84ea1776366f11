"""Training by several processes gives the same as by one; a process that is killed anywhere continues from there."""

import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.errors import SAEError
from sae_core.kernels import batch_topk, topk
from sae_core.parallel import SINGLE_PROCESS, Axis, process_grid
from sae_core.saes import ARCHITECTURES
from sae_core.training import TrainingConfig, clock, loop, train
from sae_core.training.curves import read_curves
from sae_core.training.state import saved_steps
from tests.core.training.synthetic import Synthetic

FORK = multiprocessing.get_context("fork")
"""The parent has loaded torch already."""


def small(**options):
    defaults = {"d_sae": 64, "k": 3, "batch_size": 128, "samples": 128 * 24, "lr": 3e-3, "dead_after": 512}
    return TrainingConfig(**(defaults | options))


@pytest.fixture(autouse=True)
def small_start_sample(monkeypatch):
    monkeypatch.setattr(loop, "START_SAMPLE", 1024)


def in_processes(function, count: int, *arguments) -> None:
    """Call `function(*arguments)` in processes that know each other as torchrun's do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [FORK.Process(target=_as_rank, args=(function, rank, count, port, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * count


def _as_rank(function, rank, count, port, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    function(*arguments)


class Transcoding(Synthetic):
    """Targets that are a linear function of the activations, and of another width."""

    d_out = 6

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(9)
        self.x = torch.cat([self.x, self.x @ torch.randn(16, 6, generator=generator)], dim=1)


SOURCES = {"autoencoder": Synthetic, "transcoder": Transcoding}


def _train_shared(config, kind, folder: Path, feature_shards: int):
    with process_grid(feature_shards) as grid:
        sae = train(config, SOURCES[kind](), folder, device="cpu", grid=grid)
        if grid.is_first:
            save_file({name: tensor.contiguous() for name, tensor in sae.state_dict().items()}, folder / "end")


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(("processes", "feature_shards"), [(2, 1), (2, 2)], ids=["data parallel", "width sharded"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_processes_agree_with_one(tmp_path, architecture, processes, feature_shards, kind):
    config = small(architecture=architecture, skip=kind == "transcoder")
    alone = train(config, SOURCES[kind](), tmp_path / "alone", device="cpu")
    in_processes(_train_shared, processes, config, kind, tmp_path / "shared", feature_shards)
    shared = load_file(tmp_path / "shared" / "end")
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)
    for one, several in zip(read_curves(tmp_path / "alone"), read_curves(tmp_path / "shared"), strict=True):
        del one["samples_per_s"], several["samples_per_s"]
        assert several == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_a_grid_of_both_axes_agrees_with_one_process(tmp_path):
    config = small(architecture="batchtopk")
    alone = train(config, Synthetic(), tmp_path / "alone", device="cpu")
    in_processes(_train_shared, 4, config, "autoencoder", tmp_path / "shared", 2)
    shared = load_file(tmp_path / "shared" / "end")
    torch.testing.assert_close(shared["W_dec"], alone.W_dec, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shared["threshold"], alone.threshold, rtol=1e-3, atol=1e-4)
    assert [path.name for path in sorted((tmp_path / "shared").glob("part-*"))] == ["part-1-of-2", "part-2-of-2"]


def test_sharded_training_resumes_from_the_newest_step_that_all_shards_have(tmp_path):
    config = small(architecture="topk", checkpoint_every=8, keep=3)
    in_processes(_train_shared, 2, config, "autoencoder", tmp_path / "shared", 2)
    whole = load_file(tmp_path / "shared" / "end")
    second = tmp_path / "shared" / "part-2-of-2"
    assert saved_steps(second) == [8, 16, 24]
    (second / "step-000000024.safetensors").unlink()  # as if killed between the two writes
    in_processes(_train_shared, 2, config, "autoencoder", tmp_path / "shared", 2)
    again = load_file(tmp_path / "shared" / "end")
    assert saved_steps(second) == [8, 16, 24]
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def _select_shared(pre, folder: Path, feature_shards: int):
    with process_grid(feature_shards) as grid:
        mine = pre[grid.tokens.part(len(pre)), grid.features.part(pre.shape[1])]
        by_row = topk(mine, 3, grid.features)
        by_batch = batch_topk(mine, 40, (grid.tokens, grid.features))
        save_file(
            {"topk": by_row.dense(by_row.values(mine)), "batch": by_batch.dense(by_batch.values(mine))},
            folder / f"{grid.tokens.rank}-{grid.features.rank}",
        )


@pytest.mark.parametrize("feature_shards", [1, 2, 4])
def test_a_shared_selection_equals_that_of_one_process(tmp_path, feature_shards):
    pre = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    pre[:8] -= 2  # so that one process has more than its share, and some rows have too few positive values
    in_processes(_select_shared, 4, pre, tmp_path, feature_shards)
    for name, whole in (("topk", topk(pre, 3)), ("batch", batch_topk(pre, 40))):
        rows = [
            torch.cat([load_file(tmp_path / f"{row}-{column}")[name] for column in range(feature_shards)], dim=1)
            for row in range(4 // feature_shards)
        ]
        assert torch.equal(torch.cat(rows), whole.dense(whole.values(pre)))


def test_sizes_that_processes_cannot_share_are_refused(tmp_path):
    halves = type(SINGLE_PROCESS)(tokens=Axis(size=2))
    with pytest.raises(SAEError, match="batch_size is 127, which 2 parts cannot share"):
        train(small(batch_size=127), Synthetic(), tmp_path, device="cpu", grid=halves)
    with pytest.raises(SAEError, match="1 processes cannot share dictionaries of 2 parts"), process_grid(2):
        pass


# Killed


def _train_and_say(config, folder: Path, steps):
    train(config, Synthetic(), folder, device="cpu", progress=lambda done, *_: steps.send(done))
    steps.send(None)


@pytest.mark.parametrize("architecture", ["batchtopk", "jumprelu"])
def test_ten_random_kills_change_no_bit(tmp_path, architecture, monkeypatch):
    monkeypatch.setattr(clock, "REPORT_SECONDS", 0.0)
    config = small(architecture=architecture, samples=128 * 200, checkpoint_every=3, log_every=4)
    whole = train(config, Synthetic(), tmp_path / "whole", device="cpu")
    chance = random.Random(1)
    kills = 0
    while True:
        mine, its = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_train_and_say, args=(config, tmp_path / "killed", its))
        process.start()
        its.close()
        said = 0
        for _ in range(chance.randint(4, 20) if kills < 10 else 10**6):
            said = mine.recv()
            if said is None:
                break
        if said is None:
            process.join()
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills == 10
    killed = train(config, Synthetic(), tmp_path / "killed", device="cpu")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, killed.state_dict()[name]), name
    curves = [read_curves(tmp_path / run) for run in ("whole", "killed")]
    for point in (*curves[0], *curves[1]):
        del point["samples_per_s"]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 50
