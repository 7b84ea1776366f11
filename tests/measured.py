"""SAEs without an index, with figures as an evaluation stores them."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

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
    **config: Any,
) -> None:
    """Register one more SAE of the model of `made`, with these metrics."""
    await register_sae(
        session,
        SaeRow(
            slug=slug,
            model_id=made.sae.model.id,
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
