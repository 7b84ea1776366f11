"""Imports on a tiny model: from every format that is written, from the hub, again; and what is refused."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sqlalchemy import select, text

from app.artifacts import store_key
from app.errors import Conflict, NotFound, Unprocessable
from app.exchange.weights import export_sae
from app.pipeline import import_weights
from app.pipeline.evaluate import EvaluateParams
from app.pipeline.import_sae import WEIGHTS_STAGES, ImportParams
from app.pipeline.index import IndexParams
from app.pipeline.prepared_inputs import default_length
from app.pipeline.registered import open_sae
from app.pipeline.train import TrainParams
from app.queries import runs, saes
from app.queries.saes import SaeDetail
from app.runs.context import RunInterrupted
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.tables import RunUse
from sae_core.checkpoints import load_sae, save_sae
from sae_core.errors import CheckpointError, ModelError, SAEError
from sae_core.files import sha256_file
from sae_core.saes import TopK
from sae_core.saes.topk import TopKConfig
from sae_core.store.activation_store import ActivationStore
from tests.app.pipeline.running import run_to_end, submit
from tests.core.checkpoints.cases import case
from tests.core.checkpoints.hub_server import COMMIT, Hub, serve
from tests.tiny import CORPUS_FILE, tiny_model
from tests.web.site import site

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"


async def bring(ctx: JobContext, source: Path | str, **options: Any) -> Mapping[str, Any]:
    """Import; the result."""
    run = await run_to_end(ctx, "import", ImportParams(source=str(source), **options))
    assert run.result is not None
    return run.result


async def export(ctx: JobContext, slug: str, format: str, folder: Path) -> None:
    """Export as `seesae export` does."""
    sae, _ = await open_sae(ctx, slug)
    export_sae(sae, format, folder)


async def sae_row(ctx: JobContext, slug: str) -> SaeDetail:
    async with ctx.sessions() as session:
        detail = await saes.get_sae(session, slug)
    assert detail is not None
    return detail


async def measured(ctx: JobContext, slug: str) -> tuple[list[float], float]:
    """Densities of all features by an index, and explained variance by an evaluation."""
    corpus = {"sae": slug, "corpus": str(CORPUS_FILE), "length": 32}
    await run_to_end(ctx, "index", IndexParams.model_validate(corpus))
    evaluated = await run_to_end(ctx, "evaluate", EvaluateParams.model_validate(corpus))
    assert evaluated.result is not None
    async with ctx.sessions() as session:
        query = (
            "SELECT density FROM feature JOIN sae ON sae.current_index_id = feature.index_id WHERE slug = :slug "
            "ORDER BY number"
        )
        densities = list((await session.scalars(text(query), {"slug": slug})).all())
    return densities, evaluated.result["explained_variance"]


def with_(training: TrainParams, **changes: Any) -> TrainParams:
    return TrainParams.model_validate(training.model_dump() | changes)


def foreign(folder: Path, *, d_in: int = 32, d_out: int | None = None, **metadata: Any) -> Path:
    """An SAE of another origin, in SAELens' layout, with this metadata."""
    sae = TopK(TopKConfig(d_in=d_in, d_sae=64, d_out=d_out, k=4))
    sae.initialise(torch.randn(100, d_in), seed=0, target=None if d_out is None else torch.randn(100, d_out))
    save_sae(sae, folder, metadata)
    return folder


def dictionary(folder: Path, *, seed: int = 0) -> Path:
    """A dictionary as dictionary_learning's BatchTopK trainer leaves it."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(64, 32, generator=generator)
    state = {
        "b_dec": torch.zeros(32),
        "k": torch.tensor(4, dtype=torch.int),
        "threshold": torch.tensor(5.0),
        "decoder.weight": (directions / directions.norm(dim=1, keepdim=True)).T.contiguous(),
        "encoder.weight": directions,
        "encoder.bias": torch.zeros(64),
    }
    trainer = {
        "dict_class": "BatchTopKSAE",
        "activation_dim": 32,
        "dict_size": 64,
        "k": 4,
        "layer": 1,
        "lm_name": "somebody/tiny",
        "submodule_name": "resid_post_layer_1",
    }
    folder.mkdir()
    torch.save(state, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out", "ctx_len": 128}}))
    return folder


@pytest.mark.parametrize(
    ("architecture", "format"),
    [
        ("batchtopk", "saelens"),
        ("batchtopk", "dictionary_learning"),
        ("topk", "saelens"),
        ("topk", "dictionary_learning"),
        ("topk", "sparsify"),
    ],
)
async def test_an_exported_sae_is_the_same_when_imported_again(
    ctx: JobContext, training: TrainParams, tmp_path: Path, architecture: str, format: str
) -> None:
    trained = await run_to_end(ctx, "train", with_(training, architecture=architecture, name="original"))
    assert trained.state == "done"
    await export(ctx, "original", format, tmp_path / "shared")

    result = await bring(ctx, tmp_path / "shared", name="again")
    assert (result["sae"], result["features"], result["format"]) == ("again", 64, format)
    assert (result["model"], result["hook"]) == ("tiny-llama", "resid_post.1")

    densities, explained_variance = await measured(ctx, "again")
    expected_densities, expected_variance = await measured(ctx, "original")
    assert max(densities) > 0
    # A pre-activation that lies within a rounding error of the threshold may fall on its other side.
    assert densities == pytest.approx(expected_densities, abs=1e-3)
    assert explained_variance == pytest.approx(expected_variance, abs=1e-4)


@pytest.mark.parametrize("format", ["saelens", "sparsify"])
async def test_a_transcoder_comes_back_with_both_its_hook_points(
    ctx: JobContext, training: TrainParams, tmp_path: Path, format: str
) -> None:
    changes = {"architecture": "topk", "hook": "mlp_in.1", "hook_out": "mlp_out.1", "skip": True, "name": "original"}
    await run_to_end(ctx, "train", with_(training, **changes))
    await export(ctx, "original", format, tmp_path / "shared")
    result = await bring(ctx, tmp_path / "shared")
    assert result["sae"] == "tiny-llama-l1-mlp-in-to-mlp-out-topk-64-k4"
    assert (result["hook"], result["hook_out"]) == ("mlp_in.1", "mlp_out.1")
    densities, explained_variance = await measured(ctx, result["sae"])
    expected_densities, expected_variance = await measured(ctx, "original")
    assert densities == pytest.approx(expected_densities, abs=1e-3)
    assert explained_variance == pytest.approx(expected_variance, abs=1e-4)


async def test_a_dictionary_of_another_package_is_imported(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    source = dictionary(tmp_path / "dictionary")
    run = await run_to_end(ctx, "import", ImportParams(source=str(source), model=str(model_folder)))
    assert [stage.state for stage in run.stages] == ["done"] * len(WEIGHTS_STAGES)
    assert run.result is not None
    assert run.sae_slug == run.result["sae"] == "tiny-llama-l1-jumprelu-64-k4"
    assert any("threshold" in note for note in run.result["notes"])

    row = await sae_row(ctx, run.sae_slug)
    assert (row.architecture, row.d_in, row.d_sae, row.k) == ("jumprelu", 32, 64, 4)
    assert (row.model.name, row.hook, row.hook_out) == ("tiny-llama", "resid_post.1", None)
    imported = row.config["imported"]
    assert (imported["source"], imported["format"]) == ("dictionary", "dictionary_learning")
    assert set(imported["sha256"]) == {"ae.pt", "config.json"}
    assert imported["notes"] == run.result["notes"]
    assert (row.config["run"], row.config["architecture"]) == (run.id, "jumprelu")

    kept = load_sae(ctx.artifacts.root / row.artifact)
    assert kept.metadata["seesae"]["imported"] == imported
    assert kept.metadata["model_name"] == "tiny-llama"
    assert kept.metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert kept.metadata["context_size"] == 128
    densities, _ = await measured(ctx, run.sae_slug)
    assert max(densities) > 0


async def test_an_imported_sae_shows_on_the_site(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    params = ImportParams(source=str(dictionary(tmp_path / "dictionary")), model=str(model_folder), name="theirs")
    run = await run_to_end(ctx, "import", params)
    async with site(ctx.settings) as client:
        for page in ("/", "/saes/theirs", f"/runs/{run.id}"):
            shown = await client.get(page)
            assert shown.status_code == 200
            assert "theirs" in shown.text
        answer = (await client.get("/api/v1/saes/theirs")).json()
    assert str(tmp_path) not in json.dumps(answer["config"])


async def test_parameters_win_over_the_checkpoint_and_the_notes_name_both(
    ctx: JobContext, model_folder: Path, tmp_path: Path
) -> None:
    source = foreign(tmp_path / "sae", model_name="nobody/none", hook_name="blocks.3.hook_resid_post")
    result = await bring(ctx, source, model=str(model_folder), hook="mlp_out.2")
    assert result["sae"] == "tiny-llama-l2-mlp-out-topk-64-k4"
    assert "It is used at mlp_out.2, as given; the checkpoint says blocks.3.hook_resid_post." in result["notes"]
    kept = load_sae(ctx.artifacts.sae(result["sae"]))
    assert (kept.metadata["model_name"], kept.metadata["hook_name"]) == ("tiny-llama", "blocks.2.mlp.hook_out")


async def test_the_hubs_name_of_a_model_is_found_and_kept_with_the_checkpoints_own(
    ctx: JobContext, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read(source: str, **options: Any) -> Any:
        asked.append(source)
        return read_model(str(model_folder), **options)

    read_model = import_weights.read_model
    monkeypatch.setattr(import_weights, "read_model", read)
    result = await bring(ctx, foreign(tmp_path / "sae", model_name="gpt2-small", hook_name="resid_post.1"))
    assert asked == ["openai-community/gpt2"]
    assert "Its model, gpt2-small, was taken to be openai-community/gpt2." in result["notes"]
    assert load_sae(ctx.artifacts.sae(result["sae"])).metadata["model_name"] == "gpt2-small"


async def test_an_sae_of_the_hub_is_kept_with_its_revision(
    ctx: JobContext, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    source = dictionary(tmp_path / "dictionary")
    files = {f"tiny/layer_1/{name}": (source / name).read_bytes() for name in ("ae.pt", "config.json")}
    with serve(Hub({"somebody/saes": files})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        result = await bring(ctx, "hf:somebody/saes/tiny/layer_1@v1", model=str(model_folder))
    assert sorted(hub.downloaded) == sorted(files)
    imported = (await sae_row(ctx, result["sae"])).config["imported"]
    assert (imported["source"], imported["revision"]) == ("somebody/saes/tiny/layer_1", COMMIT)
    assert imported["sha256"] == {name: sha256_file(source / name) for name in ("ae.pt", "config.json")}


async def test_importing_the_same_sae_again_changes_nothing(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    await run_to_end(ctx, "train", with_(training, name="original"))
    await export(ctx, "original", "saelens", tmp_path / "shared")
    before = {path.name: path.stat().st_mtime_ns for path in ctx.artifacts.sae("original").iterdir()}
    row = await sae_row(ctx, "original")

    first = await bring(ctx, tmp_path / "shared", name="original")
    assert first["sae"] == "original"
    assert {path.name: path.stat().st_mtime_ns for path in ctx.artifacts.sae("original").iterdir()} == before
    assert await sae_row(ctx, "original") == row

    named = await bring(ctx, tmp_path / "shared")
    again = await bring(ctx, tmp_path / "shared")
    assert named["sae"] == again["sae"] == "tiny-llama-l1-jumprelu-64-k4"
    assert (await sae_row(ctx, named["sae"])).config["architecture"] == "batchtopk"
    assert {path.name for path in (ctx.artifacts.root / "saes").iterdir()} == {"original", named["sae"]}


async def test_importing_again_restores_lost_files(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    source = dictionary(tmp_path / "sae")
    result = await bring(ctx, source, model=str(model_folder))
    folder = ctx.artifacts.sae(result["sae"])
    folder.rename(tmp_path / "lost")
    await bring(ctx, source, model=str(model_folder))
    assert load_sae(folder).d_sae == 64


async def test_equal_weights_with_another_config_are_another_sae(
    ctx: JobContext, model_folder: Path, tmp_path: Path
) -> None:
    source = foreign(tmp_path / "sae", hook_name="blocks.1.hook_resid_post")
    await bring(ctx, source, model=str(model_folder), name="first")
    config = json.loads((source / "cfg.json").read_text())
    (source / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": False}))
    with pytest.raises(Conflict, match="other weights, config"):
        await bring(ctx, source, model=str(model_folder), name="first")
    assert load_sae(ctx.artifacts.sae("first")).config.apply_b_dec_to_input
    await bring(ctx, source, model=str(model_folder), name="second")
    assert not load_sae(ctx.artifacts.sae("second")).config.apply_b_dec_to_input


async def test_equal_weights_at_another_hook_point_have_an_index_of_their_own(
    ctx: JobContext, model_folder: Path, tmp_path: Path
) -> None:
    source = foreign(tmp_path / "sae", hook_name="blocks.1.hook_resid_post")
    values = []
    for hook in ("resid_post.1", "resid_post.3"):
        result = await bring(ctx, source, model=str(model_folder), hook=hook, name=hook.replace(".", "-"))
        await run_to_end(ctx, "index", IndexParams(sae=result["sae"], corpus=str(CORPUS_FILE), length=32, tokens=2_000))
        detail = await sae_row(ctx, result["sae"])
        assert detail.index is not None
        store = ActivationStore.open(ctx.artifacts.index(store_key(detail, detail.index.sequence_set.sha256)))
        values.append(store.block(0, 64).value.tolist())
    assert values[0] != values[1]


async def test_a_name_that_is_taken_is_refused_before_the_model_is_loaded(
    ctx: JobContext, model_folder: Path, tmp_path: Path
) -> None:
    result = await bring(ctx, dictionary(tmp_path / "first"), model=str(model_folder))
    with pytest.raises(Conflict, match="`name`"):
        await bring(ctx, foreign(tmp_path / "wider", d_in=48, **AT_1), model=str(tmp_path), name=result["sae"])


async def test_another_sae_of_the_same_name_is_refused(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    first, second = dictionary(tmp_path / "first"), dictionary(tmp_path / "second", seed=1)
    result = await bring(ctx, first, model=str(model_folder))
    row = await sae_row(ctx, result["sae"])
    with pytest.raises(Conflict, match="`name`"):
        await bring(ctx, second, model=str(model_folder))
    with pytest.raises(Conflict, match="hook point"):
        await bring(ctx, first, model=str(model_folder), hook="resid_post.2", name=result["sae"])
    assert await sae_row(ctx, result["sae"]) == row
    assert {path.name for path in (ctx.artifacts.root / "saes").iterdir()} == {result["sae"]}
    assert load_sae(ctx.artifacts.sae(result["sae"])).metadata["seesae"]["imported"]["source"] == "first"
    assert (await bring(ctx, second, model=str(model_folder), name="second"))["sae"] == "second"


async def test_an_interrupted_import_continues(
    ctx: JobContext, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = ImportParams(source=str(dictionary(tmp_path / "sae")), model=str(model_folder))
    run_id = await submit(ctx, "import", params)

    async def stop(*arguments: object) -> SaeDetail:
        raise RunInterrupted

    with monkeypatch.context() as patched, pytest.raises(RunInterrupted):
        patched.setattr(import_weights, "register_imported", stop)
        await execute(ctx, run_id)
    assert await submit(ctx, "import", params) == run_id
    run = await run_to_end(ctx, "import", params)
    assert (run.id, run.state) == (run_id, "done")
    assert {path.name for path in (ctx.artifacts.root / "saes").iterdir()} == {run.sae_slug}


AT_1 = {"hook_name": "blocks.1.hook_resid_post"}


@pytest.mark.parametrize(
    ("sae", "options", "error", "message"),
    [
        ({}, {}, Unprocessable, "does not say what the SAE reads. Say it, for example `hook` resid_post.9"),
        ({"hook_name": "layers.1.foo"}, {}, Unprocessable, "reads layers.1.foo, which is not a hook point .* `hook`"),
        ({"hook_name": "blocks.1.ln2.hook_normalized"}, {}, Unprocessable, "before its gain, by which .* `hook`"),
        ({"hook_name": "blocks.1.hook_mlp_in"}, {}, Unprocessable, "where resid_mid is"),
        (AT_1, {"hook": "nowhere.1"}, ModelError, "'nowhere.1' is not a hook point"),
        (AT_1, {"hook": "resid_post.99"}, ModelError, r"no layer 99: .* 0 to 3. Is this .*`hook`\).*`model`"),
        (AT_1, {"hook_out": "mlp_out.1"}, Unprocessable, "not a transcoder.*Leave `hook_out` out"),
        (AT_1, {"model": None}, Unprocessable, "does not say which model it was trained on. Name it as `model`"),
        ({**AT_1, "model_name": "nobody/none"}, {"model": None}, ModelError, "cannot be loaded: .*as `model`"),
        (AT_1, {"model": "nobody/none"}, ModelError, "nobody/none cannot be loaded"),
        ({**AT_1, "d_in": 48}, {}, Unprocessable, "reads 48 dimensions, but tiny-llama has 32 at resid_post.1"),
        ({**AT_1, "d_out": 32}, {}, Unprocessable, "does not say what the SAE reconstructs.*`hook_out` mlp_out"),
        (
            {**AT_1, "d_out": 48, "hook_name_out": "blocks.1.mlp.hook_out"},
            {},
            Unprocessable,
            r"reconstructs 48 dimensions, but tiny-llama has 32 at mlp_out.1: is this its hook point \(`hook_out`\)",
        ),
    ],
)
async def test_an_sae_that_does_not_fit_is_refused_in_one_line(
    ctx: JobContext,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sae: dict[str, Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = foreign(tmp_path / "sae", **sae)
    with pytest.raises(error, match=message) as raised:
        await bring(ctx, source, **{"model": str(model_folder), **options})
    assert "\n" not in str(raised.value)
    async with ctx.sessions() as session:
        (run,), _ = await runs.list_runs(session)
        assert await saes.list_saes(session) == []
    assert (run.state, run.error) == ("failed", str(raised.value))
    assert not list((ctx.artifacts.root / "saes").glob("*"))


async def test_an_sae_of_another_width_is_refused(ctx: JobContext, model_folder: Path) -> None:
    with pytest.raises(Unprocessable, match="reads 6 dimensions, but tiny-llama has 32"):
        await bring(ctx, FIXTURES / "dictionary_learning-topk", model=str(model_folder))


async def test_damaged_files_are_refused(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    source = dictionary(tmp_path / "sae")
    state = torch.load(source / "ae.pt", weights_only=True)
    state["encoder.bias"][3] = torch.nan
    torch.save(state, source / "ae.pt")
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in encoder\.bias"):
        await bring(ctx, source, model=str(model_folder))
    with pytest.raises(CheckpointError, match="holds no SAE"):
        await bring(ctx, model_folder.parent, model=str(model_folder))
    with pytest.raises(SAEError, match="language model, not an SAE"):
        await bring(ctx, model_folder, model=str(model_folder))
    with pytest.raises(ValidationError, match="Input should be 'saelens'"):  # before there is a run
        await bring(ctx, source, model=str(model_folder), format="npz")


async def indexed(ctx: JobContext, slug: str, **options: Any) -> list[list[int]]:
    """Index and evaluate as a command does that says no length; the token ids of the sequences."""
    params = {"sae": slug, "corpus": str(CORPUS_FILE), **options}
    await run_to_end(ctx, "index", IndexParams.model_validate(params))
    await run_to_end(ctx, "evaluate", EvaluateParams.model_validate(params))
    row = await sae_row(ctx, slug)
    assert row.index is not None
    async with ctx.sessions() as session:
        query = "SELECT token_ids FROM sequence WHERE set_id = :set ORDER BY number"
        return list((await session.scalars(text(query), {"set": row.index.sequence_set.id})).all())


async def test_an_sae_without_bos_is_indexed_and_evaluated_without(ctx: JobContext, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "qwen-like", "qwen2")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["bos_token"]  # so that EOS would be put in front
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    result = await bring(ctx, case("no_bos", tmp_path), model=str(model), name="no-bos")
    (note,) = [note for note in result["notes"] if "BOS" in note]
    sequences = await indexed(ctx, "no-bos")
    assert not [token_ids for token_ids in sequences if token_ids[0] in (1, 2)]
    assert 120 <= max(map(len, sequences)) <= 128
    async with site(ctx.settings) as client:
        assert note in html.unescape((await client.get("/saes/no-bos")).text)

    plain = await bring(ctx, case("context64", tmp_path), model=str(model), name="with-bos")
    sequences = await indexed(ctx, plain["sae"])
    assert {token_ids[0] for token_ids in sequences} == {2}


async def test_an_index_has_sequences_no_longer_than_those_of_the_training(
    ctx: JobContext, model_folder: Path, tmp_path: Path
) -> None:
    result = await bring(ctx, case("context64", tmp_path), model=str(model_folder), name="short")
    note = "It was trained on sequences of 64 tokens; so are those of its index, unless `length` says otherwise."
    assert note in result["notes"]
    await indexed(ctx, "short")
    row = await sae_row(ctx, "short")
    assert row.index is not None
    assert row.index.sequence_set.length == 64
    await indexed(ctx, "short", length=32)
    row = await sae_row(ctx, "short")
    assert row.index is not None
    assert row.index.sequence_set.length == 32


@pytest.mark.parametrize(
    ("context_size", "length", "note"),
    [
        (None, 128, None),
        (128, 128, None),
        (1024, 128, "It was trained on sequences of 1,024 tokens; those of its index have 128, unless `length` "),
        (64, 64, "It was trained on sequences of 64 tokens; so are those of its index, unless `length` "),
        (3, 8, "It was trained on sequences of 3 tokens; those of its index have 8, unless `length` "),
    ],
)
async def test_a_note_says_where_lengths_differ(
    ctx: JobContext, model_folder: Path, tmp_path: Path, context_size: int | None, length: int, note: str | None
) -> None:
    source = foreign(tmp_path / "sae", **AT_1, **({} if context_size is None else {"context_size": context_size}))
    result = await bring(ctx, source, model=str(model_folder))
    said = [entry for entry in result["notes"] if "trained on sequences" in entry]
    assert said == [] if note is None else said[0].startswith(note)
    assert default_length(load_sae(source)) == length


async def test_a_training_on_short_sequences_is_indexed_on_short_ones(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", with_(training, name="trained"))
    await indexed(ctx, "trained")
    row = await sae_row(ctx, "trained")
    assert row.index is not None
    assert row.index.sequence_set.length == training.length == 32


async def test_a_scale_is_asked_for_and_kept(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    unfolded, folded = case("flat_unfolded", tmp_path), case("flat_folded", tmp_path)
    with pytest.raises(CheckpointError, match=r"`activation_scale`"):
        await bring(ctx, unfolded, model=str(model_folder))
    await bring(ctx, unfolded, model=str(model_folder), name="scaled", activation_scale=0.25)
    await bring(ctx, folded, model=str(model_folder), name="folded")
    rows = [await sae_row(ctx, name) for name in ("scaled", "folded")]
    assert rows[0].weights_sha256 == rows[1].weights_sha256
    assert rows[0].config["imported"]["activation_scale"] == 0.25
    for scale in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            ImportParams(source=str(unfolded), activation_scale=scale)
    with pytest.raises(ValidationError, match="no weights to scale"):
        ImportParams(source="batch-0.json", format="neuronpedia", activation_scale=1)


async def test_a_revision_of_the_model_is_asked_for(ctx: JobContext, model_folder: Path, tmp_path: Path) -> None:
    source = case("kwargs_revision", tmp_path)
    with pytest.raises(Unprocessable, match=r"is revision step3000 of tiny, .*as `model`"):
        await bring(ctx, source)
    result = await bring(ctx, source, model=str(model_folder))
    assert "Its model is revision step3000, which the model that was given was taken for." in result["notes"]


async def test_a_missing_folder_beside_others_is_no_address(
    ctx: JobContext, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary(tmp_path / "layers.0")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name} holds no layers\.10\. It holds layers\.0\."):
        await bring(ctx, f"{tmp_path.name}/layers.10", model=str(model_folder))


@pytest.mark.parametrize("source", ["~nobody-at-all/sae", "a" * 5000, "/" + "a" * 300])
async def test_what_cannot_be_a_path_fails_in_one_line(ctx: JobContext, source: str) -> None:
    with pytest.raises(CheckpointError, match=r"is no path|no SAE"):
        await bring(ctx, source)
    with pytest.raises(NotFound, match="There is no "):
        await bring(ctx, source, format="neuronpedia")


async def test_a_model_that_only_the_checkpoint_names_is_noted_before_it_is_loaded(
    ctx: JobContext, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = foreign(tmp_path / "first", model_name="tiny-llama", hook_name="resid_post.1")
    model = (await sae_row(ctx, (await bring(ctx, named, model=str(model_folder)))["sae"])).model

    def gone(*_arguments: object, **_options: object) -> None:
        raise ModelError("It cannot be loaded now.")

    monkeypatch.setattr(import_weights, "read_model", gone)
    run_id = await submit(ctx, "import", ImportParams(source=str(named), name="again"))
    with pytest.raises(ModelError):
        await execute(ctx, run_id)
    async with ctx.sessions() as session:
        used = await session.scalars(select(RunUse.subject).where(RunUse.run_id == run_id))
        assert f"model {model.id}" in set(used)
