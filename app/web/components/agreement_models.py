"""Agreement, progress, decisions and votes as the API answers them."""

from datetime import date, datetime
from typing import Annotated

from pydantic import BaseModel, Field

from app.queries.agreement import SubmittedLabel
from app.queries.decisions import DecisionView
from app.queries.progress import Progress
from app.services.adjudication import Difference, Disagreement, State
from app.services.agreement_report import Agreement, CategoryAgreement, Estimate, PairAgreement, PersonAgreement
from app.services.collisions import Collisions
from app.services.dashboard import SetAgreement


class EstimateOut(BaseModel):
    """A measure of agreement; null where there is not enough to say, for a `reason`."""

    value: float | None
    interval: Annotated[tuple[float, float] | None, Field(description="95 % bootstrap interval over features.")]
    features: Annotated[int, Field(description="Features that it is about.")]
    reason: str | None

    @classmethod
    def of(cls, found: Estimate) -> "EstimateOut":
        """Return an estimate as JSON."""
        interval = None if found.low is None or found.high is None else (found.low, found.high)
        return cls(value=found.value, interval=interval, features=found.units, reason=found.reason or None)


class AgreementOut(BaseModel):
    """Agreement of all people about one question."""

    features: Annotated[int, Field(description="Features with two answers or more.")]
    answers: int
    alpha: Annotated[
        EstimateOut,
        Field(description="Krippendorff's alpha: of ranks for interpretability, with MASI distances for categories."),
    ]
    ac1: Annotated[EstimateOut | None, Field(description="Gwet's AC1; null for sets of categories.")]
    raw: Annotated[EstimateOut, Field(description="Share of pairs of people who gave the same answer.")]

    @classmethod
    def of(cls, found: Agreement) -> "AgreementOut":
        """Return agreement as JSON."""
        return cls(
            features=found.features,
            answers=found.answers,
            alpha=EstimateOut.of(found.alpha),
            ac1=EstimateOut.of(found.ac1) if found.ac1 else None,
            raw=EstimateOut.of(found.raw),
        )


class InsteadOut(BaseModel):
    """Pairs of people of whom one chose another category instead; null for none."""

    category: str | None
    pairs: int


class CategoryOut(AgreementOut):
    """Agreement about whether features have a category."""

    category: str
    chosen: Annotated[int, Field(description="Labels with it.")]
    both: Annotated[int, Field(description="Pairs of people who both chose it for a feature.")]
    one: Annotated[int, Field(description="Pairs of whom one chose it.")]
    against: Annotated[list[InsteadOut], Field(description="What the other of such a pair chose instead.")]

    @classmethod
    def of_category(cls, found: CategoryAgreement) -> "CategoryOut":
        """Return agreement about a category as JSON."""
        return cls(
            **dict(AgreementOut.of(found.agreement)),
            category=found.category,
            chosen=found.chosen,
            both=found.both,
            one=found.one,
            against=[InsteadOut(category=name, pairs=pairs) for name, pairs in found.against],
        )


class PersonOut(BaseModel):
    """A person."""

    id: int
    name: str


class PairOut(BaseModel):
    """Cohen's kappa of two people, weighted by MASI distances for categories and squared steps for interpretability."""

    people: tuple[PersonOut, PersonOut]
    features: Annotated[int, Field(description="Features that both labelled.")]
    categories: EstimateOut | None
    interpretability: EstimateOut

    @classmethod
    def of(cls, found: PairAgreement, people: dict[int, PersonOut]) -> "PairOut":
        """Return a pair as JSON."""
        one, other = found.people
        return cls(
            people=(people[one], people[other]),
            features=found.features,
            categories=EstimateOut.of(found.categories) if found.categories else None,
            interpretability=EstimateOut.of(found.interpretability),
        )


class PersonAgreementOut(BaseModel):
    """One person's agreement with all others together."""

    person: PersonOut
    features: Annotated[int, Field(description="Features that somebody else labelled too.")]
    kappa: EstimateOut
    extra_distance: Annotated[
        EstimateOut, Field(description="How much farther they are from the others than those are from each other.")
    ]
    differs: Annotated[bool, Field(description="Beyond what chance explains: the interval is above 0.")]

    @classmethod
    def of(cls, found: PersonAgreement, person: PersonOut) -> "PersonAgreementOut":
        """Return a person's agreement as JSON."""
        return cls(
            person=person,
            features=found.features,
            kappa=EstimateOut.of(found.kappa),
            extra_distance=EstimateOut.of(found.extra_distance),
            differs=found.differs,
        )


class SetAgreementOut(BaseModel):
    """Agreement in a label set, over the features that two people or more labelled."""

    features: int
    labels: int
    partial: Annotated[
        bool,
        Field(description="The set is blind, and this is about the features alone that you have labelled."),
    ]
    changed_after_others: Annotated[
        int | None,
        Field(description="Labels of a blind set that were changed after their author could read others'; else null."),
    ]
    categories: Annotated[AgreementOut | None, Field(description="About the set of categories of a feature.")]
    interpretability: AgreementOut
    per_category: list[CategoryOut]
    pairs: list[PairOut]
    pairs_left_out: Annotated[int, Field(description="Pairs with fewer features in common than those listed.")]
    people: Annotated[list[PersonAgreementOut], Field(description="Reviewers see all, others themselves.")]

    @classmethod
    def of(cls, found: SetAgreement, shown: set[int] | None) -> "SetAgreementOut":
        """Return the agreement as JSON, with the people of `shown`; None for all."""
        report = found.report
        people = {person: PersonOut(id=person, name=name) for person, name in found.names.items()}
        pairs = [pair for pair in report.pairs if shown is None or shown & set(pair.people)]
        return cls(
            features=report.features,
            labels=report.labels,
            partial=found.partial,
            changed_after_others=found.changed,
            categories=AgreementOut.of(report.categories) if report.categories else None,
            interpretability=AgreementOut.of(report.interpretability),
            per_category=[CategoryOut.of_category(entry) for entry in report.per_category],
            pairs=[PairOut.of(pair, people) for pair in pairs],
            pairs_left_out=report.pairs_left_out + len(report.pairs) - len(pairs),
            people=[
                PersonAgreementOut.of(entry, people[entry.person])
                for entry in report.people
                if shown is None or entry.person in shown
            ],
        )


class PersonProgressOut(BaseModel):
    """What one person has done."""

    person: PersonOut
    submitted: int
    cant_tell: int
    drafts: int
    last_at: datetime | None
    seconds: Annotated[float | None, Field(description="Median seconds per label, without pauses.")]


class DayOut(BaseModel):
    """Labels that were submitted first on one day, UTC."""

    day: date
    labels: int


class StuckOut(BaseModel):
    """A feature that does not get on."""

    feature: int
    person: str
    since: datetime


class ProgressOut(BaseModel):
    """How far a label set is. A label that says "can't tell" is submitted, too."""

    features: Annotated[int | None, Field(description="Features of the set; null if it takes any.")]
    needed: Annotated[int, Field(description="Labels that each feature needs.")]
    started: int
    done: Annotated[int, Field(description="Features with as many labels as needed.")]
    left: int | None
    submitted: int
    cant_tell: int
    drafts: int
    people: Annotated[list[PersonProgressOut], Field(description="Reviewers see all, others themselves.")]
    days: list[DayOut]
    held: Annotated[list[StuckOut], Field(description="Leased for over an hour. For reviewers.")]
    drafted: Annotated[list[StuckOut], Field(description="Drafts untouched for a day. For reviewers.")]
    untold: Annotated[list[int], Field(description="Features of which nobody can tell what they do. For reviewers.")]

    @classmethod
    def of(cls, found: Progress, needed: int, shown: set[int] | None) -> "ProgressOut":
        """Return progress as JSON, with the people of `shown`; None for all, and for what is stuck."""
        everything = shown is None
        return cls(
            features=found.features,
            needed=needed,
            started=found.started,
            done=found.done,
            left=found.left,
            submitted=found.submitted,
            cant_tell=found.cant_tell,
            drafts=found.drafts,
            people=[
                PersonProgressOut(
                    person=PersonOut(id=entry.person_id, name=entry.name),
                    submitted=entry.submitted,
                    cant_tell=entry.cant_tell,
                    drafts=entry.drafts,
                    last_at=entry.last_at,
                    seconds=entry.seconds,
                )
                for entry in found.people
                if shown is None or entry.person_id in shown
            ],
            days=[DayOut(day=day, labels=labels) for day, labels in found.days],
            held=[StuckOut.model_validate(entry, from_attributes=True) for entry in found.held if everything],
            drafted=[StuckOut.model_validate(entry, from_attributes=True) for entry in found.drafted if everything],
            untold=[feature for feature in found.untold if everything],
        )


class CollisionOut(BaseModel):
    """Features that share a label."""

    explanations: Annotated[list[str], Field(description="As people wrote them, most frequent first.")]
    features: list[int]
    exact: Annotated[bool, Field(description="The same words, apart from case and punctuation; else nearly.")]


class CollisionsOut(BaseModel):
    """Which labelled features share their label with another, the largest group first."""

    labelled: Annotated[int, Field(description="Features with a label.")]
    sharing: Annotated[int, Field(description="Features of them that share it.")]
    near_compared: Annotated[bool, Field(description="False with so many labels that only equal ones were looked for.")]
    groups: list[CollisionOut]

    @classmethod
    def of(cls, found: Collisions) -> "CollisionsOut":
        """Return collisions as JSON."""
        return cls.model_validate(found, from_attributes=True)


class DecisionOut(BaseModel):
    """What a reviewer decided that a feature means."""

    id: int
    label_set: int
    feature: int
    person: PersonOut
    explanation: str
    categories: list[str]
    interpretability: int | None
    note: str
    labels: Annotated[dict[int, int], Field(description="Versions of the labels it was made between, by their ids.")]
    guideline_version: int | None
    decided_at: datetime

    @classmethod
    def of(cls, found: DecisionView) -> "DecisionOut":
        """Return a decision as JSON."""
        return cls(
            id=found.id,
            label_set=found.label_set_id,
            feature=found.feature,
            person=PersonOut(id=found.person_id, name=found.author),
            explanation=found.explanation,
            categories=list(found.categories),
            interpretability=found.interpretability,
            note=found.note,
            labels=dict(found.labels),
            guideline_version=found.guideline_version,
            decided_at=found.decided_at,
        )


class ComparedLabelOut(BaseModel):
    """A label beside others of its feature. In a list of features the votes are left out."""

    id: int
    person: PersonOut
    version: int
    explanation: str
    categories: list[str]
    interpretability: int | None
    confidence: int | None
    cant_tell: bool

    @classmethod
    def of(cls, found: SubmittedLabel) -> "ComparedLabelOut":
        """Return a label as JSON."""
        return cls(
            id=found.id,
            person=PersonOut(id=found.person_id, name=found.author),
            version=found.version,
            explanation=found.explanation,
            categories=list(found.categories),
            interpretability=found.interpretability,
            confidence=found.confidence,
            cant_tell=found.cant_tell,
        )


class VotesOut(BaseModel):
    """Votes on the explanation of a label."""

    label: int
    up: int
    down: int
    mine: Annotated[int, Field(description="1, -1, or 0 for none.")]

    @classmethod
    def of(cls, found: SubmittedLabel) -> "VotesOut":
        """Return votes as JSON."""
        return cls(label=found.id, up=found.up, down=found.down, mine=found.own_vote)


class DisagreementOut(BaseModel):
    """A feature whose labels differ."""

    feature: int
    differences: list[Difference]
    degree: Annotated[float, Field(description="0 to 1: half for categories, then interpretability, then words.")]
    state: Annotated[State, Field(description="`changed`: decided, between labels that are others now.")]
    labels: list[ComparedLabelOut]
    decision: DecisionOut | None

    @classmethod
    def of(cls, found: Disagreement) -> "DisagreementOut":
        """Return a disagreement as JSON."""
        return cls(
            feature=found.feature,
            differences=list(found.differences),
            degree=found.degree,
            state=found.state,
            labels=[ComparedLabelOut.of(label) for label in found.labels],
            decision=DecisionOut.of(found.decision) if found.decision else None,
        )
