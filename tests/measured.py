"""SAEs without an index, with figures as an evaluation stores them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.models import ModelRow, register_model
from app.queries.saes import SaeRow, register_sae
from tests.factories import Synthetic

TEXT = {"sequences": "a" * 64, "corpus": "Summaries", "text_tokens": 1000}


async def add(
    session: AsyncSession,
    made: Synthetic,
    slug: str,
    metrics: Mapping[str, Any] | None = None,
    *,
    hook: str = "resid_post.1",
    model_id: int | None = None,
    **config: Any,
) -> None:
    """Register one more SAE, of the model of `made` unless another is given, with these metrics."""
    await register_sae(
        session,
        SaeRow(
            slug=slug,
            model_id=model_id or made.sae.model.id,
            hook=hook,
            architecture="topk",
            d_in=16,
            d_sae=config.pop("d_sae", 64),
            k=8,
            artifact=f"saes/{slug}",
            weights_sha256=slug.ljust(64, "0"),
            config=config,
            metrics=metrics or {},
            created_by="ada",
        ),
    )


async def add_model(session: AsyncSession, name: str) -> int:
    """Register one more model and return its id."""
    shape = {"n_layers": 2, "d_model": 16, "vocab_size": 4}
    hashes = {"weights_sha256": name.ljust(64, "0"), "tokenizer_sha256": name.ljust(64, "1")}
    row = ModelRow(name=name, source="tests/measured.py", bos_token_id=None, **shape, **hashes)
    return (await register_model(session, row, token_bytes=[b"a", b"b", b"c", b"d"], special_token_ids=set())).id


def measured(l0: float, variance: float, recovered: float, **more: Any) -> dict[str, Any]:
    return {
        "tokens": 100,
        "ce_tokens": 50,
        "l0": l0,
        "explained_variance": variance,
        "ce_recovered_mean": recovered,
        "dead_fraction": 0.1,
        "intervals": {"explained_variance": [variance - 0.01, variance + 0.02]},
        "held_out": TEXT,
        **more,
    }
