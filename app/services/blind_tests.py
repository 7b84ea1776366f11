"""Blind tests of labels: made from held-out text, answered by somebody else, scored once all answers are in."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from secrets import randbelow
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Forbidden, NotFound, NoWeights, Unprocessable
from app.queries import blind_tests as queries
from app.queries.activity import Event, add_activity
from app.queries.blind_tests import BlindTestView, LabelToTest, NewTest, ResultView, StoredItem
from app.queries.label_sets import LabelSetView, get_set
from app.queries.labels import LabelView, get_label
from app.queries.saes import SaeDetail, get_saes
from app.queries.sql.paging import one_page
from app.services.actors import Actor, ensure_person
from app.services.blind_items import (
    BLIND_KINDS,
    INTRUDER_SNIPPETS,
    ITEMS,
    MAX_ITEMS,
    BlindItem,
    BlindKind,
)
from app.services.blind_scores import BlindAnswer, score_intruder, score_yes_no
from app.services.inference import InferenceClient
from app.services.inference_messages import BlindItemsRequest
from app.services.labels import tidy_name

_SEEDS = 2**31
MIN_ITEMS = 10


@dataclass(frozen=True, slots=True)
class OpenTest:
    """A test as one person sees it: its questions, and once they have answered, the truth.

    `why_not` says why this person cannot answer; it is empty for one who can, or has.
    """

    test: BlindTestView
    questions: list[list[dict[str, Any]]]
    results: list[ResultView]
    own: ResultView | None
    items: list[StoredItem]
    """Empty until the truth may be told."""
    why_not: str


async def make_test(
    session: AsyncSession,
    inference: InferenceClient,
    sae: SaeDetail,
    label_set: LabelSetView,
    *,
    actor: Actor,
    kind: BlindKind,
    label_id: int | None = None,
    feature: int | None = None,
    items: int = ITEMS,
) -> BlindTestView:
    """Draw and keep a test of a label, or an intruder test of a feature.

    It has no snippet of which the actor, or the label's author, was told the truth by an earlier test.

    Raises:
        NotFound: there is no such label that the actor may see, or no such feature.
        Unprocessable: the label says nothing, the kind and what it is of do not fit, or too few snippets are left.
        NoWeights: the SAE was imported as statistics only.
        Conflict: the index was replaced in the meantime.
        Unavailable: the store is not on disk, or the inference process does not answer.
    """
    actor = await _known(session, actor)
    assert actor.person_id is not None
    label = await _label_to_test(session, label_set, actor, kind, label_id)
    number = feature if label is None else label.feature
    if number is None or number not in range(sae.d_sae):
        raise NotFound(f"{sae.slug} has no feature {number}: its features are 0 to {sae.d_sae - 1}.")
    people = {actor.person_id} if label is None else {actor.person_id, label.person_id}
    if items not in range(MIN_ITEMS, MAX_ITEMS + 1):
        raise Unprocessable(f"A test has {MIN_ITEMS} to {MAX_ITEMS} items.")
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    if sae.index is None:
        raise NotFound(f"{sae.slug} has no published index yet, and so no text to test on.")
    request = BlindItemsRequest(
        sae=sae.slug,
        feature=number,
        kind=kind,
        seed=randbelow(_SEEDS),
        items=items,
        without=sorted(await queries.told_sequences(session, sae.id, number, people)),
    )
    await session.commit()  # the first draw checks the whole store: no connection is held for that long
    drawn = await inference.draw_blind_items(request)
    if drawn.index != sae.index.id:
        raise Conflict(f"The index of {sae.slug} was replaced while the test was drawn. Try again.")
    new = NewTest(
        label_set_id=label_set.id,
        feature=number,
        kind=kind,
        label_id=None if label is None else label.id,
        explanation=None if label is None else label.explanation,
        items=len(drawn.items),
        index_id=drawn.index,
        seed=request.seed,
        created_by=actor.person_id,
    )
    made = await queries.get_test(
        session, await queries.create_test(session, new, [_stored(item) for item in drawn.items])
    )
    assert made is not None
    return made


async def _known(session: AsyncSession, actor: Actor) -> Actor:
    """Return the actor with their id: a name that a request gives may be that of a label's author."""
    actor = replace(actor, name=tidy_name("author", actor.name))
    return replace(actor, person_id=await ensure_person(session, actor))


async def _label_to_test(
    session: AsyncSession, label_set: LabelSetView, actor: Actor, kind: BlindKind, label_id: int | None
) -> LabelView | None:
    if kind not in BLIND_KINDS:
        raise Unprocessable(f"A test is one of {', '.join(BLIND_KINDS)}.")
    if kind == "intruder":
        if label_id is not None:
            raise Unprocessable("An intruder test needs no label: give a feature.")
        return None
    if label_id is None:
        raise Unprocessable(f"A test of {kind} is of a label: give the label's id.")
    label = await get_label(session, label_id, reader=actor.reader)
    if label is None or label.label_set_id != label_set.id:
        raise NotFound("There is no such label in this set.")
    if label.status != "submitted" or not label.explanation:
        raise Unprocessable("Only a submitted label that says something can be tested.")
    return label


def _stored(item: BlindItem) -> StoredItem:
    """Return an item with what a tester sees apart from all else."""
    return StoredItem(
        shown=[{"token_ids": snippet.token_ids, "marked": snippet.marked} for snippet in item.snippets],
        hidden=[
            {
                "sequence": snippet.sequence,
                "start": snippet.start,
                "active": snippet.active,
                "values": snippet.values,
            }
            for snippet in item.snippets
        ],
        truth=item.truth,
        why=item.why,
    )


async def find_test(session: AsyncSession, test_id: int, actor: Actor) -> BlindTestView:
    """Return a test whose label the actor may see.

    Raises:
        NotFound: there is none.
        Conflict: its label was discarded.
    """
    test = await queries.get_test(session, test_id)
    if test is not None and test.label_id is not None and await queries.is_discarded(session, test.label_id):
        raise Conflict("The label of this test was discarded by its author, so there is nothing left to test.")
    if test is None or not await _may_see(session, test, actor):
        raise NotFound("There is no such test.")
    return test


async def visible_tests(
    session: AsyncSession, label_set: LabelSetView, actor: Actor, *, before: int | None, limit: int
) -> tuple[list[BlindTestView], int | None]:
    """Return a page of a set's tests whose labels the actor may see, newest first, and where the next one begins."""
    rows = await queries.list_tests(session, label_set.id, before=before, limit=limit + 1)
    page, more = one_page(rows, limit)
    return [test for test in page if await _may_see(session, test, actor)], page[-1].id if more else None


async def _may_see(session: AsyncSession, test: BlindTestView, actor: Actor) -> bool:
    return test.label_id is None or await get_label(session, test.label_id, reader=actor.reader) is not None


async def open_test(session: AsyncSession, test_id: int, actor: Actor) -> OpenTest:
    """Return a test as the actor sees it.

    The truth is told to whoever has answered, and to the label's author once somebody has.

    Raises:
        NotFound: there is no such test, or the actor may not see its label.
    """
    test = await find_test(session, test_id, actor)
    results = (await queries.list_results(session, [test.id])).get(test.id, [])
    own = next((result for result in results if actor.owns(result.person_id)), None)
    told = own is not None or (bool(results) and actor.owns(test.author_id))
    return OpenTest(
        test=test,
        questions=await queries.get_questions(session, test.id),
        results=results,
        own=own,
        items=await queries.get_items(session, test.id) if told else [],
        why_not="" if own is not None else await _why_not(session, test, actor),
    )


async def _why_not(session: AsyncSession, test: BlindTestView, actor: Actor) -> str:
    """Return why this person cannot answer a test; empty if they can."""
    if not actor.may_write:
        return "Answering a test takes the role labeller: an admin can give it to you."
    if actor.owns(test.author_id):
        return "You wrote this label, so somebody else has to answer: send them the address of this page."
    if actor.person_id is None:
        return ""
    told = await queries.told_sequences(session, test.sae_id, test.feature, {actor.person_id}, but=test.id)
    if told & await queries.sequences_of_test(session, test.id):
        return (
            "Another test of this feature told you the truth about some of these snippets: make a new test yourself, "
            "which has others."
        )
    return ""


async def answer_test(
    session: AsyncSession,
    test_id: int,
    actor: Actor,
    answers: Sequence[int],
    confidences: Sequence[float] | None = None,
) -> OpenTest:
    """Keep a person's answers to all items, and return the test with the truth. The same answers sent twice are one.

    Raises:
        NotFound: there is no such test, or the actor may not see its label.
        Forbidden: the actor wrote the label, or was told the truth about some of its snippets before.
        Unprocessable: an answer is missing, or is none.
        Conflict: the actor answered otherwise before.
    """
    actor = await _known(session, actor)
    test = await find_test(session, test_id, actor)
    if why_not := await _why_not(session, test, actor):
        raise Forbidden(why_not)
    _check(test, answers, confidences)
    assert actor.person_id is not None
    kept = await _keep_answers(session, test, actor.person_id, answers, confidences)
    opened = await open_test(session, test_id, actor)
    if not kept and (opened.own is None or opened.own.answers != list(answers)):
        raise Conflict("You have answered this test before, and were told the truth: your first answers stay.")
    return opened


async def _keep_answers(
    session: AsyncSession,
    test: BlindTestView,
    person_id: int,
    answers: Sequence[int],
    confidences: Sequence[float] | None,
    floor: dict[str, float] | None = None,
) -> bool:
    """Score and keep answers; False if this person answered before."""
    score = asdict(_score(test.kind, await queries.get_items(session, test.id), answers, confidences))
    if floor is not None:
        score["floor"] = floor
    kept = await queries.put_result(session, test.id, person_id, answers, confidences, score)
    if kept:
        feature = None if test.kind == "intruder" else test.feature  # others may still answer, without knowing it
        event = Event(person_id, "tested", test.sae_id, test.label_set_id, feature, test.label_id)
        await add_activity(session, event)
    return kept


async def keep_tested(
    session: AsyncSession,
    sae: SaeDetail,
    label: LabelToTest,
    kind: BlindKind,
    items: Sequence[BlindItem],
    *,
    person_id: int,
    answers: Sequence[int],
    confidences: Sequence[float],
    seed: int,
    floor: dict[str, float] | None,
) -> None:
    """Keep a test that a model made and answered; `floor` is its balanced accuracy with another feature's label."""
    assert sae.index is not None
    new = NewTest(
        label_set_id=label.label_set_id,
        feature=label.feature,
        kind=kind,
        label_id=label.id,
        explanation=label.explanation,
        items=len(items),
        index_id=sae.index.id,
        seed=seed,
        created_by=person_id,
    )
    test_id = await queries.create_test(session, new, [_stored(item) for item in items])
    test = await queries.get_test(session, test_id)
    assert test is not None
    await _keep_answers(session, test, person_id, answers, confidences, floor)


def _check(test: BlindTestView, answers: Sequence[int], confidences: Sequence[float] | None) -> None:
    choices = range(INTRUDER_SNIPPETS) if test.kind == "intruder" else range(2)
    if len(answers) != test.items:
        raise Unprocessable(f"This test has {test.items} items, and {len(answers)} are answered: answer all of them.")
    wrong = next((number for number, answer in enumerate(answers, 1) if answer not in choices), None)
    if wrong is not None:
        what = f"the place of the intruder, 0 to {choices[-1]}" if test.kind == "intruder" else "1 for yes or 0 for no"
        raise Unprocessable(f"Answer {wrong} is {answers[wrong - 1]}: each is {what}.")
    if confidences is not None and (
        len(confidences) != test.items or any(not 0 <= confidence <= 1 for confidence in confidences)
    ):
        raise Unprocessable("Give a confidence from 0 to 1 for every answer, or none at all.")


def _score(kind: str, items: Sequence[StoredItem], answers: Sequence[int], confidences: Sequence[float] | None) -> Any:
    sure: Sequence[float | None] = confidences or [None] * len(answers)
    given = [
        BlindAnswer(item.truth, said, item.why, confidence)
        for item, said, confidence in zip(items, answers, sure, strict=True)
    ]
    return score_intruder(given) if kind == "intruder" else score_yes_no(given)


def score_votes(test: OpenTest) -> dict[str, Any] | None:
    """Return the score of all who answered together: the share of yes is the confidence, and more than half is a yes.

    None before two people have answered, before the truth may be told, and for an intruder test.
    """
    if test.test.kind == "intruder" or len(test.results) < 2 or not test.items:
        return None
    shares = [sum(votes) / len(votes) for votes in zip(*(result.answers for result in test.results), strict=True)]
    return asdict(_score(test.test.kind, test.items, [int(share > 0.5) for share in shares], shares))


async def set_of(session: AsyncSession, set_id: int) -> LabelSetView:
    """Return a label set.

    Raises:
        NotFound: there is none.
    """
    found = await get_set(session, set_id)
    if found is None:
        raise NotFound("There is no such label set.")
    return found


async def sae_of(session: AsyncSession, sae_id: int) -> SaeDetail:
    """Return the SAE of a label set or of a test, which exists as long as they do."""
    return (await get_saes(session, [sae_id]))[sae_id]
