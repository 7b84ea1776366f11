"""Suggestions of machines for labels, which are never counted as labels."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from app.errors import NotFound
from app.problems import documented
from app.queries.features import get_feature
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.suggestions import shown_suggestions
from app.web.components.suggestion_models import SuggestionOut
from app.web.dependencies import AppSettings, FeatureIndex, Sae, Session, Submitter

router = APIRouter(prefix="/api/v1/saes/{sae}", tags=["Suggestions"])


class SuggestIn(BaseModel):
    """Features, and who suggests: the parameters of `seesae suggest`, all of them optional."""

    model_config = ConfigDict(extra="forbid")

    features: Annotated[list[int] | None, Field(description="By default those without a label, as `sample` says.")] = (
        None
    )
    sample: Annotated[int | None, Field(description="Features to suggest labels of, the most frequent first.")] = None
    source: Annotated[
        str | None,
        Field(description="`model` or `statistics`; by default a model if SEESAE_LLM_URL is set, else statistics."),
    ] = None
    model: Annotated[str | None, Field(description="Name of the model; by default SEESAE_LLM_MODEL.")] = None
    score: Annotated[bool | None, Field(description="Whether the model tests the suggestions; by default it does.")] = (
        None
    )
    estimate: Annotated[bool | None, Field(description="Only estimate requests, tokens and money.")] = None
    answer_tokens: Annotated[int | None, Field(description="Most tokens of one answer.")] = None
    seed: Annotated[int | None, Field(description="Another seed asks again what was answered before.")] = None


class SubmittedOut(BaseModel):
    """A run that was queued."""

    run: int
    state: str


class SuggestionsOut(BaseModel):
    """The suggestions of a feature."""

    suggestions: list[SuggestionOut]


@router.post("/suggestions", summary="Suggest labels", status_code=202, responses=documented(404))
async def suggest(
    sae: Sae,
    session: Session,
    settings: AppSettings,
    actor: Submitter,
    response: Response,
    body: SuggestIn | None = None,
) -> SubmittedOut:
    """Queue a run that suggests labels of features and tests them; `Location` is the run."""
    given: dict[str, Any] = {} if body is None else body.model_dump(exclude_none=True)
    spec = spec_of("suggest")
    run = await request_run(
        session, spec, parse_params(spec, {**given, "sae": sae.slug}), settings=settings, actor=actor
    )
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return SubmittedOut(run=run.id, state=run.state)


@router.get("/features/{index}/suggestions", summary="Suggestions of a feature", responses=documented(404))
async def list_suggestions(sae: Sae, index: FeatureIndex, session: Session) -> SuggestionsOut:
    """Return what machines suggest as the label of a feature: the newest of each model, and a sentence from statistics.

    They are apart from labels, and never counted as such.
    """
    detail = await get_feature(session, sae, index)
    if detail is None:
        raise NotFound(f"{sae.slug} has no statistics of feature {index} to suggest a label from.")
    return SuggestionsOut(suggestions=[SuggestionOut.of(sae, view) for view in shown_suggestions(sae, detail)])
