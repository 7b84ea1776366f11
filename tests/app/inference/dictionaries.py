"""A tiny model and a random SAE on it, on disk and as the database describes them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from app.queries.models import ModelInfo
from app.queries.saes import SaeDetail
from app.settings import Settings
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.saes import SAE, TopK
from sae_core.saes.topk import TopKConfig
from tests.tiny import tiny_model

HOOK = HookPoint("resid_post", 2)
SLUG = "tiny-l2-topk-64"


@dataclass(frozen=True)
class Dictionary:
    """A model with an SAE on it: loaded, so that a test can compute, and as a row, so that the engine can."""

    model: LanguageModel
    sae: SAE
    row: SaeDetail
    settings: Settings


def random_sae(d_in: int, *, d_sae: int = 64, k: int = 8, seed: int = 0) -> TopK:
    generator = torch.Generator().manual_seed(seed)
    sae = TopK(TopKConfig(d_in=d_in, d_sae=d_sae, k=k))
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=generator))
        sae.W_dec.copy_(sae.W_enc.t())
        sae.b_dec.copy_(torch.randn(d_in, generator=generator) / 10)
    return sae


def make_dictionary(home: Path) -> Dictionary:
    source = tiny_model(home / "model")
    model = load_model(source, device="cpu", name="tiny")
    sae = random_sae(model.d_model)
    settings = Settings(home=home, device="cpu", probe_max_tokens=100)
    sae.save(settings.artifacts / "saes" / SLUG, {"model_name": "tiny", "hook_name": HOOK.transformer_lens})
    now = datetime.now(UTC)
    info = ModelInfo(
        id=1,
        name="tiny",
        source=str(source),
        n_layers=model.n_layers,
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        bos_token_id=model.bos_token_id,
        created_at=now,
    )
    row = SaeDetail(
        id=1,
        slug=SLUG,
        model=info,
        hook=str(HOOK),
        architecture="topk",
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k,
        artifact=f"saes/{SLUG}",
        weights_sha256="0" * 64,
        config={},
        metrics={},
        created_by="tester",
        created_at=now,
        index=None,
        labelled=0,
    )
    return Dictionary(model, sae, row, settings)
