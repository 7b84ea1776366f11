"""How far the people of a label set agree: about categories, and about how interpretable features are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from app.services import agreement_measures as measures
from app.services.agreement_measures import MISSING, Bootstrap, Codes, Floats, Measure
from app.services.agreement_report import (
    SCALE,
    Agreement,
    AgreementReport,
    CategoryAgreement,
    Estimate,
    PairAgreement,
    PersonAgreement,
    Rating,
)

MAX_PAIRS = 45
"""Pairs of people that are compared, those with the most features in common: the pairs among ten."""


def measure_agreement(
    ratings: Sequence[Rating], offered: Sequence[str] = (), *, resamples: int = measures.RESAMPLES
) -> AgreementReport:
    """Return the agreement of people, from one rating per person and feature.

    Args:
        ratings: of submitted labels, without those that say "can't tell".
        offered: categories of the guideline. Where it has none, those that people wrote count, and a label without any
            has not answered.
        resamples: of the bootstrap over features.
    """
    labelled = Counter(rating.feature for rating in ratings)
    table = _Table.of([rating for rating in ratings if labelled[rating.feature] > 1], offered)
    bootstrap = Bootstrap(len(table.features), resamples=resamples)
    pairs = sorted(_shared_features(table), key=lambda pair: (-pair[1], pair[0]))
    return AgreementReport(
        features=len(table.features),
        labels=int(table.labelled.sum()),
        categories=_of_sets(bootstrap, table) if table.categories else None,
        interpretability=_of_scale(bootstrap, table),
        per_category=_per_category(bootstrap, table),
        pairs=tuple(_of_pair(bootstrap, table, pair, shared) for pair, shared in pairs[:MAX_PAIRS]),
        pairs_left_out=len(pairs[MAX_PAIRS:]),
        people=tuple(_of_person(bootstrap, table, place) for place in range(len(table.people))),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """Ratings as arrays, `[features, people]`."""

    features: list[int]
    people: list[int]
    categories: list[str]
    labelled: NDArray[np.bool_]
    answered: NDArray[np.bool_]
    """Where a person said which categories a feature has."""
    chosen: NDArray[np.bool_]
    """`[features, people, categories]`."""
    sets: Codes
    """Codes of the sets of categories that were chosen."""
    set_distance: Floats
    interpretability: Codes

    @classmethod
    def of(cls, ratings: Sequence[Rating], offered: Sequence[str]) -> "_Table":
        written = {category for rating in ratings for category in rating.categories}
        features = sorted({rating.feature for rating in ratings})
        people = sorted({rating.person for rating in ratings})
        categories = [*offered, *sorted(written.difference(offered))]
        row, column, place = (
            {name: number for number, name in enumerate(names)} for names in (features, people, categories)
        )
        shape = len(features), len(people)
        labelled = np.zeros(shape, dtype=bool)
        chosen = np.zeros((*shape, len(categories)), dtype=bool)
        interpretability = np.full(shape, MISSING)
        for rating in ratings:
            cell = row[rating.feature], column[rating.person]
            labelled[cell] = True
            chosen[(*cell, [place[category] for category in rating.categories])] = True
            interpretability[cell] = MISSING if rating.interpretability is None else rating.interpretability - 1
        answered = labelled & (bool(offered) | chosen.any(axis=2))
        distinct, codes = np.unique(chosen[answered], axis=0, return_inverse=True)
        sets = np.full(shape, MISSING)
        sets[answered] = codes
        return cls(
            features, people, categories, labelled, answered, chosen, sets, measures.masi(distinct), interpretability
        )


def _of_sets(bootstrap: Bootstrap, table: _Table) -> Agreement:
    """Return agreement about the set of categories of a feature."""
    counts = measures.value_counts(table.sets, len(table.set_distance))
    return _agreement(bootstrap, counts, measures.alpha(counts, table.set_distance))


def _of_scale(bootstrap: Bootstrap, table: _Table) -> Agreement:
    """Return agreement about interpretability: alpha of ranks, and AC1 of equal answers."""
    counts = measures.value_counts(table.interpretability, SCALE)
    return _agreement(bootstrap, counts, measures.ordinal_alpha(counts), measures.ac1(counts))


def _per_category(bootstrap: Bootstrap, table: _Table) -> tuple[CategoryAgreement, ...]:
    """Return agreement about each category: whether a feature has it, and which was chosen instead."""
    confused = measures.confusion(table.chosen, table.answered)
    names = [*table.categories, None]
    per_category = []
    for place, category in enumerate(table.categories):
        counts = measures.value_counts(np.where(table.answered, table.chosen[:, :, place], MISSING), 2)
        instead = [(name, int(pairs)) for name, pairs in zip(names, confused.against[place], strict=True) if pairs]
        per_category.append(
            CategoryAgreement(
                category,
                chosen=int(counts[:, 1].sum()),
                agreement=_agreement(
                    bootstrap, counts, measures.alpha(counts, measures.nominal(2)), measures.ac1(counts)
                ),
                both=int(confused.both[place]),
                one=int(confused.one[place]),
                against=tuple(sorted(instead, key=lambda entry: -entry[1])),
            )
        )
    return tuple(per_category)


def _agreement(bootstrap: Bootstrap, counts: Floats, alpha: Measure, ac1: Measure | None = None) -> Agreement:
    return Agreement(
        features=alpha.units,
        answers=int(counts[counts.sum(axis=1) > 1].sum()),
        alpha=bootstrap.estimate(alpha),
        ac1=bootstrap.estimate(ac1) if ac1 else None,
        raw=bootstrap.estimate(measures.raw_agreement(counts)),
    )


def _shared_features(table: _Table) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield the pairs of people who labelled the same features, and how many."""
    labelled = table.labelled.astype(np.int64)
    shared = labelled.T @ labelled
    for one, other in combinations(range(len(table.people)), 2):
        if shared[one, other]:
            yield (one, other), int(shared[one, other])


def _of_pair(bootstrap: Bootstrap, table: _Table, pair: tuple[int, int], shared: int) -> PairAgreement:
    one, other = pair

    def kappa(ratings: Codes, distance: Floats) -> Estimate:
        return bootstrap.estimate(measures.kappa(ratings[:, one], ratings[:, other], distance))

    return PairAgreement(
        people=(table.people[one], table.people[other]),
        features=shared,
        categories=kappa(table.sets, table.set_distance) if table.categories else None,
        interpretability=kappa(table.interpretability, measures.quadratic(SCALE)),
    )


def _of_person(bootstrap: Bootstrap, table: _Table, place: int) -> PersonAgreement:
    """Return one person's agreement with the others, about categories or else interpretability."""
    by_scale = table.interpretability, measures.quadratic(SCALE) / (SCALE - 1) ** 2
    ratings, distance = (table.sets, table.set_distance) if table.categories else by_scale
    return PersonAgreement(
        person=table.people[place],
        features=int(table.labelled[:, place].sum()),
        kappa=bootstrap.estimate(measures.kappa_with_others(ratings, place, distance)),
        extra_distance=bootstrap.estimate(measures.extra_distance(ratings, place, distance)),
    )
