"""Exports of weights: their files, what is refused, and that existing files are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import Conflict, NotFound, UserError
from app.exchange.weights import export_sae
from app.pipeline.import_sae import ImportParams
from app.pipeline.registered import open_sae
from app.pipeline.train import TrainParams
from app.runs.job_context import JobContext
from sae_core.checkpoints import FORMATS, load, load_sae
from sae_core.errors import CheckpointError
from sae_core.saes import JumpReLU
from tests.app.pipeline.running import run_to_end
from tests.app.pipeline.test_import_sae import foreign


@pytest.fixture
async def slug(ctx: JobContext, model_folder: Path, tmp_path: Path) -> str:
    """A registered TopK SAE."""
    source = foreign(tmp_path / "source", hook_name="blocks.1.hook_resid_post", context_size=64)
    await run_to_end(ctx, "import", ImportParams(source=str(source), model=str(model_folder), name="topk"))
    return "topk"


async def export(ctx: JobContext, slug: str, format: str, folder: Path) -> dict[str, str]:
    """Open a registered SAE and export it, as the command line does."""
    sae, _ = await open_sae(ctx, slug)
    return export_sae(sae, format, folder)


def hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


@pytest.mark.parametrize("format", [name for name, layout in FORMATS.items() if layout.write])
async def test_weights_and_origin_are_exported(ctx: JobContext, slug: str, tmp_path: Path, format: str) -> None:
    folder = tmp_path / "a" / "b"
    files = await export(ctx, slug, format, folder)
    assert set(files) == {path.name for path in folder.iterdir()}
    checkpoint = load(folder)
    assert checkpoint.format == format
    for key, value in (("model_name", "tiny-llama"), ("hook_name", "blocks.1.hook_resid_post"), ("context_size", 64)):
        assert checkpoint.metadata[key] == value
    x = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(checkpoint.sae(x), load_sae(ctx.artifacts.sae(slug))(x))


async def test_existing_files_are_not_overwritten(ctx: JobContext, slug: str, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    first = await export(ctx, slug, "dictionary_learning", folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert await export(ctx, slug, "dictionary_learning", folder) == first
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    with pytest.raises(Conflict, match=r"holds something else\. Give a new or an empty folder"):
        await export(ctx, slug, "saelens", folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Conflict):
        await export(ctx, slug, "dictionary_learning", folder)
    with pytest.raises(Conflict):
        await export(ctx, slug, "dictionary_learning", folder / "notes.txt")
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"notes.txt/sae cannot be written: .*Choose another folder"):
        await export(ctx, slug, "dictionary_learning", folder / "notes.txt" / "sae")
    assert hidden(tmp_path) == []


async def test_exports_that_are_not_possible_are_refused(
    ctx: JobContext, slug: str, training: TrainParams, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"There is no SAE “none”\. There are: topk"):
        await export(ctx, "none", "saelens", tmp_path / "shared")
    with pytest.raises(UserError, match="Give one of saelens, dictionary_learning, sparsify"):
        await export(ctx, slug, "gemma_scope", tmp_path / "shared")
    await run_to_end(ctx, "train", training)
    with pytest.raises(CheckpointError, match=r"sparsify has only .*, not jumprelu"):
        await export(ctx, "tiny-llama-l1-batchtopk-64", "sparsify", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


async def test_saelens_config_has_the_fields_that_others_read(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    await run_to_end(ctx, "train", training.model_copy(update={"name": "mine"}))
    await export(ctx, "mine", "saelens", tmp_path / "shared")
    config: dict[str, Any] = json.loads((tmp_path / "shared" / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("jumprelu", 32, 64)
    assert config["metadata"]["hook_name"] == "blocks.1.hook_resid_post"
    assert config["metadata"]["context_size"] == 32
    assert isinstance(load_sae(tmp_path / "shared"), JumpReLU)
