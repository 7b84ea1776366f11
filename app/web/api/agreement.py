"""Agreement in label sets: measures, progress, labels that differ, decisions between them, and votes."""

import dataclasses
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.problems import documented
from app.queries import decisions
from app.queries.decisions import DecisionText
from app.queries.label_sets import LabelSetView
from app.queries.progress import set_progress
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.actors import Actor as ActorOf
from app.services.adjudication import (
    MAX_NOTE,
    DecisionConflict,
    State,
    decide,
    find_set,
    list_disagreements,
    vote,
)
from app.services.dashboard import set_agreement, set_collisions
from app.services.labels import MAX_EXPLANATION, SCALE
from app.web.components.agreement_models import (
    CollisionsOut,
    DecisionOut,
    DisagreementOut,
    ProgressOut,
    SetAgreementOut,
    VotesOut,
)
from app.web.dependencies import Actor, Session
from app.web.errors import answer

router = APIRouter(prefix="/api/v1", tags=["Labels"])

_LIMIT = 50
_MAX_LIMIT = 200


async def _set(
    session: Session, id: Annotated[int, Path(ge=1, le=MAX_INTEGER, description="Id of the label set.")]
) -> tuple[LabelSetView, SaeDetail]:
    return await find_set(session, id)


Set = Annotated[tuple[LabelSetView, SaeDetail], Depends(_set)]
Limit = Annotated[int, Query(ge=1, le=_MAX_LIMIT)]
Cursor = Annotated[int, Query(ge=0, le=MAX_INTEGER, description="`next_cursor` of the previous page.")]


class DecisionIn(BaseModel):
    """A decision to write."""

    model_config = ConfigDict(extra="forbid")

    feature: Annotated[int, Field(examples=[1042])]
    explanation: Annotated[str, Field(description=f"Up to {MAX_EXPLANATION:,} characters.")]
    categories: Annotated[list[str], Field(examples=[["medicine"]])] = []
    interpretability: Annotated[int, Field(ge=SCALE[0], le=SCALE[-1])] | None = None
    note: Annotated[str, Field(description=f"The reason, up to {MAX_NOTE:,} characters.")] = ""
    replaces: Annotated[
        int | None,
        Field(description="Id of the decision that you read; null if there was none. If another holds: 409 with both."),
    ] = None


class DecisionsOut(BaseModel):
    """Decisions of a label set, oldest first. Of several about one feature the last one holds."""

    decisions: list[DecisionOut]
    next_cursor: str | None


class DisagreementsOut(BaseModel):
    """Features whose labels differ: those that nobody decided first, then those that differ most."""

    features: list[DisagreementOut]
    next_cursor: str | None


class VoteIn(BaseModel):
    """A vote on an explanation."""

    model_config = ConfigDict(extra="forbid")

    value: Annotated[Literal[-1, 0, 1], Field(description="1 for, -1 against, 0 to take the vote back.")]


@router.get("/labelsets/{id}/agreement", summary="Agreement in a label set", responses=documented(404))
async def get_agreement(label_set: Set, session: Session, actor: Actor) -> SetAgreementOut:
    """Return how far people agree, each measure with a 95 % bootstrap interval over features and its counts.

    It is about the submitted labels of features that two people or more labelled; "can't tell" is no answer. Where
    there is too little to say, a value is null and its `reason` says why. In a blind set it is about the features that
    you have labelled; reviewers see all.
    """
    of, _ = label_set
    return SetAgreementOut.of(await set_agreement(session, of, actor), _shown(actor))


@router.get("/labelsets/{id}/progress", summary="Progress of a label set", responses=documented(404))
async def get_progress(label_set: Set, session: Session, actor: Actor) -> ProgressOut:
    """Return how far a label set is, how fast people are, and what is stuck."""
    of, _ = label_set
    return ProgressOut.of(await set_progress(session, of), of.needed, _shown(actor))


@router.get("/labelsets/{id}/collisions", summary="Labels that features share", responses=documented(404))
async def get_collisions(label_set: Set, session: Session, actor: Actor) -> CollisionsOut:
    """Return which features of a label set share a label, with the same words or nearly."""
    of, _ = label_set
    return CollisionsOut.of(await set_collisions(session, of, actor))


@router.get("/labelsets/{id}/disagreements", summary="Labels that differ", responses=documented(404))
async def get_disagreements(
    label_set: Set,
    session: Session,
    actor: Actor,
    state: State | None = None,
    limit: Limit = _LIMIT,
    cursor: Cursor = 0,
) -> DisagreementsOut:
    """Return the features of a label set whose labels differ, with the labels side by side."""
    of, _ = label_set
    found = [entry for entry in await list_disagreements(session, of, actor) if state in (None, entry.state)]
    page = found[cursor : cursor + limit]
    following = str(cursor + limit) if cursor + limit < len(found) else None
    return DisagreementsOut(features=[DisagreementOut.of(entry) for entry in page], next_cursor=following)


@router.get("/labelsets/{id}/decisions", summary="Decisions of a label set", responses=documented(404))
async def list_decisions(
    label_set: Set,
    session: Session,
    actor: Actor,
    feature: Annotated[int | None, Query(ge=0, le=MAX_INTEGER)] = None,
    limit: Limit = _LIMIT,
    cursor: Cursor = 0,
) -> DecisionsOut:
    """Return what reviewers decided, oldest first; decisions never change and never go away."""
    of, _ = label_set
    found = await decisions.list_decisions(
        session, of.id, reader=actor.reader, feature=feature, after=cursor, limit=limit + 1
    )
    page = found[:limit]
    return DecisionsOut(
        decisions=[DecisionOut.of(entry) for entry in page],
        next_cursor=str(page[-1].id) if len(found) > limit else None,
    )


@router.post(
    "/labelsets/{id}/decisions", summary="Decide about a feature", status_code=201, responses=documented(404, 409)
)
async def post_decision(label_set: Set, decision: DecisionIn, session: Session, actor: Actor) -> DecisionOut:
    """Write what a feature means, beside the labels, which stay as they are. For reviewers.

    `replaces` is the id of the decision that holds, null for the first one; if another holds by now, nothing is written
    and the answer is 409 with both texts: `current` and `submitted`. Sent twice, it is one decision.
    """
    of, sae = label_set
    text = DecisionText(decision.explanation, tuple(decision.categories), decision.interpretability, decision.note)
    made = await decide(session, of, sae, decision.feature, actor=actor, text=text, replaces=decision.replaces)
    return DecisionOut.of(made)


@router.put("/labels/{id}/vote", summary="Vote on an explanation", responses=documented(404))
async def put_vote(
    id: Annotated[int, Path(ge=1, le=MAX_INTEGER)], ballot: VoteIn, session: Session, actor: Actor
) -> VotesOut:
    """Say what you think of another's explanation. In a blind set, after your own label of the feature is in."""
    return VotesOut.of(await vote(session, id, ballot.value, actor=actor))


def _shown(actor: ActorOf) -> set[int] | None:
    """Return the people about whom an actor reads: None for all."""
    return None if actor.reader.sees_all else {actor.person_id or 0}


async def answer_conflict(request: Request, error: Exception) -> Response:
    """Answer 409 with both texts, so that neither is lost."""
    assert isinstance(error, DecisionConflict)
    current = DecisionOut.of(error.current).model_dump(mode="json") if error.current else None
    return answer(
        request, error.status, error.title, str(error), current=current, submitted=dataclasses.asdict(error.submitted)
    )
