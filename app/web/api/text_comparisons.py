"""What distinguishes two sides of texts, and one feature on the groups of a text set."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.problems import documented
from app.queries import text_comparisons as queries
from app.queries.models import get_tokens
from app.queries.sql.pg_safe import MAX_INTEGER
from app.queries.text_comparisons import (
    MAX_LIMIT,
    ORDERS,
    ComparedFeature,
    Direction,
    FeatureQuery,
    Order,
    SideView,
    TextComparisonView,
)
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.feature_groups import FeatureOnSet, GroupRate, feature_on_set
from app.services.saes import find_sae
from app.services.text_comparisons import find_text_comparison, side_name
from app.web.components.export_formats import MEDIA_TYPES, Format, serialise
from app.web.dependencies import AppSettings, BeforeId, FeatureIndex, Sae, Session, Submitter

router = APIRouter(prefix="/api/v1", tags=["Texts"])

_BATCH = 500
_DEFAULT_LIMIT = 50

ComparisonId = Annotated[int, Path(ge=1, le=MAX_INTEGER, description="Number of the comparison, as in its address.")]


class SideIn(BaseModel):
    """The texts of one label of a set, or of the whole set."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100, description="Name of the text set.", examples=["imdb"])]
    label: Annotated[str | None, Field(max_length=100, description="Only the texts with this label.")] = None


AnySide = Annotated[
    SideIn | Annotated[str, Field(min_length=1, max_length=200)],
    Field(
        description="A set by its name, `SET:LABEL`, or an object.", examples=[{"name": "imdb", "label": "positive"}]
    ),
]


class CompareTextsIn(BaseModel):
    """Two sides of texts."""

    model_config = ConfigDict(extra="forbid")

    a: AnySide
    b: AnySide
    max_tokens: Annotated[int, Field(ge=8, le=8192, description="Most tokens per text that are read.")] = 512


class RunOut(BaseModel):
    """The run that compares them; its result names the comparison."""

    run: int
    state: str


class SideOut(BaseModel):
    """One side of a comparison."""

    set: str
    label: str | None


class ComparedTextsOut(BaseModel):
    """A comparison of texts, without its features."""

    id: int
    sae: str
    a: SideOut
    b: SideOut
    texts_a: Annotated[int, Field(description="Different texts, without those that both sides have.")]
    texts_b: int
    tested: Annotated[int, Field(description="Features that are active on at least three texts.")]
    differ: Annotated[int, Field(description="Those with q below 0.05.")]
    run: Annotated[int | None, Field(description="The run that compared them.")]
    created_at: datetime


class ComparedTextsList(BaseModel):
    """Comparisons of one SAE."""

    comparisons: list[ComparedTextsOut]
    next_cursor: int | None


class ComparedFeatureOut(BaseModel):
    """What one feature tells of the sides. All but `test_…` is of the texts that choose."""

    feature: int
    direction: Annotated[Direction, Field(description="The side on which it is more active.")]
    active_a: Annotated[int, Field(description="Texts of a on which it is active.")]
    active_b: int
    auroc: Annotated[float, Field(description="P(its maximum is larger on a text of a than on one of b), ties half.")]
    auroc_low: Annotated[float, Field(description="95 % interval.")]
    auroc_high: float
    rate_a: Annotated[float, Field(description="Share of the texts of a on which it is active.")]
    rate_b: float
    difference: Annotated[float, Field(description="rate_a − rate_b, with a 95 % interval.")]
    difference_low: float
    difference_high: float
    lift: Annotated[float | None, Field(description="rate_a / rate_b; null where it is active on no text of b.")]
    d: Annotated[float | None, Field(description="Cohen's d of the maxima.")]
    p: Annotated[float, Field(description="Mann–Whitney's, or by permutation where few texts have it.")]
    q: Annotated[float, Field(description="Benjamini–Hochberg's, over all features tested.")]
    test_auroc: Annotated[float | None, Field(description="On the texts held out; null where there are too few.")]
    test_low: float | None
    test_high: float | None
    matched_auroc: Annotated[float | None, Field(description="Among texts of about one length.")]
    token: Annotated[str, Field(description="The token on which it is active most.")]
    token_share: Annotated[float, Field(description="Share of its activation on that token, in any spelling.")]
    first_share: Annotated[float, Field(description="Share of its texts on which it peaks at the first token.")]
    last_share: float


class ComparedFeatureDetailOut(ComparedFeatureOut):
    """The same with examples, which the strongest features have."""

    examples: list[dict[str, Any]] | None


class ComparedTextsDetail(ComparedTextsOut):
    """A comparison with one page of its features, words and baselines."""

    detail: Annotated[dict[str, Any], Field(description="Counts, words and baselines: docs/comparing-texts.md.")]
    features: list[ComparedFeatureDetailOut]
    total: Annotated[int, Field(description="Features that pass the filters, on all pages.")]
    next_cursor: str | None


class RateOut(BaseModel):
    """Texts of one label or group; `name` is null for those without any."""

    name: str | None
    texts: int
    active: int
    rate: float
    interval: tuple[float, float]
    mean: Annotated[float, Field(description="Mean of the largest activation per text.")]


class TextActivationOut(BaseModel):
    """The feature's largest activation on one text."""

    number: int
    split: str
    label: str | None
    group: str | None
    activation: float


class FeatureOnSetOut(BaseModel):
    """One feature on a text set."""

    sae: str
    feature: int
    textset: str
    max_tokens: Annotated[int, Field(description="Most tokens per text that were read.")]
    all: RateOut
    labels: list[RateOut]
    groups: list[RateOut]
    texts: list[TextActivationOut]


@router.post(
    "/saes/{sae}/compare-texts", summary="Compare two sides of texts", status_code=202, responses=documented(404, 422)
)
async def compare_texts(
    sae: Sae, body: CompareTextsIn, session: Session, settings: AppSettings, actor: Submitter, response: Response
) -> RunOut:
    """Queue a run that finds what distinguishes the sides. `Location` is the run; its result names the comparison."""
    spec = spec_of("compare-texts")
    given = {"sae": sae.slug, "a": _named(body.a), "b": _named(body.b), "max_tokens": body.max_tokens}
    run = await request_run(session, spec, parse_params(spec, given), settings=settings, actor=actor)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return RunOut(run=run.id, state=run.state)


@router.get("/saes/{sae}/text-comparisons", summary="Comparisons of texts", responses=documented(404))
async def list_comparisons(
    sae: Sae,
    session: Session,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = _DEFAULT_LIMIT,
    cursor: BeforeId = None,
) -> ComparedTextsList:
    """Return the SAE's comparisons of texts, newest first."""
    found, following = await queries.list_text_comparisons(session, sae_id=sae.id, limit=limit, before=cursor)
    return ComparedTextsList(comparisons=[ComparedTextsOut(**_summary(view)) for view in found], next_cursor=following)


async def _query(
    direction: Annotated[
        Direction | None, Query(description="Only features that are more active on this side.")
    ] = None,
    order: Annotated[Order, Query(description=f"One of {', '.join(ORDERS)}.")] = "strength",
    differing: Annotated[bool, Query(description="Only features with q below 0.05.")] = False,
    without_tokens: Annotated[bool, Query(description="Leave out features of one token alone.")] = False,
    min_rate: Annotated[float, Query(ge=0, le=1, description="Least rate on the side of its direction.")] = 0.0,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = _DEFAULT_LIMIT,
) -> FeatureQuery:
    return FeatureQuery(direction, order, differing, without_tokens, min_rate, cursor, limit)


@router.get("/text-comparisons/{id}", summary="One comparison of texts", responses=documented(404))
async def get_comparison(
    id: ComparisonId, session: Session, query: Annotated[FeatureQuery, Depends(_query)]
) -> ComparedTextsDetail:
    """Return a comparison: counts, words, baselines, and one page of its features with examples."""
    view = await find_text_comparison(session, id)
    page = await queries.compared_features(session, view.id, query)
    spelled = await _spelled(session, view, page.rows)
    return ComparedTextsDetail(
        **_summary(view),
        detail=dict(view.detail),
        features=[
            ComparedFeatureDetailOut(
                **_feature(row, spelled), examples=None if row.examples is None else [dict(own) for own in row.examples]
            )
            for row in page.rows
        ],
        total=page.total,
        next_cursor=page.next_cursor,
    )


@router.get(
    "/text-comparisons/{id}/export",
    summary="Download a comparison of texts",
    response_class=StreamingResponse,
    responses={200: {"content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()}}, **documented(404)},
)
async def export_comparison(
    id: ComparisonId, session: Session, request: Request, format: Format = "csv"
) -> StreamingResponse:
    """Stream the figures of all features that were tested, the strongest first: CSV, a JSON array, or JSON lines."""
    view = await find_text_comparison(session, id)
    return StreamingResponse(
        serialise(format, _batches(request.app.state.sessionmaker, view)),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="text-comparison-{view.id}.{format}"'},
    )


@router.delete(
    "/text-comparisons/{id}", summary="Delete a comparison of texts", status_code=204, responses=documented(403, 404)
)
async def delete_comparison(id: ComparisonId, session: Session) -> None:
    """Delete a comparison; the sets and what the SAE made of them stay."""
    view = await find_text_comparison(session, id)
    await queries.delete_text_comparison(session, view.id)


@router.get(
    "/saes/{sae}/features/{index}/textsets/{name}",
    summary="One feature on a text set",
    responses=documented(404),
)
async def feature_on_texts(sae: Sae, index: FeatureIndex, name: str, session: Session) -> FeatureOnSetOut:
    """Return the shares of texts on which the feature is active, by label and group, and its maximum on each text."""
    found = await feature_on_set(session, sae, index, name)
    return _on_set(found, sae.slug, index)


def _named(side: SideIn | str) -> str:
    return side if isinstance(side, str) else side_name(side.name, side.label)


def _side(side: SideView) -> SideOut:
    return SideOut(set=side.set_name, label=side.label)


def _summary(view: TextComparisonView) -> dict[str, Any]:
    return {
        "id": view.id,
        "sae": view.sae,
        "a": _side(view.a),
        "b": _side(view.b),
        "texts_a": view.detail["sides"]["a"]["texts"],
        "texts_b": view.detail["sides"]["b"]["texts"],
        "tested": view.detail["tested"],
        "differ": view.detail["differ"],
        "run": view.run_id,
        "created_at": view.created_at,
    }


async def _spelled(
    session: AsyncSession, view: TextComparisonView, rows: tuple[ComparedFeature, ...]
) -> dict[int, str]:
    sae = await find_sae(session, view.sae)
    ids = {row.token_id for row in rows if row.token_id is not None}
    tokens = await get_tokens(session, sae.model.id, ids)
    return {number: tokens[number].bytes.decode(errors="replace") for number in ids}


def _feature(row: ComparedFeature, spelled: dict[int, str]) -> dict[str, Any]:
    figures = {name: getattr(row, name) for name in queries.FIGURES if name != "token_id"}
    return {**figures, "direction": row.direction, "token": spelled.get(row.token_id or 0, "")}


async def _batches(
    sessions: async_sessionmaker[AsyncSession], view: TextComparisonView
) -> AsyncIterator[list[ComparedFeatureOut]]:
    """Yield all features in batches, each read in its own transaction."""
    query = FeatureQuery(limit=_BATCH)
    while True:
        async with transaction(sessions) as session:
            page = await queries.compared_features(session, view.id, query)
            spelled = await _spelled(session, view, page.rows)
        yield [ComparedFeatureOut(**_feature(row, spelled)) for row in page.rows]
        if page.next_cursor is None:
            return
        query = FeatureQuery(limit=_BATCH, cursor=page.next_cursor)


def _on_set(found: FeatureOnSet, sae: str, feature: int) -> FeatureOnSetOut:
    return FeatureOnSetOut(
        sae=sae,
        feature=feature,
        textset=found.view.name,
        max_tokens=found.reading.max_tokens,
        all=_rate(found.all),
        labels=[_rate(rate) for rate in found.labels],
        groups=[_rate(rate) for rate in found.groups],
        texts=[
            TextActivationOut(
                number=text.number, split=text.split, label=text.label, group=text.group, activation=activation
            )
            for text, activation in found.values
        ],
    )


def _rate(rate: GroupRate) -> RateOut:
    return RateOut.model_validate(rate, from_attributes=True)
