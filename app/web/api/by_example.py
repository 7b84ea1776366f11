"""POST /saes/{sae}/features/by-example."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from app.problems import documented
from app.queries.feature_list import MAX_LIMIT, feature_rows
from app.services import by_example as service
from app.web.components.token_models import TokenText
from app.web.dependencies import Inference, Sae, Session

router = APIRouter(prefix="/api/v1/saes/{sae}/features/by-example", tags=["Features"])

Density = Annotated[FiniteFloat | None, Field(ge=0, le=1)]


class ByExampleIn(BaseModel):
    """A text, and the tokens that matter in it."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str, Field(description="Neither kept nor logged.", examples=["He was taken off with a concussion."])
    ]
    tokens: Annotated[
        list[int],
        Field(
            max_length=service.MAX_CHOSEN,
            description="Positions of the chosen tokens; none means all but special ones.",
        ),
    ] = []
    min_density: Density = None
    max_density: Annotated[Density, Field(description="Null for no bound.")] = service.MAX_DENSITY
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50


class ExampleTextTokenOut(BaseModel):
    """One token of the text."""

    id: int
    text: TokenText
    special: Annotated[bool, Field(description="BOS or another special token, which cannot be chosen.")]


class FoundFeatureOut(BaseModel):
    """A feature that is active on chosen tokens."""

    index: int
    label: Annotated[
        str | None, Field(description="What everybody calls the feature: a decision, or the newest label.")
    ]
    density: float
    max: Annotated[float, Field(description="Its strongest activation in the index.")]
    percentile: Annotated[
        float,
        Field(
            description="0 to 100: the mean over the chosen tokens of the activation's percentile within the feature's "
            "own non-zero activations over the index, with 0 where it is not active."
        ),
    ]
    activations: Annotated[list[float], Field(description="One per position of `chosen`.")]


class ByExampleOut(BaseModel):
    """The text's tokens, and the features found by them."""

    tokens: list[ExampleTextTokenOut]
    chosen: Annotated[list[int], Field(description="Positions of the tokens that the features are ranked by.")]
    features: Annotated[list[FoundFeatureOut], Field(description="The highest percentile first.")]
    active: Annotated[int, Field(description="Features active on chosen tokens, of any density.")]
    within: Annotated[int, Field(description="Those with a density in the range, listed or not.")]


@router.post("", summary="Find features by example", responses=documented(404, 413))
async def by_example(sae: Sae, request: ByExampleIn, session: Session, inference: Inference) -> ByExampleOut:
    """Return the features within a density range that are unusually active on chosen tokens of a text."""
    result = await service.by_example(
        session,
        inference,
        sae,
        request.text,
        chosen=request.tokens,
        min_density=request.min_density,
        max_density=request.max_density,
        limit=request.limit,
    )
    found = {feature.index: feature for feature in result.features}
    rows = await feature_rows(session, sae, found, with_examples=False)
    return ByExampleOut(
        tokens=[ExampleTextTokenOut.model_validate(token, from_attributes=True) for token in result.tokens],
        chosen=list(result.chosen),
        features=[
            FoundFeatureOut(
                index=row.index,
                label=row.label.explanation if row.label else None,
                density=row.density,
                max=row.max,
                percentile=found[row.index].percentile,
                activations=list(found[row.index].activations),
            )
            for row in (rows[number] for number in found if number in rows)
        ],
        active=result.active,
        within=result.within,
    )
