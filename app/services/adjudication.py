"""Adjudication: where people's labels of a feature differ, and what a reviewer decides beside them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import Literal

from rapidfuzz import fuzz
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Forbidden, NotFound, Unprocessable
from app.queries import agreement as queries
from app.queries import decisions
from app.queries.activity import Event, add_activity
from app.queries.agreement import SubmittedLabel
from app.queries.decisions import DecisionText, DecisionView
from app.queries.label_sets import LabelSetView, get_set
from app.queries.labels import get_label
from app.queries.saes import SaeDetail, get_saes
from app.queries.sql.locks import lock_until_commit
from app.queries.sql.pg_safe import storable
from app.queries.sql.visibility import Reader
from app.services.actors import Actor, ensure_person
from app.services.collisions import normalise
from app.services.labels import MAX_CATEGORIES, MAX_CATEGORY, MAX_EXPLANATION, SCALE
from app.services.texts import one_line, trim, unix_lines

MAX_NOTE = 1_000
"""Characters of the reason that a reviewer gives."""
Difference = Literal["categories", "can't tell", "interpretability", "words"]
State = Literal["open", "changed", "decided"]
"""`changed`: its labels are others than those that were decided between."""


class DecisionConflict(Conflict):
    """Somebody else decided about the feature in the meantime."""

    def __init__(self, current: DecisionView | None, submitted: DecisionText) -> None:
        super().__init__("Somebody decided about this feature since you opened it: read theirs, and decide again.")
        self.current = current
        self.submitted = submitted


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A feature whose labels differ: in what, how far (0 to 1), and whether it is decided."""

    feature: int
    labels: tuple[SubmittedLabel, ...]
    differences: tuple[Difference, ...]
    degree: float
    state: State
    decision: DecisionView | None


async def find_set(session: AsyncSession, set_id: int) -> tuple[LabelSetView, SaeDetail]:
    """Return a label set with its SAE.

    Raises:
        NotFound: there is no such set.
    """
    found = await get_set(session, set_id)
    if found is None:
        raise NotFound(f"There is no label set {set_id}: it was deleted, or the link is wrong.")
    return found, (await get_saes(session, [found.sae_id]))[found.sae_id]


def check_feature(sae: SaeDetail, feature: int) -> None:
    """Refuse a number that is none of the SAE's features.

    Raises:
        NotFound: the SAE has no such feature.
    """
    if feature not in range(sae.d_sae):
        raise NotFound(f"{sae.slug} has no feature {feature}: its features are 0 to {sae.d_sae - 1}.")


async def list_disagreements(session: AsyncSession, of: LabelSetView, actor: Actor) -> list[Disagreement]:
    """Return the features of a set whose labels differ or were decided between, as far as the actor may see them.

    Those that nobody decided come first, then those that differ most.
    """
    labels = await queries.list_shared_labels(session, of.id, reader=actor.reader)
    decided = await decisions.current_decisions(session, of.id, reader=actor.reader)
    return await asyncio.to_thread(_rank, labels, decided)  # so that other pages do not wait


def _rank(labels: Sequence[SubmittedLabel], decided: Mapping[int, DecisionView]) -> list[Disagreement]:
    found = [
        compare_labels(tuple(of_feature), decided.get(feature))
        for feature, of_feature in groupby(labels, key=lambda label: label.feature)
    ]
    return sorted(
        (entry for entry in found if entry.differences or entry.decision),
        key=lambda entry: (entry.state == "decided", -entry.degree, entry.feature),
    )


async def next_to_decide(session: AsyncSession, of: LabelSetView, actor: Actor, after: int) -> int | None:
    """Return the undecided feature that differs most, apart from `after`; None if there is no other."""
    found = await list_disagreements(session, of, actor)
    return next((entry.feature for entry in found if entry.state != "decided" and entry.feature != after), None)


def compare_labels(labels: Sequence[SubmittedLabel], decision: DecisionView | None = None) -> Disagreement:
    """Return how the labels of one feature differ.

    The degree weighs categories most, then interpretability, then words: the share of pairs of people with other
    categories, the mean distance on the scale, and one minus the similarity of their words in any order.
    """
    telling = [label for label in labels if not label.cant_tell]
    pairs = list(combinations(telling, 2))
    split = 0.0 if len(telling) in (0, len(labels)) else 1.0
    categories = _mean([float(set(one.categories) != set(other.categories)) for one, other in pairs])
    steps = _mean(
        [
            abs(one.interpretability - other.interpretability) / (SCALE[-1] - SCALE[0])
            for one, other in pairs
            if one.interpretability is not None and other.interpretability is not None
        ]
    )
    texts = [" ".join(sorted(normalise(label.explanation).split())) for label in telling]
    words = _mean([1 - fuzz.ratio(one, other) / 100 for one, other in combinations(texts, 2)])
    parts: tuple[tuple[Difference, float], ...] = (
        ("categories", categories),
        ("can't tell", split),
        ("interpretability", steps),
        ("words", words),
    )
    shown = {label.id: label.version for label in labels}
    differ = any(value > 0 for _, value in parts)
    state: State = "open"
    if decision is not None:
        state = "changed" if differ and decision.labels != shown else "decided"
    return Disagreement(
        feature=labels[0].feature if labels else 0,
        labels=tuple(labels),
        differences=tuple(name for name, value in parts if value > 0),
        degree=0.5 * max(categories, split) + 0.3 * steps + 0.2 * words,
        state=state,
        decision=decision,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


async def decide(
    session: AsyncSession,
    of: LabelSetView,
    sae: SaeDetail,
    feature: int,
    *,
    actor: Actor,
    text: DecisionText,
    replaces: int | None,
) -> DecisionView:
    """Write what a feature means, beside its labels; `replaces` is the decision that was read, None if there was none.

    A decision that reads so already, by the same person between the same labels, is returned as it is.

    Raises:
        NotFound: the SAE has no such feature.
        Unprocessable: the text is missing, too long, or holds what a decision cannot; or the feature has no label.
        DecisionConflict: another decision holds by now.
    """
    check_feature(sae, feature)
    text = _tidy(text)
    _check(text)
    offered = await queries.guideline_categories(session, of.id)
    person_id = await ensure_person(session, actor)
    await lock_until_commit(session, f"decision {of.id} {feature}")
    everything = Reader(sees_all=True)
    current = (await decisions.current_decisions(session, of.id, [feature], reader=everything)).get(feature)
    labels = await queries.list_feature_labels(session, of.id, feature, reader=everything)
    if not labels:
        raise Unprocessable(f"Feature {feature} has no submitted label in this set, so there is nothing to decide.")
    _check_categories(text, offered, labels)
    between = {label.id: label.version for label in labels}
    if current and (current.text, current.person_id, current.labels) == (text, person_id, between):
        return current
    if (current.id if current else None) != replaces:
        raise DecisionConflict(current, text)
    made = await decisions.insert_decision(
        session,
        set_id=of.id,
        feature=feature,
        person_id=person_id,
        text=text,
        labels=between,
        guideline_version=of.guideline,
        index_id=sae.index.id if sae.index else None,
    )
    event = Event(person_id, "decision made", sae.id, of.id, feature=feature, subject=made.id)
    await add_activity(session, event)
    return made


def _tidy(text: DecisionText) -> DecisionText:
    trimmed = (one_line(category) for category in text.categories)
    return replace(
        text,
        explanation=trim(unix_lines(text.explanation)),
        categories=tuple(dict.fromkeys(category for category in trimmed if category)),
        note=trim(unix_lines(text.note)),
    )


def _check_categories(text: DecisionText, offered: Sequence[str], labels: Sequence[SubmittedLabel]) -> None:
    """Check a decision against the guideline; a category of an earlier guideline that a label has may be taken."""
    if not text.explanation and not (offered and text.categories):
        choice = ", or choose a category" if offered else ""
        raise Unprocessable(f"A decision needs an explanation: take one of the labels, write a better one{choice}.")
    known = {*offered, *(category for label in labels for category in label.categories)}
    unknown = next((category for category in text.categories if offered and category not in known), None)
    if unknown is not None:
        raise Unprocessable(f"“{unknown}” is not a category of this set: choose from {', '.join(offered)}.")


def _check(text: DecisionText) -> None:
    if len(text.explanation) > MAX_EXPLANATION:
        raise Unprocessable(
            f"An explanation may have {MAX_EXPLANATION:,} characters; this one has {len(text.explanation):,}."
        )
    if len(text.note) > MAX_NOTE:
        raise Unprocessable(f"A note may have {MAX_NOTE:,} characters; this one has {len(text.note):,}.")
    if len(text.categories) > MAX_CATEGORIES or any(len(category) > MAX_CATEGORY for category in text.categories):
        raise Unprocessable(f"A decision may have {MAX_CATEGORIES} categories of {MAX_CATEGORY} characters.")
    if not all(storable(part) for part in (text.explanation, text.note, *text.categories)):
        raise Unprocessable("A decision cannot hold NUL or broken characters: remove them.")
    if text.interpretability is not None and text.interpretability not in SCALE:
        raise Unprocessable(f"Interpretability goes from {SCALE[0]} to {SCALE[-1]}.")


async def vote(session: AsyncSession, label_id: int, value: int, *, actor: Actor) -> SubmittedLabel:
    """Say what one thinks of another's explanation: 1, -1, or 0 to take a vote back. Return the label with its votes.

    Raises:
        NotFound: there is no such label, or the actor may not see it yet.
        Forbidden: it is the actor's own.
    """
    label = await get_label(session, label_id, reader=actor.reader)
    if label is None or label.status != "submitted":
        raise NotFound(f"There is no label {label_id} that you can see.")
    person_id = await ensure_person(session, actor)
    if label.person_id == person_id:
        raise Forbidden("This is your own label: others vote on it.")
    await queries.put_vote(session, label_id, person_id, value)
    await add_activity(
        session, Event(person_id, "voted", label.sae_id, label.label_set_id, feature=label.feature, subject=label_id)
    )
    reader = replace(actor.reader, person_id=person_id)
    labels = await queries.list_feature_labels(session, label.label_set_id, label.feature, reader=reader)
    return next(voted for voted in labels if voted.id == label_id)
