"""Training runs: SAEs of every kind, several at once, by several processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from app.errors import Unprocessable, UserError
from app.object_store import ObjectStore
from app.pipeline import distributed
from app.pipeline.forecast import Speed
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.pipeline.training_plans import training_configs
from app.queries import runs, saes
from app.runs.context import RunContext, RunInterrupted
from app.runs.execution import execute
from app.runs.job_context import JobContext
from sae_core.checkpoints import load_sae
from sae_core.errors import SAEError
from sae_core.models import LanguageModel
from sae_core.saes import ARCHITECTURES
from sae_core.training.curves import read_curves
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.tiny import CORPUS_FILE, tiny_model


@pytest.fixture(scope="session", params=["gpt2", "llama", "gemma2"])
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("families") / f"tiny-{request.param}", request.param)


@pytest.mark.parametrize(
    ("hook", "hook_out", "place"),
    [
        ("resid_post.1", None, "l1"),
        ("blocks.2.hook_mlp_out", None, "l2-mlp-out-post"),
        ("mlp_in.1", "mlp_out.1", "l1-mlp-in-to-mlp-out"),
    ],
)
async def test_every_family_of_models_at_every_kind_of_hook(
    ctx: JobContext, training: TrainParams, family_folder: Path, hook: str, hook_out: str | None, place: str
) -> None:
    asked = {"model": str(family_folder), "hook": (hook,), "hook_out": hook_out, "skip": hook_out is not None}
    done = await run_to_end(ctx, "train", training.model_copy(update=asked))
    assert done.result is not None
    slug = f"{family_folder.name}-{place}-batchtopk-64"
    assert done.result["sae"] == slug
    assert done.result["explained_variance"] > 0.1
    async with ctx.sessions() as session:
        detail = await saes.get_sae(session, slug)
    assert detail is not None
    assert (detail.hook_out is not None) == (hook_out is not None)
    indexed = await run_to_end(ctx, "index", IndexParams(sae=slug, corpus=str(CORPUS_FILE), length=32))
    assert indexed.state == "done"


async def test_a_transcoder_is_evaluated_against_its_target(ctx: JobContext, training: TrainParams) -> None:
    """A skip connection that does the whole of a linear layer: what is left is what the layer is not linear in."""
    asked = training.model_copy(
        update={"hook": ("mlp_act.1",), "hook_out": "mlp_out.1", "skip": True, "samples": 40_000}
    )
    done = await run_to_end(ctx, "train", asked)
    assert done.result is not None
    assert done.result["explained_variance"] > 0.95  # down_proj is linear
    folder = ctx.artifacts.sae(done.result["sae"])
    metadata = load_sae(folder).metadata
    assert metadata["hook_name_out"] in ("blocks.1.mlp.hook_out", "blocks.1.hook_mlp_out")


async def test_several_saes_are_trained_in_one_run(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    activations = LanguageModel.activations

    def counted(self: LanguageModel, token_ids: torch.Tensor, *hooks: object) -> torch.Tensor:
        nonlocal passes
        passes += len(token_ids) > 1
        return activations(self, token_ids, *hooks)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "activations", counted)
    monkeypatch.setattr("app.pipeline.prepared_inputs.measure_speed", lambda *_: Speed(1e4, 1e9))  # it runs the model
    alone = await run_to_end(ctx, "train", training.model_copy(update={"name": "alone"}))
    passes_alone, passes = passes, 0
    several = training.model_copy(
        update={"architecture": ("batchtopk", "standard"), "width": (64, 32), "k": (4, 8), "seed": 1}
    )
    done = await run_to_end(ctx, "train", several)
    assert passes == 0  # the activations of the first run serve all of them
    assert passes_alone > 0
    assert done.result is not None
    names = [result["sae"] for result in done.result["saes"]]
    assert names == [
        "tiny-llama-l1-batchtopk-64-k4",
        "tiny-llama-l1-batchtopk-64-k8",
        "tiny-llama-l1-batchtopk-32-k4",
        "tiny-llama-l1-batchtopk-32-k8",
        "tiny-llama-l1-standard-64-k4",
        "tiny-llama-l1-standard-64-k8",
        "tiny-llama-l1-standard-32-k4",
        "tiny-llama-l1-standard-32-k8",
    ]
    async with ctx.sessions() as session:
        points = await runs.metrics(session, done.id)
        details = [await saes.get_sae(session, name) for name in names]
    assert {f"{name}/loss" for name in names} <= points[-1].values.keys()
    assert all(detail is not None and detail.config["run"] == done.id for detail in details)
    assert all(detail is not None and detail.metrics["explained_variance"] for detail in details)
    assert alone.result is not None


async def test_saes_at_several_hooks_are_those_trained_alone(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = ("resid_post.1", "mlp_out.2", "blocks.3.hook_resid_post")
    alone = {}
    for hook in hooks:
        done = await run_to_end(ctx, "train", training.model_copy(update={"hook": (hook,), "name": f"alone-{hook}"}))
        assert done.sae_slug is not None
        alone[hook] = load_file(ctx.artifacts.sae(done.sae_slug) / "sae_weights.safetensors")
    shutil.rmtree(ctx.settings.artifacts / "activations")

    together = training.model_copy(update={"hook": hooks})
    run_id = await submit(ctx, "train", together)
    report = RunContext.report
    stops = [("activations", 3), ("train", 2), ("train", 6)]  # in the model, the first hook and the second
    reports = {"activations": 0, "train": 0}

    def stop(self: RunContext, name: str, *rest: Any) -> None:
        report(self, name, *rest)
        if name in reports:
            reports[name] += 1
            if stops and stops[0][0] == name and reports[name] >= stops[0][1]:
                stops.pop(0)
                raise RunInterrupted

    monkeypatch.setattr(RunContext, "report", stop)
    while (await run_row(ctx, run_id)).state != "done":
        try:
            await execute(ctx, run_id)
        except RunInterrupted:
            assert await submit(ctx, "train", together) == run_id
    assert not stops

    done = await run_row(ctx, run_id)
    assert done.result is not None
    names = [result["sae"] for result in done.result["saes"]]
    assert names == [f"tiny-llama-{place}-batchtopk-64" for place in ("l1", "l2-mlp-out", "l3")]
    for hook, name in zip(hooks, names, strict=True):
        weights = load_file(ctx.artifacts.sae(name) / "sae_weights.safetensors")
        assert weights.keys() == alone[hook].keys()
        assert all(torch.equal(weights[tensor], alone[hook][tensor]) for tensor in weights)
        again = TrainParams.model_validate_json((ctx.artifacts.sae(name) / "train.json").read_text())
        assert len(again.hook) == 1
    async with ctx.sessions() as session:
        points = await runs.metrics(session, run_id)
    assert {f"{name}/loss" for name in names} <= points[-1].values.keys()  # on one axis


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("resid_post.1,resid_post.9", "layers are 0 to 3"),
        ("resid_post.1,blocks.1.hook_resid_post", "given twice"),
        ("resid_post.1,nonsense", "not a hook point"),
    ],
)
async def test_a_hook_that_cannot_be_trained_is_refused_before_the_model_runs(
    ctx: JobContext, training: TrainParams, hook: str, message: str
) -> None:
    with pytest.raises((UserError, SAEError), match=message):
        await run_to_end(ctx, "train", TrainParams.model_validate({**training.model_dump(), "hook": hook}))
    assert not (ctx.settings.artifacts / "sequences").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook": "resid_post.1,resid_post.1"}, "given twice"),
        ({"name": "one"}, "A name is for one SAE"),
        ({"stream": True}, "Leave stream out"),
        ({"hook_out": "mlp_out.2"}, "one hook with hook_out"),
    ],
)
def test_several_hooks_exclude_what_is_for_one(training: TrainParams, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainParams.model_validate({**training.model_dump(), "hook": "resid_post.1,resid_post.2", **changes})


def test_a_single_hook_is_kept_as_before(training: TrainParams) -> None:
    assert training.model_dump(mode="json")["hook"] == "resid_post.1"


async def test_a_stream_gives_an_sae_without_a_cache(ctx: JobContext, training: TrainParams) -> None:
    done = await run_to_end(ctx, "train", training.model_copy(update={"stream": True, "buffer_mb": 1}))
    assert done.result is not None
    assert done.result["explained_variance"] > 0.1
    assert not (ctx.settings.artifacts / "activations").exists()


async def test_the_weights_folder_holds_the_training_parameters(ctx: JobContext, training: TrainParams) -> None:
    first = await run_to_end(ctx, "train", training)
    assert first.result is not None
    folder = ctx.artifacts.sae(first.result["sae"])
    noted = json.loads((folder / "cfg.json").read_text())["metadata"]["seesae"]
    assert noted["sha256"].keys() == {"model", "tokenizer", "corpus", "sequences", "code"}
    assert all(len(value) == 64 for value in noted["sha256"].values())
    assert noted["training"]["seed"] == 0
    assert noted["training"]["lr"] > 0  # resolved, not None
    assert read_curves(folder)[-1]["step"] == 24

    again = TrainParams.model_validate({**json.loads((folder / "train.json").read_text()), "name": "again"})
    second = await run_to_end(ctx, "train", again)
    assert second.result is not None
    weights = [load_file(ctx.artifacts.sae(name) / "sae_weights.safetensors") for name in (folder.name, "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"options": {"l1_coefficient": 1.0}}, "batchtopk has no option 'l1_coefficient'"),
        ({"k": (65,)}, "more than the 64 features"),
        ({"skip": True}, "for transcoders"),
        ({"architecture": ("topk", "nonsense")}, "no architecture 'nonsense'"),
    ],
)
def test_invalid_trainings_are_refused(training: TrainParams, asked: dict[str, object], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        training_configs(training.model_copy(update=asked), tokens=1000)


async def test_a_missing_output_hook_is_refused_before_the_model_runs(ctx: JobContext, training: TrainParams) -> None:
    with pytest.raises(Unprocessable, match="layers are 0 to 3"):
        await run_to_end(ctx, "train", training.model_copy(update={"hook_out": "mlp_out.9"}))
    assert not (ctx.settings.artifacts / "sequences").exists()


def test_several_values_are_separated_by_commas(training: TrainParams) -> None:
    asked = TrainParams.model_validate({**training.model_dump(), "width": "64, 32", "k": 8, "architecture": "topk"})
    assert (asked.width, asked.k, asked.architecture) == ((64, 32), (8,), ("topk",))
    for wrong in ({"width": "64,many"}, {"width": ""}, {"k": "0"}, {"width": "64,32", "name": "one"}):
        with pytest.raises(ValidationError):
            TrainParams.model_validate({**training.model_dump(), **wrong})


def test_every_architecture_can_be_trained(training: TrainParams) -> None:
    asked = training.model_copy(update={"architecture": tuple(ARCHITECTURES)})
    assert [config.architecture for config in training_configs(asked, 1000)] == list(ARCHITECTURES)


@pytest.mark.parametrize("feature_shards", ["1", "2"])
def test_torchrun_trains_what_one_process_trains(
    tmp_path: Path, database_url: str, model_folder: Path, feature_shards: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")} | {
        "SEESAE_DATABASE_URL": database_url,
        "SEESAE_HOME": str(tmp_path / "home"),
        "SEESAE_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = ["-m", "app.cli", "train", "--model", str(model_folder), "--hook", "resid_post.1", "--json"]
    command += ["--corpus", str(CORPUS_FILE), "--length", "32", "--width", "64", "--k", "4", "--samples", "6000"]
    command += ["--batch-size", "256", "--feature-shards", feature_shards, "--name"]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    saved = tmp_path / "home" / "artifacts" / "saes"
    results = []
    for name, launcher in (("shared", together), *([("alone", [])] if feature_shards == "1" else [])):
        done = subprocess.run(
            [sys.executable, *launcher, *command, name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads(done.stdout.splitlines()[-1]))
        assert results[-1]["sae"] == name
    assert len(load_file(saved / "shared" / "sae_weights.safetensors")["b_enc"]) == 64
    if feature_shards == "1":
        assert results[0]["explained_variance"] == pytest.approx(results[1]["explained_variance"], abs=0.01)


def test_processes_of_several_machines_need_a_folder_in_common(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = ObjectStore("s3://bucket", tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    distributed.require_common_files(store)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    distributed.require_common_files(None)
    with pytest.raises(SAEError, match="a folder that all of them see"):
        distributed.require_common_files(store)


def test_streaming_to_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    order = distributed.TrainingRequest([], [], "cpu", tmp_path, None)
    with pytest.raises(SAEError, match="Leave `stream` out"):
        distributed.train(order, None, feature_shards=1)  # type: ignore[arg-type]
