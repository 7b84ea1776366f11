"""Blind tests of labels: make one, read its questions, answer them, and read the truth."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.problems import documented
from app.queries import blind_tests as queries
from app.queries.blind_tests import BlindTestView, ResultView
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.blind_items import ITEMS, MAX_ITEMS, BlindKind
from app.services.blind_tests import (
    MIN_ITEMS,
    OpenTest,
    answer_test,
    make_test,
    open_test,
    sae_of,
    score_votes,
    set_of,
    visible_tests,
)
from app.services.labels import MAX_NAME
from app.web.components.blind_models import ScoreOut
from app.web.components.token_models import texts
from app.web.dependencies import Actor, BeforeId, Inference, Reader, Session

router = APIRouter(prefix="/api/v1", tags=["Labels"])

_PER_PAGE = 50
_NO_STORE = {"Cache-Control": "no-store"}

TestId = Annotated[int, Path(ge=1, le=MAX_INTEGER, description="Id of the test.", examples=[12])]
SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER, description="Id of the label set.", examples=[1])]
Author = Annotated[
    str | None, Field(min_length=1, max_length=MAX_NAME, description="Who acts; by default the setting SEESAE_AUTHOR.")
]


class ResultOut(BaseModel):
    """What one person scored."""

    tester: str
    score: ScoreOut
    answered_at: datetime


class BlindTestSummary(BaseModel):
    """A test without its items."""

    id: Annotated[int, Field(description="Its page is /tests/{id}.")]
    set: str
    kind: BlindKind
    label: Annotated[int | None, Field(description="Id of the label; null of an intruder test.")]
    explanation: Annotated[str | None, Field(description="The label as it read when the test was made.")]
    is_current: Annotated[bool, Field(description="False if the label has another text by now.")]
    items: int
    created_by: str
    created_at: datetime
    results: list[ResultOut]


class BlindTests(BaseModel):
    """One page of tests, newest first."""

    tests: list[BlindTestSummary]
    next_cursor: str | None


class SnippetOut(BaseModel):
    """Some tokens of held-out text, and the places of those that are marked."""

    tokens: list[str]
    marked: list[int]


class QuestionOut(BaseModel):
    """What is asked: of one snippet, or which one of several does not belong."""

    snippets: list[SnippetOut]


class HiddenOut(BaseModel):
    """Where a snippet is from, and the feature's activations on it by place."""

    sequence: int
    start: int
    active: list[int]
    values: list[float]


class TruthOut(BaseModel):
    """The answer to an item: 1 or 0, or the place of the intruder; and where the snippet, or intruder, is from."""

    truth: int
    why: str
    hidden: Annotated[list[HiddenOut], Field(description="Of each snippet.")]


class BlindTestOut(BlindTestSummary):
    """A test with its questions; for those who have answered, with the truth."""

    questions: list[QuestionOut]
    may_answer: bool
    why_not: Annotated[str, Field(description="Why you cannot answer; empty if you can.")]
    feature: Annotated[int | None, Field(description="Null until you have answered.")] = None
    seed: Annotated[int | None, Field(description="Of the draw; null until you have answered.")] = None
    answers: Annotated[list[int] | None, Field(description="What you have answered.")] = None
    truth: Annotated[list[TruthOut] | None, Field(description="Null until you have answered.")] = None
    votes: Annotated[ScoreOut | None, Field(description="All who answered together, from two people up.")] = None


class NewBlindTest(BaseModel):
    """A test to make: of a label, or an intruder test of a feature."""

    model_config = ConfigDict(extra="forbid")

    kind: BlindKind = "detection"
    label: Annotated[int | None, Field(description="Id of a submitted label of the set.")] = None
    feature: Annotated[int | None, Field(description="Of an intruder test.")] = None
    items: Annotated[
        int, Field(ge=MIN_ITEMS, le=MAX_ITEMS, description="Of detection and fuzzing; an intruder test has 5.")
    ] = ITEMS
    author: Author = None


class AnswersIn(BaseModel):
    """Answers to all items, in order."""

    model_config = ConfigDict(extra="forbid")

    answers: Annotated[
        list[Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]],
        Field(max_length=10 * MAX_ITEMS, description="1 for yes and 0 for no, or the place of the intruder from 0."),
    ]
    confidences: Annotated[
        list[float] | None, Field(max_length=MAX_ITEMS, description="From 0, surely no, to 1, surely yes.")
    ] = None
    author: Author = None


@router.get("/labelsets/{id}/tests", summary="Blind tests of a label set", responses=documented(404))
async def get_tests(
    id: SetId,
    session: Session,
    reader: Reader,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=200)] = _PER_PAGE,
    cursor: BeforeId = None,
) -> BlindTests:
    """Return the tests of a set, newest first, with what people scored. In a blind set, those of labels you may see."""
    response.headers.update(_NO_STORE)
    label_set = await set_of(session, id)
    found, following = await visible_tests(session, label_set, reader, before=cursor, limit=limit)
    results = await queries.list_results(session, [test.id for test in found])
    return BlindTests(
        tests=[BlindTestSummary(**_summary(test, results.get(test.id, []))) for test in found],
        next_cursor=None if following is None else str(following),
    )


@router.post("/labelsets/{id}/tests", summary="Make a blind test", status_code=201, responses=documented(404, 409))
async def post_test(
    id: SetId, body: NewBlindTest, session: Session, actor: Actor, inference: Inference, response: Response
) -> BlindTestOut:
    """Draw a blind test of a label from held-out text, or an intruder test of a feature. `Location` is its address.

    Half of the snippets show the feature, from all quantile bands; the others are random, have a token on which it is
    active elsewhere, or show a neighbouring feature. Anybody but the label's author may answer.
    """
    actor = actor.named(body.author)
    label_set = await set_of(session, id)
    sae = await sae_of(session, label_set.sae_id)
    made = await make_test(
        session,
        inference,
        sae,
        label_set,
        actor=actor,
        kind=body.kind,
        label_id=body.label,
        feature=body.feature,
        items=body.items,
    )
    response.headers["Location"] = f"{router.prefix}/tests/{made.id}"
    return await _detail(session, sae, await open_test(session, made.id, actor), response)


@router.get("/tests/{id}", summary="One blind test", responses=documented(404))
async def get_test(id: TestId, session: Session, reader: Reader, response: Response) -> BlindTestOut:
    """Return the questions of a test, in random order. The truth is told once your answers are in."""
    opened = await open_test(session, id, reader)
    return await _detail(session, await sae_of(session, opened.test.sae_id), opened, response)


@router.post("/tests/{id}/answers", summary="Answer a blind test", responses=documented(404, 409))
async def post_answers(id: TestId, body: AnswersIn, session: Session, actor: Actor, response: Response) -> BlindTestOut:
    """Answer all items at once, and get the score and the truth. Answers are final; sent again, they are one.

    Whoever wrote the label is refused.
    """
    opened = await answer_test(session, id, actor.named(body.author), body.answers, body.confidences)
    return await _detail(session, await sae_of(session, opened.test.sae_id), opened, response)


def _summary(test: BlindTestView, results: list[ResultView]) -> dict[str, Any]:
    return {
        "id": test.id,
        "set": test.label_set,
        "kind": test.kind,
        "label": test.label_id,
        "explanation": test.explanation,
        "is_current": test.is_current,
        "items": test.items,
        "created_by": test.created_by,
        "created_at": test.created_at,
        "results": [
            ResultOut(tester=result.tester, score=ScoreOut.of(test.kind, result.score), answered_at=result.answered_at)
            for result in results
        ],
    }


async def _detail(session: AsyncSession, sae: SaeDetail, opened: OpenTest, response: Response) -> BlindTestOut:
    response.headers.update(_NO_STORE)
    test = opened.test
    ids = {token for shown in opened.questions for snippet in shown for token in snippet["token_ids"]}
    tokens = await get_tokens(session, sae.model.id, ids)
    questions = [
        QuestionOut(
            snippets=[
                SnippetOut(tokens=texts([tokens[token] for token in snippet["token_ids"]]), marked=snippet["marked"])
                for snippet in shown
            ]
        )
        for shown in opened.questions
    ]
    out = BlindTestOut(
        **_summary(test, opened.results),
        questions=questions,
        may_answer=opened.own is None and not opened.why_not,
        why_not=opened.why_not,
    )
    if opened.items:
        votes = score_votes(opened)
        out.feature, out.seed = test.feature, test.seed
        out.answers = opened.own.answers if opened.own else None
        out.truth = [TruthOut.model_validate(item, from_attributes=True) for item in opened.items]
        out.votes = None if votes is None else ScoreOut.of(test.kind, votes)
    return out
