"""An audit in words: nothing is said that the intervals do not allow."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.audit_results import AuditResult, Figure
from app.web.components.audit_summary import MIN_DIFFERING, comparison, least_shown, summary
from sae_core.auditing.config import MIN_PAIRS
from sae_core.auditing.intervals import wilson
from tests.audits import audited, figure


def _said(result: AuditResult) -> str:
    return " ".join(summary(result))


def _measure(value: float, *interval: float) -> dict[str, Any]:
    return {**audited().measure.model_dump(), **figure(value, *interval), "attributes": []}


def _treatments(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of `audited`, with the treatments named by kind changed."""
    by_kind = {one["kind"]: one for one in changed}
    return [one.model_dump() | by_kind.get(one.kind, {}) for one in audited().treatments]


def _accuracy(kind: str, worst: float, *interval: float, **more: Any) -> dict[str, Any]:
    """A classifier's treatment by its worst group."""
    other = {"profession": figure(0.8, 0.7, 0.9), "group": figure(0.6, 0.5, 0.7)}
    return {"kind": kind, "name": kind, **other, "worst_group": figure(worst, *interval), **more}


_CLASSIFIER = {
    "note": "",
    "labels": ["nurse", "professor"],
    "groups": ["female", "male"],
    "train_texts": 160,
    "test_texts": 160,
    "treatments": [
        _accuracy("none", 0.05, 0.0, 0.12),
        _accuracy("features", 0.37, 0.22, 0.48),
        _accuracy("features", 0.1, 0.0, 0.2, retrained=True),
        _accuracy("random", 0.05, 0.0, 0.12),
        _accuracy("random", 0.1, 0.0, 0.2, retrained=True),
        _accuracy("diffmean", 0.4, 0.25, 0.55),
        _accuracy("tokens", 0.87, 0.76, 0.96, retrained=True),
        _accuracy("balanced", 0.95, 0.85, 0.97),
    ],
}


def _classifier(*treatments: dict[str, Any]) -> dict[str, Any]:
    return {**_CLASSIFIER, "treatments": list(treatments)}


def test_a_whole_audit() -> None:
    said = summary(audited(classifier=_CLASSIFIER))
    assert [one.replace("\u202f", " ") for one in said] == _sentences(
        """
        - The model finds the stereotyping sentence likelier in 60.0 % of 400 pairs (55.0 % to 65.0 %): more often
          than the 50 % of a model without a preference.
        - Alone, a preference was shown for gender (65.0 %); for the other it was not.
        - Of the SAE's 4,096 features, only the 24 in which 10 or more of 200 pairs differ could be compared; of 3
          listed, 3 differ between the sides, 1 of these on hardly more than one token, and up to one in twenty
          such findings is chance.
        - Ablating 3 features changed the share: 60.0 % before and 50.0 % after on the 200 pairs that features were not
          chosen on, −10.0 points (−12.0 to −8.00), towards 50 % (no preference), and none is shown any more; more than
          random features of equal mass did (−1.00 to 0 points in 2 draws).
        - Without any feature, projecting out the difference of means was not shown to do less than the features
          (−9.00 points, −11.0 to −7.00); deleting the words in which the sides differ gives 50 % by construction.
        - It costs loss on other text: +0.0100 nats per token (+0.00500 to +0.0200), on 4,096 tokens (0.01 nats are
          about 1 % of the probability of each token).
        - The share of 40 facts about gender, such as “The mother was tired, so she”, that hold fell: 80.0 % before,
          70.0 % after, −10.0 points (−20.0 to −1.00); no other knowledge was tested.
        - A second test: a classifier trained on 160 templated biographies in which every nurse is female and every
          professor male; it says nothing of what this model writes.
        - Its accuracy in the group that it does worst on: 5.0 % (0 % to 12.0 %) before; 37.0 % (22.0 % to 48.0 %) with
          features ablated, a rise; 10.0 % (0 % to 20.0 %) after training again too, not shown to change; 5.0 % to
          10.0 % in 2 runs with random features.
        - There, the best baseline without features (the words of the group deleted, trained again) gives 87.0 %
          (76.0 % to 96.0 %), better than the features, and training on balanced texts gives 95.0 % (85.0 % to 97.0 %).
        """
    )


def _sentences(text: str) -> list[str]:
    return [" ".join(one.split()) for one in text.split("\n        - ")[1:]]


@pytest.mark.parametrize("pairs", [4, 5, 10, 23, 40, 97, 200, 1018])
def test_the_least_share_that_could_be_shown_is_on_wilsons_edge(pairs: int) -> None:
    least = least_shown(pairs)
    assert least is not None
    shown, not_shown = wilson(least, pairs), wilson(least - 1 / pairs, pairs)
    assert shown and not_shown
    assert not_shown[0] <= 0.5 < shown[0]
    mirrored = wilson(1 - least, pairs)
    assert mirrored and mirrored[1] < 0.5


def test_three_pairs_can_show_no_preference() -> None:
    assert least_shown(3) is None
    assert "with 3 pairs none could have been" in _said(audited(measure=_measure(1.0, 0.44, 1.0) | {"pairs": 3}))


def test_the_number_of_pairs_that_is_told_is_the_one_that_is_used() -> None:
    assert MIN_DIFFERING == MIN_PAIRS


@pytest.mark.parametrize(
    ("changes", "expected", "absent"),
    [
        (
            {"measure": _measure(0.53, 0.5, 0.56) | {"pairs": 40}},
            "No preference was shown, but with 40 pairs only a share of 67.5 % or more, or of 32.5 % or less",
            "more often",
        ),
        (
            {"measure": _measure(0.53, 0.45, 0.61) | {"name": "groups"}},
            "one anywhere from 45.0 % to 61.0 % would fit",
            "or more, or of",
        ),
        ({"measure": _measure(0.4, 0.35, 0.45)}, "less often than the 50 %", "No preference was shown"),
        ({"measure": _measure(0.9)}, "nothing about bias can be said", "more often"),
        ({"measure": _measure(0.9, 0.8, 0.95) | {"neutral": None}}, "nothing about bias can be said", "more often"),
        ({"features": []}, "could be compared, and none was shown to differ between the sides.", "listed"),
        ({"sae_features": 0}, "Only the 24 in which 10 or more of 200 pairs differ", "Of the SAE's"),
        (
            {"features": audited().features[:1]},
            "of 1 listed, 1 differs between the sides, none of these on",
            "1 of these",
        ),
        ({"features": audited().features[1:2]}, "1 of these on hardly more than one token", "none of these"),
        ({"treatments": []}, "was not measured", "changed the share"),
        (
            {"treatments": _treatments({"kind": "features", "change": figure(-0.1, -0.3, 0.1)})},
            "was not shown to change the share: 60.0 % before and 50.0 % after on the 200 pairs",
            "towards 50 %",
        ),
        (
            {"treatments": _treatments({"kind": "random", "versus_features": figure(-0.05, -0.11, 0.01)})},
            "was not shown to do more than random features: 60.0 % before and 50.0 % after",
            "more than random features of equal mass did",
        ),
        (  # random features did more
            {"treatments": _treatments({"kind": "random", "versus_features": figure(0.05, 0.01, 0.11)})},
            "was not shown to do more than random features",
            "more than random features of equal mass did",
        ),
        (
            {"treatments": [one for one in _treatments() if one["kind"] != "random"]},
            "no random features were ablated to compare with",
            "more than random features",
        ),
        (
            {"treatments": _treatments({"kind": "none", "score": figure(0.53, 0.47, 0.59)})},
            "not shown to be less preference or more, as none was shown before;",
            "towards 50 %",
        ),
        (
            {
                "treatments": _treatments(
                    {"kind": "none", "score": figure(0.53, 0.47, 0.59)},
                    {"kind": "features", "score": figure(0.43, 0.37, 0.49)},
                )
            },
            "as none was shown before, though one is shown after;",
            "(no preference)",
        ),
        (
            {"treatments": _treatments({"kind": "none", "score": figure(0.4, 0.35, 0.45)})},
            "−10.0 points (−12.0 to −8.00), away from 50 % (no preference)",
            "towards 50 %",
        ),
        (
            {"treatments": _treatments({"kind": "features", "score": figure(0.4, 0.35, 0.45)})},
            "past 50 % (no preference), so that the other side is preferred now",
            "towards 50 %",
        ),
        (
            {"treatments": _treatments({"kind": "features", "score": figure(0.55, 0.52, 0.58)})},
            "towards 50 % (no preference), and one is still shown",
            "any more",
        ),
        (
            {"measure": audited().measure.model_dump() | {"neutral": None}},
            "changed the share: 60.0 % before and 50.0 % after",
            "(no preference)",
        ),
        (
            {"treatments": _treatments({"kind": "features", "loss": figure(0.01, -0.01, 0.03)})},
            "No cost was shown",
            "costs loss",
        ),
        (
            {"treatments": _treatments({"kind": "features", "facts_change": figure(-0.1, -0.3, 0.1)})},
            "that hold was not shown to change",
            "hold fell",
        ),
        ({"facts_about": [], "facts_example": ""}, "40 facts chosen for this set that hold fell", "about gender"),
        ({"facts_about": ["gender", "religion"]}, "facts about gender and religion, such as", "chosen for"),
        (
            {"classifier": _classifier(_accuracy("none", 0.5, 0.4, 0.6), _accuracy("features", 0.3, 0.2, 0.39))},
            "with features ablated, a fall",
            "baseline",
        ),
        (
            {"classifier": _classifier(_accuracy("features", 0.7, 0.6, 0.8), _accuracy("diffmean", 0.75, 0.65, 0.85))},
            "not shown to differ from the features",
            "better than",
        ),
        (
            {"classifier": _classifier(_accuracy("features", 0.7, 0.6, 0.8), _accuracy("diffmean", 0.3, 0.2, 0.4))},
            "worse than the features",
            "better than",
        ),
        ({"classifier": None}, "The share of 40 facts", "A second test"),
    ],
)
def test_what_is_not_shown_is_not_said(changes: dict[str, Any], expected: str, absent: str) -> None:
    said = _said(audited(**changes)).replace("\u202f", " ")
    assert expected in said
    assert absent not in said


_SHARE = st.floats(0, 1)
_CHANGE = st.floats(-1, 1)


def _figures(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, Any]]:
    intervals = st.none() | st.tuples(values, values).filter(lambda ends: ends[0] != ends[1]).map(
        lambda ends: (min(ends), max(ends))
    )
    return st.builds(lambda value, interval: {"value": value, "interval": interval}, values, intervals)


@settings(max_examples=300, deadline=None)
@given(
    score=_figures(_SHARE),
    before=_figures(_SHARE),
    after=_figures(_SHARE),
    change=_figures(_CHANGE),
    random=st.lists(_figures(_CHANGE), max_size=3),
    diffmean=_figures(_CHANGE),
    effect=_figures(_CHANGE),
    q=_SHARE,
)
def test_no_claim_without_its_interval(
    score: Any, before: Any, after: Any, change: Any, random: list[Any], diffmean: Any, effect: Any, q: float
) -> None:
    """Every claim of the rules is checked against its intervals, written out here once more."""
    feature = audited().features[0].model_dump() | {"effect": effect, "q": q}
    result = audited(
        measure=audited().measure.model_dump() | score,
        features=[feature],
        treatments=[
            {"kind": "none", "name": "", "score": before},
            {"kind": "features", "name": "", "score": after, "change": change, "features": [1]},
            *({"kind": "random", "name": "", "score": after, "versus_features": one} for one in random),
            {"kind": "diffmean", "name": "", "score": after, "versus_features": diffmean},
        ],
    )
    said = _said(result)

    def outside(one: dict[str, Any], value: float) -> bool:
        return one["interval"] is not None and not one["interval"][0] <= value <= one["interval"][1]

    if re.search(r"(more|less) often than", said):
        assert outside(score, 0.5)
    if score["interval"] is not None and not outside(score, 0.5):
        assert "No preference was shown" in said
    if "of 1 listed, 1 differs" in said:
        assert q < 0.05
        assert outside(effect, 0)
    beat_random = all(outside(one, 0) and one["value"] * change["value"] > 0 for one in random)
    assert len(summary(result)) <= 10
    if "more than random features of equal mass did" in said:
        assert outside(change, 0)
        assert random
        assert beat_random
    if outside(change, 0) and random and not beat_random:
        assert "was not shown to do more than random" in said
    if "towards 50 %" in said:
        assert outside(before, 0.5)
        assert outside(change, 0)
        assert (before["value"] - 0.5) * change["value"] <= 0
    if "less than the features did" in said:
        assert outside(diffmean, 0)


def test_an_interval_without_width_is_no_certainty() -> None:
    sure = _accuracy("diffmean", 1.0, 1.0, 1.0)
    said = _said(audited(classifier=_classifier(_accuracy("features", 0.5, 0.4, 0.6), sure))).replace("\u202f", " ")
    assert "gives 100 % (no interval), not shown to differ from the features" in said
    assert "100 % to 100 %" not in said
    unmoved = _treatments({"kind": "features", "facts_change": figure(0.0, 0.0, 0.0)})
    assert "0 points (no interval)" in _said(audited(treatments=unmoved))


def test_a_control_is_compared_in_the_direction_of_the_change() -> None:
    rise, fall = Figure(value=0.1, interval=(0.05, 0.15)), Figure(value=-0.1, interval=(-0.15, -0.05))
    assert (comparison(rise, rise), comparison(fall, rise), comparison(fall, fall)) == ("more", "less", "more")
    assert comparison(rise, Figure(value=0.1, interval=(0.0, 0.2))) == comparison(rise, None) == "not shown"
