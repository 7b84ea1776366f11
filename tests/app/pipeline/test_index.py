"""Indexes of models of odd kinds, and what a run says of output tokens that it leaves out."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sqlalchemy import text
from transformers import GPTNeoXConfig, OPTConfig

from app.errors import Unprocessable
from app.pipeline.index import IndexParams, check
from app.pipeline.train import TrainParams
from app.queries import saes
from app.queries.runs import RunView
from app.queries.saes import SaeDetail
from app.runs.job_context import JobContext
from app.web.components.output_tokens import no_output_tokens
from sae_core.models import LanguageModel, ReadoutError
from tests.app.pipeline.running import run_to_end
from tests.tiny import _NEOX_DIMENSIONS, CORPUS_FILE, _random_model, tiny_model, tiny_tokenizer


def save(folder: Path, config: Any) -> Path:
    model = _random_model(config, 0)
    with torch.no_grad():
        model.get_output_embeddings().weight[512:] *= 20
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


async def index(ctx: JobContext, training: TrainParams, **changes: Any) -> tuple[RunView, SaeDetail]:
    trained = await run_to_end(ctx, "train", training.model_copy(update=changes))
    assert trained.sae_slug is not None
    run = await run_to_end(ctx, "index", IndexParams(sae=trained.sae_slug, corpus=str(CORPUS_FILE), length=32))
    async with ctx.sessions() as session:
        sae = await saes.get_sae(session, trained.sae_slug)
    assert sae is not None
    assert sae.index is not None
    assert run.result is not None
    return run, sae


async def test_saes_of_several_hook_points_are_indexed_by_one_run_as_they_are_alone(
    ctx: JobContext, training: TrainParams
) -> None:
    hooks = ("resid_post.1", "resid_post.2")
    trained = await run_to_end(ctx, "train", training.model_copy(update={"hook": hooks, "name": None}))
    assert trained.result is not None
    slugs = [sae["sae"] for sae in trained.result["saes"]]
    text = {"corpus": str(CORPUS_FILE), "length": 24}
    alone = [await run_to_end(ctx, "index", IndexParams(sae=slug, **text)) for slug in slugs]
    shutil.rmtree(ctx.artifacts.activations_root)
    shutil.rmtree(ctx.artifacts.index("any").parent)
    run = await run_to_end(ctx, "index", IndexParams(sae=",".join(slugs), **text))
    assert run.title.startswith(f"Index {slugs[0]}, {slugs[1]} on ")
    assert run.result is not None
    assert run.result["saes"] == [
        {name: value for name, value in (one.result or {}).items() if name != "seconds"} for one in alone
    ]
    assert len(list(ctx.artifacts.activations_root.iterdir())) == 2
    assert len(list(ctx.artifacts.index("any").parent.iterdir())) == 2


async def test_saes_that_cannot_share_a_pass_are_refused(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    first = await run_to_end(ctx, "train", training)
    other = training.model_copy(update={"model": str(tiny_model(tmp_path / "other", seed=1)), "name": "other"})
    await run_to_end(ctx, "train", other)
    params = IndexParams(sae=(first.sae_slug, "other"), corpus=str(CORPUS_FILE))
    async with ctx.sessions() as session:
        with pytest.raises(Unprocessable, match="one run reads one model"):
            await check(session, ctx.settings, params)
    shorter = training.model_copy(update={"length": 16, "name": "shorter"})
    await run_to_end(ctx, "train", shorter)
    with pytest.raises(Unprocessable, match="cannot share a pass"):
        await run_to_end(ctx, "index", IndexParams(sae=(first.sae_slug, "shorter"), corpus=str(CORPUS_FILE)))
    with pytest.raises(ValidationError, match="given twice"):
        IndexParams(sae="a,a", corpus=str(CORPUS_FILE))


async def promoted(ctx: JobContext) -> list[int]:
    async with ctx.sessions() as session:
        rows = await session.scalars(text("SELECT unnest(promoted_ids || suppressed_ids) FROM feature"))
    return list(rows)


async def test_a_model_without_a_final_norm_and_with_a_projection_is_indexed(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    config = OPTConfig(
        vocab_size=512,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        do_layer_norm_before=False,
        word_embed_proj_dim=16,
    )
    run, sae = await index(ctx, training, model=str(save(tmp_path / "opt350", config)))
    assert run.result is not None
    assert "notes" not in run.result
    assert sae.index is not None
    assert no_output_tokens(sae.index.provenance) is None
    assert len(await promoted(ctx)) == 64 * 30


async def test_rows_of_the_unembedding_without_a_token_are_not_listed(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    config = GPTNeoXConfig(**{**_NEOX_DIMENSIONS, "vocab_size": 640})
    _, sae = await index(ctx, training, model=str(save(tmp_path / "padded", config)))
    assert sae.model.vocab_size == 640
    assert max(await promoted(ctx)) < 512


async def test_an_sae_outside_the_residual_stream_has_no_output_tokens_and_the_run_says_why(
    ctx: JobContext, training: TrainParams
) -> None:
    run, sae = await index(ctx, training, hook=("mlp_act.1",))
    assert sae.index is not None
    why = (
        "There are no output tokens, because mlp_act.1 is not a vector of the residual stream, "
        "which the logits are read from."
    )
    assert run.result is not None
    assert run.result["notes"] == [why]
    assert no_output_tokens(sae.index.provenance) == why
    assert await promoted(ctx) == []


async def test_a_model_whose_logits_cannot_be_reproduced_has_no_output_tokens_and_the_run_says_why(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: LanguageModel) -> None:
        raise ReadoutError("the model's logits are not linear")

    monkeypatch.setattr(LanguageModel, "output_directions", refuse)
    run, _ = await index(ctx, training)
    assert run.result is not None
    assert run.result["notes"] == ["There are no output tokens, because the model's logits are not linear."]
    assert await promoted(ctx) == []
