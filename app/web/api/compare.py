"""Comparisons of two SAEs, and of one feature with its counterparts."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.problems import documented
from app.queries import comparisons as queries
from app.queries.comparisons import MAX_LIMIT, ComparisonView, Counterpart, Listing, Partner
from app.queries.saes import SaeDetail, get_saes
from app.services.comparisons import comparing_runs
from app.services.saes import check_comparable, find_sae
from app.web.dependencies import FeatureIndex, Sae, Session

router = APIRouter(prefix="/api/v1", tags=["Comparisons"])


class PartnerOut(BaseModel):
    """A feature of the other SAE. Measures of activity are null where directions alone were compared."""

    index: int
    cosine: Annotated[float, Field(description="Of the decoder directions.")]
    correlation: Annotated[float | None, Field(description="Pearson's, of the activations on all counted tokens.")]
    joint: Annotated[int | None, Field(description="Tokens on which both are active.")]
    given_this: Annotated[float | None, Field(description="P(it is active | this feature is active).")]
    given_other: Annotated[float | None, Field(description="P(this feature is active | it is active).")]


class CounterpartOut(BaseModel):
    """Counterpart of one feature in another SAE."""

    feature: int
    near: Annotated[PartnerOut | None, Field(description="The nearest in direction.")]
    comes_back: Annotated[bool, Field(description="True if the nearest has a cosine of 0.7 or more.")]
    near_matched: Annotated[bool, Field(description="True if each is nearest to the other, and near enough.")]
    coactive: Annotated[PartnerOut | None, Field(description="The one whose activations correlate most.")]
    coactive_matched: Annotated[bool, Field(description="True if each correlates most with the other, and enough.")]
    parent: Annotated[PartnerOut | None, Field(description="The more frequent feature that this one is a part of.")]
    parts: Annotated[int, Field(description="Features of the other SAE that are parts of this one.")]
    covered: Annotated[float | None, Field(description="Share of its tokens on which at least one part is active.")]


class PartnerShareOut(BaseModel):
    """Share of some features that have a partner: one of cosine, or correlation, 0.7 or more."""

    features: int
    found: Annotated[int, Field(description="Features with a partner.")]
    interval: Annotated[
        tuple[float, float], Field(description="95 % interval of the share, as if features were drawn.")
    ]


class PartnersOut(BaseModel):
    """How many features of an SAE come back in the other."""

    direction: PartnerShareOut
    activity: Annotated[PartnerShareOut | None, Field(description="Without dead features; null if not compared.")]
    chance: Annotated[PartnerShareOut, Field(description="By direction, in a random dictionary of the other's size.")]
    chance_cosine: Annotated[float, Field(description="Mean of the best cosines in the random dictionary.")]


class SideOut(BaseModel):
    """One of the two SAEs, with counts of its features by their match in the other."""

    sae: str
    features: int
    matched_by_direction: int
    matched_by_activity: int
    matched_by_both: Annotated[int, Field(description="With the same partner.")]
    unmatched: Annotated[int, Field(description="Features without a partner by either; without the dead.")]
    dead: int
    parts: Annotated[int, Field(description="Features that are a part of one of the other SAE.")]
    split: Annotated[int, Field(description="Features with two parts or more in the other SAE.")]
    cosine: Annotated[dict[str, list[int]], Field(description="Features by their best cosine, in equal bins over 0–1.")]
    correlation: Annotated[dict[str, list[int]], Field(description="The same by their best correlation.")]
    uncorrelated: Annotated[int, Field(description="Features without a correlated partner.")]
    partners: Annotated[PartnersOut | None, Field(description="Null in a comparison older than the measure.")] = None


class ComparisonOut(BaseModel):
    """Two SAEs of one model, with one page of a list of features."""

    a: SideOut
    b: SideOut
    tokens: Annotated[int, Field(description="Counted tokens that activity was compared on; 0: directions alone were.")]
    current: Annotated[bool, Field(description="True if both are still indexed on that text.")]
    provenance: Annotated[dict[str, Any], Field(description="Hashes, versions and thresholds.")]
    created_at: datetime
    features: list[CounterpartOut]
    total: Annotated[int, Field(description="Features in the list, on all pages.")]
    next_cursor: str | None


class CounterpartDetailOut(CounterpartOut):
    """Counterpart of a feature in one other SAE, with its parts there."""

    sae: Annotated[str, Field(description="The other SAE.")]
    tokens: Annotated[int, Field(description="Counted tokens that activity was compared on; 0: directions alone were.")]
    parts_of_it: Annotated[list[PartnerOut], Field(description="Its parts, seen from this feature.")]


class CounterpartsOut(BaseModel):
    """Counterparts of a feature in every SAE that its own was compared with."""

    counterparts: list[CounterpartDetailOut]


Slug = Annotated[str, Query(examples=["smollm2-135m-l9-batchtopk-4096"])]


@router.get("/compare", summary="Compare two SAEs", responses=documented(404))
async def compare(
    session: Session,
    a: Slug,
    b: Slug,
    show: Annotated[Listing, Query(description="Which features of `a` to list.")] = "matched",
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    cursor: str | None = None,
) -> ComparisonOut:
    """Return how the features of two SAEs match, and one page of the features of `a` that `show` selects."""
    this, other = await find_sae(session, a), await find_sae(session, b)
    check_comparable(this, other)
    comparison = await queries.get_comparison(session, this, other)
    if comparison is None:
        raise await _not_compared(session, this, other)
    page = await queries.list_counterparts(session, comparison, show, limit=limit, cursor=cursor)
    return ComparisonOut(
        a=SideOut(sae=this.slug, **comparison.this),
        b=SideOut(sae=other.slug, **comparison.other),
        tokens=comparison.tokens,
        current=comparison.is_of(this, other),
        provenance=dict(comparison.provenance),
        created_at=comparison.created_at,
        features=[CounterpartOut(**_fields(row)) for row in page.rows],
        total=page.total,
        next_cursor=page.next_cursor,
    )


@router.get("/saes/{sae}/features/{index}/counterparts", summary="A feature in other SAEs", responses=documented(404))
async def counterparts(sae: Sae, index: FeatureIndex, session: Session) -> CounterpartsOut:
    """Return the feature's counterparts and parts in every SAE that its own was compared with."""
    comparisons = await queries.list_comparisons(session, sae)
    found = await queries.counterparts_everywhere(session, comparisons, index)
    others = await get_saes(session, [comparison.other_id for comparison in comparisons])
    return CounterpartsOut(
        counterparts=[
            CounterpartDetailOut(
                **_fields(found[comparison.id]),
                sae=others[comparison.other_id].slug,
                tokens=comparison.tokens,
                parts_of_it=await _parts(session, comparison, index),
            )
            for comparison in comparisons
            if comparison.id in found
        ]
    )


async def _not_compared(session: AsyncSession, a: SaeDetail, b: SaeDetail) -> NotFound:
    under_way = await comparing_runs(session, a, b)
    if under_way:
        run = under_way[0].id
        return NotFound(f"Run {run} will compare these two: GET /api/v1/runs/{run} says how far it is.")
    return NotFound(
        "These two have not been compared: POST a run of kind compare to /api/v1/runs, or "
        f"run seesae compare {a.slug} {b.slug}."
    )


async def _parts(session: Session, comparison: ComparisonView, index: int) -> list[PartnerOut]:
    return [
        PartnerOut(
            index=part.feature,
            cosine=part.parent.cosine,
            correlation=part.parent.correlation,
            joint=part.parent.joint,
            given_this=part.parent.given_other,
            given_other=part.parent.given_this,
        )
        for part in await queries.get_parts(session, comparison, index)
        if part.parent is not None
    ]


def _fields(counterpart: Counterpart) -> dict[str, Any]:
    return {
        "feature": counterpart.feature,
        "near": _partner(counterpart.near),
        "comes_back": counterpart.comes_back,
        "near_matched": counterpart.near_matched,
        "coactive": _partner(counterpart.coactive),
        "coactive_matched": counterpart.coactive_matched,
        "parent": _partner(counterpart.parent),
        "parts": counterpart.parts,
        "covered": counterpart.covered,
    }


def _partner(partner: Partner | None) -> PartnerOut | None:
    return PartnerOut.model_validate(partner, from_attributes=True) if partner else None
