"""Agreement of the people of a label set."""

import random

import pytest

from app.services.agreement import MAX_PAIRS, measure_agreement
from app.services.agreement_report import AgreementReport, Rating

CATEGORIES = ("syntax", "medicine", "names")


def make_ratings(features: int, people: int, *, seed: int = 0, stray: int | None = None) -> list[Rating]:
    """Return ratings of people who mostly agree; `stray` answers at random."""
    rng = random.Random(seed)
    ratings = []
    for feature in range(features):
        true, level = rng.choice(CATEGORIES), rng.randint(1, 5)
        for person in range(people):
            guesses = person == stray or rng.random() < 0.2
            chosen = rng.choice(CATEGORIES) if guesses else true
            ratings.append(Rating(feature, person, (chosen,), rng.randint(1, 5) if guesses else level))
    return ratings


def test_report_says_how_far_people_agree_and_about_what() -> None:
    ratings = [
        *make_ratings(60, 4, stray=3),
        *(Rating(1000 + feature, 0, ("names",), 3) for feature in range(5)),  # nobody else labelled these
        Rating(2000, 0, (), None),  # in both answers, "none of them" and no answer
        Rating(2000, 1, ("syntax", "names"), None),
    ]
    report = measure_agreement(ratings, CATEGORIES, resamples=200)
    assert (report.features, report.labels) == (61, 242)
    assert report.categories is not None and report.categories.alpha.value is not None
    assert (report.categories.features, report.categories.answers) == (61, 242)
    assert (report.interpretability.features, report.interpretability.answers) == (60, 240)
    assert report.categories.ac1 is None
    assert report.interpretability.ac1 is not None

    syntax, *_ = report.per_category
    assert [entry.category for entry in report.per_category] == list(CATEGORIES)
    assert syntax.chosen == sum(rating.categories == ("syntax",) for rating in ratings) + 1
    assert dict(syntax.against)[None] == 1
    assert {name for name, _ in syntax.against} == {"medicine", "names", None}
    assert syntax.one == sum(pairs for _, pairs in syntax.against)

    assert len(report.pairs) == 6
    assert report.pairs[0].people == (0, 1) and report.pairs[0].features == 61
    kappas = {pair.people: pair.categories and pair.categories.value for pair in report.pairs}
    assert min(kappas[0, 1], kappas[0, 2], kappas[1, 2]) > 0.3 > max(kappas[0, 3], kappas[1, 3], kappas[2, 3])
    assert [person.person for person in report.people if person.differs] == [3]


def test_without_a_guideline_the_categories_that_people_wrote_count() -> None:
    ratings = [
        Rating(feature, person, ("medicine",) if (feature + person * (feature % 5 == 0)) % 2 else (), None)
        for feature in range(40)
        for person in range(2)
    ]
    report = measure_agreement(ratings, resamples=50)
    assert [entry.category for entry in report.per_category] == ["medicine"]
    assert report.categories is not None
    assert report.categories.features == 16  # features for which both wrote one
    assert report.interpretability.alpha.reason == "two people answered for no feature, and it takes 10"

    plain = measure_agreement([Rating(feature, person, (), 2) for feature in range(20) for person in range(2)])
    assert plain.categories is None and plain.per_category == ()
    assert plain.interpretability.alpha.value is None and plain.interpretability.raw.value == 1
    assert plain.people[0].kappa.reason


@pytest.mark.parametrize("offered", [(), CATEGORIES])
def test_an_empty_set_has_an_empty_report(offered: tuple[str, ...]) -> None:
    report = measure_agreement([], offered)
    assert isinstance(report, AgreementReport)
    assert (report.features, report.labels, report.pairs, report.people) == (0, 0, (), ())
    assert report.interpretability.alpha.reason


def test_many_people_are_compared_as_far_as_one_can_read() -> None:
    report = measure_agreement(make_ratings(12, 12), CATEGORIES, resamples=20)
    assert len(report.pairs) == MAX_PAIRS
    assert report.pairs_left_out == 12 * 11 // 2 - MAX_PAIRS
