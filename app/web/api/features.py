"""Features: the list, the statistics of one feature, its examples."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, create_model

from app.errors import NotFound, Unprocessable
from app.problems import documented
from app.queries import examples, feature_list, features
from app.queries.effects import EffectView, MovedToken
from app.queries.examples import ExampleView
from app.queries.feature_list import MAX_LIMIT, MAX_QUERY, EffectFilter, FeatureFilter, FeatureRow, LabelFilter, Sort
from app.queries.features import EXTRA, FeatureDetail
from app.queries.labels import LabelSummary
from app.services.feature_texts import MAX_SEED, draw_examples
from app.web.components.export_formats import MEDIA_TYPES, Format, serialise
from app.web.components.label_models import LabelOut
from app.web.components.suggestion_models import SuggestionBrief
from app.web.components.token_models import OutputTokenOut, TokenText, TopTokenOut, lone_text, texts
from app.web.dependencies import FeatureIndex, Inference, Reader, Sae, Session
from sae_core.statistics.spec import BANDS, BY_NAME, HealthFlag, SqlType

router = APIRouter(prefix="/api/v1/saes/{sae}/features", tags=["Features"])


_TYPES: dict[SqlType, Any] = {
    "bigint": int,
    "double precision": float,
    "real": float,
    "integer[]": list[int],
    "smallint[]": list[int],
    "real[]": list[float],
    "text[]": list[str],
}


def _statistic_field(name: str) -> Any:
    """Return a field with the description of the statistic of this name."""
    return Field(description=BY_NAME[name].description)


def _explanation(label: LabelSummary | str | None) -> str | None:
    return label.explanation if isinstance(label, LabelSummary) else label


NeighbourLabel = Annotated[
    str | None,
    BeforeValidator(_explanation),
    Field(description="What everybody calls the feature: a decision, or the newest label."),
]


class _View(BaseModel):
    """Base of models that have the fields of a query's dataclass."""

    model_config = ConfigDict(from_attributes=True)


class HistogramOut(_View):
    """Non-zero activations in equal bins over (0, max]."""

    edges: Annotated[list[float], Field(description="One more than there are counts.")]
    counts: list[int]


class MovedTokenOut(BaseModel):
    """A token whose probability the feature changes where it is active, through all later layers."""

    id: int
    text: str
    change: Annotated[float, Field(description="Mean change of the probability, from -1 to 1.")]


class EffectSummaryOut(_View):
    """The effect of ablating a feature against that of random active features of equal mass on the same tokens."""

    tokens: Annotated[int, Field(description="Held-out tokens whose predictions were compared.")]
    ratio: Annotated[float | None, Field(description="KL over that of the controls; 1 is chance.")]
    interval: Annotated[tuple[float, float] | None, Field(description="95 % bootstrap interval of `ratio`.")]
    used: Annotated[bool, Field(description="True if the whole interval lies above 1.")]


class EffectOut(EffectSummaryOut):
    """All that was measured of a feature's effect. KL and losses are in nats per token."""

    run: Annotated[int | None, Field(description="The run that measured it; null once that is deleted.")]
    contexts: Annotated[int, Field(description="Places in which the feature was ablated.")]
    kl: float | None
    delta_loss: float | None
    delta_loss_interval: tuple[float, float] | None
    control: Annotated[dict[str, float], Field(description="`kl` and `delta_loss` of the controls.")]
    by_band: Annotated[list[dict[str, Any]], Field(description="By fifth of its activations, 5 the strongest.")]
    dose_response: Annotated[
        list[dict[str, Any]], Field(description="By what is added, in multiples of its strongest activation.")
    ]
    promoted: list[MovedTokenOut]
    suppressed: list[MovedTokenOut]
    provenance: Annotated[dict[str, Any], Field(description="Text, seed and settings; equal ones give equal effects.")]

    @classmethod
    def of(cls, effect: EffectView) -> "EffectOut":
        """Return a measured effect."""
        own = {name: getattr(effect, name) for name in cls.model_fields.keys() - {"promoted", "suppressed"}}
        return cls(**own, promoted=_moved(effect.promoted), suppressed=_moved(effect.suppressed))


def _moved(tokens: tuple[MovedToken, ...]) -> list[MovedTokenOut]:
    return [MovedTokenOut(id=token.id, text=lone_text(token), change=token.change) for token in tokens]


class FeatureSummary(BaseModel):
    """A feature in a list."""

    index: int
    density: Annotated[float, _statistic_field("density")]
    count: Annotated[int, _statistic_field("count")]
    max: Annotated[float, _statistic_field("max")]
    mean: Annotated[float, _statistic_field("mean")]
    coherence: Annotated[float | None, _statistic_field("coherence")]
    histogram: HistogramOut
    top_tokens: list[TopTokenOut]
    label: NeighbourLabel
    health: Annotated[list[str], _statistic_field("health")]
    match_share: Annotated[
        float | None, Field(description="In a search: share of the activation that falls on top tokens that match.")
    ] = None
    match_label: Annotated[
        str | None, Field(description="In a search: the explanation of the label that matches best, if one does.")
    ] = None
    effect: Annotated[EffectSummaryOut | None, Field(description="Null if it was never measured.")] = None
    suggestion: Annotated[
        SuggestionBrief | None,
        Field(description="What a machine suggests, if nobody has labelled the feature and something is stored."),
    ] = None


class FeatureList(BaseModel):
    """One page of features."""

    features: list[FeatureSummary]
    total: Annotated[int, Field(description="Features that pass the filter, on all pages.")]
    next_cursor: str | None
    corrected: Annotated[
        str | None,
        Field(description="The search with the nearest spelling, if a word of `q` matches no feature."),
    ] = None


class CoactiveOut(_View):
    """A feature that is active on the same tokens more often than by chance."""

    index: int
    label: NeighbourLabel
    pmi: Annotated[float, _statistic_field("coactive_pmi")]
    joint: Annotated[int, _statistic_field("coactive_joint")]
    given_this: Annotated[float, _statistic_field("coactive_given_this")]
    given_other: Annotated[float, _statistic_field("coactive_given_other")]


class NearOut(_View):
    """A feature whose decoder direction is near."""

    index: int
    label: NeighbourLabel
    cosine: Annotated[float, _statistic_field("near_cosine")]


class TopicOut(_View):
    """A topic of documents in which the feature is over-represented."""

    topic: str
    count: Annotated[int, _statistic_field("topic_counts")]
    share: Annotated[float, _statistic_field("topic_shares")]
    lift: Annotated[float, _statistic_field("topic_lifts")]


class _FeatureOut(BaseModel):
    """All statistics of one feature over the published index."""

    index: int
    tokens: Annotated[int, Field(description="Counted tokens of the index.")]
    density: Annotated[float, _statistic_field("density")]
    count: Annotated[int, _statistic_field("count")]
    max: Annotated[float, _statistic_field("max")]
    mean: Annotated[float, _statistic_field("mean")]
    histogram: HistogramOut
    band_edges: Annotated[list[float], _statistic_field("band_edges")]
    top_tokens: list[TopTokenOut]
    promoted: Annotated[list[OutputTokenOut], _statistic_field("promoted_ids")]
    suppressed: Annotated[list[OutputTokenOut], _statistic_field("suppressed_ids")]
    coactive: list[CoactiveOut]
    near: list[NearOut]
    topics: list[TopicOut]
    health: Annotated[list[str], _statistic_field("health")]
    labels: list[LabelOut]
    effect: Annotated[EffectOut | None, Field(description="Null if it was never measured: seesae effects SAE.")]


_extra: dict[str, Any] = {known.name: (_TYPES[known.sql_type] | None, _statistic_field(known.name)) for known in EXTRA}
FeatureOut = create_model("FeatureOut", __base__=_FeatureOut, __doc__=_FeatureOut.__doc__, **_extra)
"""With the statistics that need no code of their own; null if the index lacks them."""


class DocumentOut(_View):
    """The document that the example's token is from."""

    number: int
    title: str
    topic: str | None


class ExampleTokenOut(BaseModel):
    """One token of an example."""

    id: int
    text: TokenText
    activation: float
    special: bool


class ExampleOut(BaseModel):
    """One sequence in which the feature is active."""

    band: Annotated[
        int, Field(description=f"0: a top example; 1 to {BANDS}: the quantile band, {BANDS} the strongest.")
    ]
    rank: int
    sequence: Annotated[int, Field(description="Number of the sequence in the index's sequence set.")]
    position: Annotated[int, Field(description="The example's token, as a place in `tokens`.")]
    activation: Annotated[float, Field(description="The feature's activation at that position.")]
    document: DocumentOut | None
    tokens: Annotated[list[ExampleTokenOut], Field(description="The whole sequence, without padding.")]


class Examples(BaseModel):
    """Examples by band and rank."""

    examples: list[ExampleOut]


Text = Annotated[str, Query(max_length=MAX_QUERY)]
Bound = Annotated[FiniteFloat | None, Query(ge=0)]
Share = Annotated[FiniteFloat | None, Query(ge=0, le=1)]


async def _filter(
    sort: Annotated[
        Sort | None,
        Query(
            description="By default `match` with `q`, else `coherence`, or `density` in an index without it. Features "
            "without a coherence come last, or first if ascending. `match`: features whose label matches first, "
            "those with the fewest other words in it before others; then those with the largest share of their "
            "activation on top tokens that match."
        ),
    ] = None,
    descending: bool | None = None,
    min_density: Share = None,
    max_density: Share = None,
    min_max: Annotated[Bound, Query(description="Of the strongest activation.")] = None,
    max_max: Bound = None,
    q: Annotated[
        Text,
        Query(description="Words in labels or top tokens; the nearest spelling replaces one that matches nothing."),
    ] = "",
    health: Annotated[HealthFlag | None, Query(description="Features with this flag.")] = None,
    token: Annotated[Text, Query(description="A token among the top tokens, alone or after a space.")] = "",
    promotes: Annotated[Text, Query(description="The same among the promoted output tokens.")] = "",
    topic: Annotated[Text, Query(description="A topic in which the feature is over-represented.")] = "",
    label: LabelFilter | None = None,
    author: Annotated[Text, Query(description="Author of one of its submitted labels.")] = "",
    category: Annotated[Text, Query(description="A category of one of its submitted labels.")] = "",
    effect: Annotated[
        EffectFilter | None, Query(description="`used`: measured, and beyond chance; `measured`: measured at all.")
    ] = None,
) -> FeatureFilter:
    return FeatureFilter(
        sort=sort,
        descending=sort != "index" if descending is None else descending,
        min_density=min_density,
        max_density=max_density,
        min_max=min_max,
        max_max=max_max,
        q=q,
        health=health,
        token=token,
        promotes=promotes,
        topic=topic,
        label=label,
        author=author,
        category=category,
        effect=effect,
    )


Filter = Annotated[FeatureFilter, Depends(_filter)]
_NOT_IN_CSV = ("histogram", "effect", "suggestion")


class FeatureCsv(FeatureSummary):
    """A feature in a CSV file, where its effect and its suggestion have columns of their own, empty without them."""

    suggestion_text: str | None = None
    suggestion_by: Annotated[str | None, Field(description="The model's name, or `statistics`.")] = None

    effect_tokens: int | None = None
    effect_ratio: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None
    effect_used: bool | None = None

    @classmethod
    def of(cls, feature: FeatureSummary) -> "FeatureCsv":
        """Return a feature with its effect and its suggestion in columns."""
        columns: dict[str, Any] = dict(feature)
        if (suggested := feature.suggestion) is not None:
            columns |= {"suggestion_text": suggested.text, "suggestion_by": suggested.model or suggested.source}
        if (effect := feature.effect) is not None:
            low, high = effect.interval or (None, None)
            columns |= {"effect_tokens": effect.tokens, "effect_ratio": effect.ratio, "effect_used": effect.used}
            columns |= {"effect_low": low, "effect_high": high}
        return cls(**columns)


@router.get("", summary="List features", responses=documented(404))
async def list_features(
    sae: Sae,
    session: Session,
    filter: Filter,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    cursor: str | None = None,
) -> FeatureList:
    """Return one page of the features that pass all filters, the largest first, or by index the smallest."""
    page = await feature_list.list_features(session, sae, replace(filter, limit=limit, cursor=cursor))
    return FeatureList(
        features=[summary(row) for row in page.rows],
        total=page.total,
        next_cursor=page.next_cursor,
        corrected=page.corrected,
    )


@router.get(
    "/export",
    summary="Download features",
    response_class=StreamingResponse,
    responses={200: {"content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()}}, **documented(404)},
)
async def export_features(
    sae: Sae, session: Session, filter: Filter, request: Request, format: Format = "csv"
) -> StreamingResponse:
    """Stream all features that pass the filters as one file: CSV, a JSON array, or JSON lines.

    CSV has the texts of the top tokens, parted by semicolons, no histogram, and the effect in columns; the others have
    all of it whole.
    """
    filter = replace(filter, limit=MAX_LIMIT)
    # The first page is read before the response starts, so that an error still has a status.
    first = await feature_list.list_features(session, sae, filter, with_examples=False)
    pages = feature_list.pages(request.app.state.sessionmaker, sae, filter, first)
    name = f"{sae.slug}-features.{format}"

    def shown(row: FeatureRow) -> FeatureSummary:
        return FeatureCsv.of(summary(row)) if format == "csv" else summary(row)

    return StreamingResponse(
        serialise(format, ([shown(row) for row in page.rows] async for page in pages), not_in_csv=_NOT_IN_CSV),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/{index}", summary="One feature", response_model=FeatureOut, responses=documented(404))
async def get_feature(sae: Sae, index: FeatureIndex, session: Session, reader: Reader) -> _FeatureOut:
    """Return all statistics of one feature, its neighbours, and its labels: submitted ones, and `author`'s drafts."""
    feature = await features.get_feature(session, sae, index, reader=reader.reader)
    if feature is None and sae.index is not None:
        raise NotFound(f"Feature {index} is not in the export that {sae.slug} was imported from.")
    if feature is None:
        raise NotFound(_no_index_message(sae.slug))
    return feature_out(feature)


@router.get("/{index}/examples", summary="Examples of a feature", responses=documented(404))
async def get_examples(
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    inference: Inference,
    band: Annotated[int | None, Query(ge=0, le=BANDS, description="Only this band; 0 are the top examples.")] = None,
    limit: Annotated[int | None, Query(ge=1, le=examples.MAX_LIMIT, description="Examples per band.")] = None,
    min_activation: Annotated[
        float | None, Query(allow_inf_nan=False, description="With `max_activation`: draw from this range.")
    ] = None,
    max_activation: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    seed: Annotated[int, Query(ge=0, le=MAX_SEED, description="Another seed draws other examples.")] = 0,
) -> Examples:
    """Return whole sequences in which the feature is active, with its activation on every token.

    They are the examples of the index. With `min_activation` and `max_activation`, they are up to 50 sequences drawn at
    random from all activations above the first and up to the second.
    """
    if sae.index is None:
        raise NotFound(_no_index_message(sae.slug))
    if min_activation is None and max_activation is None:
        limit = examples.MAX_LIMIT if limit is None else limit
        found = await examples.get_examples(session, sae, index, band=band, limit=limit)
        return Examples(examples=[_example(example) for example in found])
    if min_activation is None or max_activation is None:
        raise Unprocessable("Give both min_activation and max_activation, or neither.")
    if band is not None:
        raise Unprocessable("Give a band, or a range of activations, not both.")
    feature = await features.get_feature(session, sae, index)
    if feature is None:
        raise NotFound(_no_index_message(sae.slug))
    limit = 10 if limit is None else limit
    drawn = await draw_examples(
        session, inference, sae, feature, low=min_activation, high=max_activation, limit=limit, seed=seed
    )
    return Examples(examples=[_example(example) for example in drawn.examples])


def _no_index_message(slug: str) -> str:
    return f"{slug} has no published index yet, so there are no statistics: run seesae index {slug}."


def _histogram(maximum: float, counts: tuple[int, ...]) -> HistogramOut:
    edges = [maximum * number / len(counts) for number in range(len(counts) + 1)] if counts else []
    return HistogramOut(edges=edges, counts=list(counts))


def _common_fields(feature: FeatureRow | FeatureDetail) -> dict[str, Any]:
    return {
        "index": feature.index,
        "density": feature.density,
        "count": feature.count,
        "max": feature.max,
        "mean": feature.mean,
        "top_tokens": [TopTokenOut.of(token) for token in feature.top_tokens],
        "health": list(feature.health),
    }


def summary(row: FeatureRow) -> FeatureSummary:
    """Return a row of a list."""
    return FeatureSummary(
        **_common_fields(row),
        coherence=row.coherence,
        histogram=_histogram(row.max, row.histogram),
        label=_explanation(row.label),
        match_share=row.match.share if row.match else None,
        match_label=row.match.label if row.match else None,
        effect=None if row.effect is None else EffectSummaryOut.model_validate(row.effect),
        suggestion=None if row.suggestion is None else SuggestionBrief.of(row.suggestion),
    )


def feature_out(feature: FeatureDetail) -> _FeatureOut:
    """Return one feature with all its statistics."""
    return FeatureOut(
        **_common_fields(feature),
        **feature.extra,
        tokens=feature.tokens,
        histogram=HistogramOut.model_validate(feature.histogram),
        band_edges=list(feature.band_edges),
        promoted=[OutputTokenOut(id=t.id, text=lone_text(t), logit=t.logit) for t in feature.promoted],
        suppressed=[OutputTokenOut(id=t.id, text=lone_text(t), logit=t.logit) for t in feature.suppressed],
        coactive=[CoactiveOut.model_validate(other) for other in feature.coactive],
        near=[NearOut.model_validate(other) for other in feature.near],
        topics=[TopicOut.model_validate(topic) for topic in feature.topics],
        labels=[LabelOut.of(label) for label in feature.labels],
        effect=None if feature.effect is None else EffectOut.of(feature.effect),
    )


def _example(example: ExampleView) -> ExampleOut:
    tokens = [
        ExampleTokenOut(id=token.id, text=text, activation=token.activation, special=token.special)
        for token, text in zip(example.tokens, texts(example.tokens), strict=True)
    ]
    return ExampleOut(
        band=example.band,
        rank=example.rank,
        sequence=example.sequence,
        position=example.position - example.start,
        activation=example.activation,
        document=DocumentOut.model_validate(example.document) if example.document else None,
        tokens=tokens,
    )
