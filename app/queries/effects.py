"""Measured effects of features."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.activity import count_changes
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.queries.sql.expressions import in_array
from app.queries.sql.pg_safe import clean_json
from app.tables import FeatureEffect, Sae


@dataclass(frozen=True, slots=True)
class MovedToken:
    """A token whose probability a feature raises, or lowers, by `change` on average where it is active."""

    id: int
    bytes: bytes
    special: bool
    change: float


@dataclass(frozen=True, slots=True)
class EffectSummary:
    """The effect of a feature as a list shows it."""

    tokens: int
    ratio: float | None
    interval: tuple[float, float] | None

    @property
    def used(self) -> bool:
        """True if the whole interval lies above chance."""
        return self.interval is not None and self.interval[0] > 1


@dataclass(frozen=True, slots=True)
class EffectView(EffectSummary):
    """The whole effect of a feature. KL and losses are in nats per token."""

    run: int | None
    """None once the run is deleted."""
    contexts: int
    kl: float | None
    delta_loss: float | None
    delta_loss_interval: tuple[float, float] | None
    control: Mapping[str, float]
    by_band: tuple[Mapping[str, Any], ...]
    dose_response: tuple[Mapping[str, Any], ...]
    promoted: tuple[MovedToken, ...]
    suppressed: tuple[MovedToken, ...]
    provenance: Mapping[str, Any]


async def put_effects(
    session: AsyncSession,
    sae_id: int,
    run_id: int,
    effects: Iterable[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> None:
    """Write effects, replacing earlier ones of the same features; readers see all or none once the session commits."""
    rows = [
        {
            "sae_id": sae_id,
            "feature": effect["feature"],
            "run_id": run_id,
            **{name: effect[name] for name in ("tokens", "kl", "delta_loss", "ratio")},
            "low": effect["interval"][0] if effect["interval"] else None,
            "high": effect["interval"][1] if effect["interval"] else None,
            "detail": clean_json({**{name: effect[name] for name in _DETAIL}, "provenance": provenance}),
        }
        for effect in effects
    ]
    # The row's lock makes two runs that publish follow each other.
    await session.execute(select(Sae.id).where(Sae.id == sae_id).with_for_update())
    await count_changes(session, sae_id)
    numbers = [row["feature"] for row in rows]
    await session.execute(
        delete(FeatureEffect).where(FeatureEffect.sae_id == sae_id, in_array(FeatureEffect.feature, numbers))
    )
    if rows:
        await session.execute(insert(FeatureEffect), rows)


_DETAIL = ("contexts", "delta_loss_interval", "control", "by_band", "dose_response", "promoted", "suppressed")


async def get_effect(session: AsyncSession, sae: SaeDetail, feature: int) -> EffectView | None:
    """Return the effect of a feature; None if it was never measured."""
    row = await session.get(FeatureEffect, (sae.id, feature), populate_existing=True)
    if row is None:
        return None
    detail = row.detail
    tokens = await get_tokens(
        session, sae.model.id, [token for token, _ in chain(detail["promoted"], detail["suppressed"])]
    )

    def moved(name: str) -> tuple[MovedToken, ...]:
        return tuple(
            MovedToken(token, tokens[token].bytes, tokens[token].special, change)
            for token, change in detail[name]
            if token in tokens  # a model's unembedding may have rows that its tokenizer lacks
        )

    return EffectView(
        tokens=row.tokens,
        ratio=row.ratio,
        interval=_interval(row.low, row.high),
        run=row.run_id,
        contexts=detail["contexts"],
        kl=row.kl,
        delta_loss=row.delta_loss,
        delta_loss_interval=tuple(detail["delta_loss_interval"]) if detail["delta_loss_interval"] else None,
        control=detail["control"],
        by_band=tuple(detail["by_band"]),
        dose_response=tuple(detail["dose_response"]),
        promoted=moved("promoted"),
        suppressed=moved("suppressed"),
        provenance=detail["provenance"],
    )


async def effect_summaries(
    session: AsyncSession, sae_id: int, features: Collection[int] | None = None
) -> dict[int, EffectSummary]:
    """Return the effects of these features, or of all, by feature; those that were never measured are left out."""
    columns = (FeatureEffect.feature, FeatureEffect.tokens, FeatureEffect.ratio, FeatureEffect.low, FeatureEffect.high)
    wanted = select(*columns).where(FeatureEffect.sae_id == sae_id)
    if features is not None:
        wanted = wanted.where(in_array(FeatureEffect.feature, features))
    rows = await session.execute(wanted.order_by(FeatureEffect.feature))
    return {feature: EffectSummary(tokens, ratio, _interval(low, high)) for feature, tokens, ratio, low, high in rows}


def _interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
