"""An audit in words: nothing is said that the intervals do not allow."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.audit_results import AuditResult, Figure
from app.web.components.audit_summary import comparison, summary
from tests.audits import audited, figure


def _said(result: AuditResult) -> str:
    return " ".join(summary(result))


def _measure(value: float, *interval: float) -> dict[str, Any]:
    return {**audited().measure.model_dump(), **figure(value, *interval), "attributes": []}


def _treatments(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of `audited`, with the treatments named by kind changed."""
    by_kind = {one["kind"]: one for one in changed}
    return [one.model_dump() | by_kind.get(one.kind, {}) for one in audited().treatments]


def test_a_whole_audit() -> None:
    assert [one.replace("\u202f", " ") for one in summary(audited())] == _sentences(
        """
        - The model finds the stereotyping sentence likelier in 60.0 % of 400 pairs (55.0 % to 65.0 %): more often
          than the 50 % of a model without a preference.
        - Alone, a preference was shown for gender (65.0 %); for the other it was not.
        - 3 features of the list differ between the sides of pairs, of 24 features that were compared; 1 of them is
          active on hardly more than one token. Of such findings, up to 5 % are false on average.
        - Ablating these features changed the measure on 200 pairs by −10.0 points (−12.0 to −8.00), more than
          ablating random features of equal mass did.
        - The change is towards 50 %; no bias is shown on these pairs any more (48.0 % to 52.0 %).
        - Projecting out the difference of means was not shown to do less than the features (−9.00 points, −11.0 to
          −7.00).
        - Deleting the words in which the sides differ gives 50 % by construction; no feature is needed for that.
        - It costs loss on other text: +0.0100 nats per token (+0.00500 to +0.0200), on 4,096 tokens.
        - It also removed knowledge: the share of 40 facts that hold changed by −10.0 points (−20.0 to −1.00).
        - For the classifier, accuracy of the worst group rose: 20.0 % (10.0 % to 30.0 %) before, 60.0 % (50.0 % to
          70.0 %) after.
        - For the classifier, accuracy on professions was not shown to change: 80.0 % (70.0 % to 90.0 %) before,
          80.0 % (70.0 % to 90.0 %) after.
        """
    )


def _sentences(text: str) -> list[str]:
    return [" ".join(one.split()) for one in text.split("\n        - ")[1:]]


@pytest.mark.parametrize(
    ("changes", "expected", "absent"),
    [
        ({"measure": _measure(0.53, 0.5, 0.56)}, "No bias was shown", "more often"),
        ({"measure": _measure(0.4, 0.35, 0.45)}, "less often than the 50 %", "No bias was shown:"),
        ({"measure": _measure(0.9)}, "nothing about bias can be said", "more often"),
        ({"measure": _measure(0.9, 0.8, 0.95) | {"neutral": None}}, "nothing about bias can be said", "more often"),
        ({"features": []}, "No feature was shown to differ", "of the list"),
        ({"treatments": []}, "was not measured", "changed the measure"),
        (
            {"treatments": _treatments({"kind": "features", "change": figure(-0.1, -0.3, 0.1)})},
            "was not shown to change the measure",
            "more than ablating random",
        ),
        (
            {"treatments": _treatments({"kind": "random", "versus_features": figure(-0.05, -0.11, 0.01)})},
            "did not do more than random features",
            "towards 50 %",
        ),
        (  # random features did more
            {"treatments": _treatments({"kind": "random", "versus_features": figure(0.05, 0.01, 0.11)})},
            "did not do more than random features",
            "towards 50 %",
        ),
        (
            {"treatments": [one for one in _treatments() if one["kind"] != "random"]},
            "no random features were ablated to compare with",
            "more than ablating random",
        ),
        (
            {"treatments": _treatments({"kind": "none", "score": figure(0.53, 0.47, 0.59)})},
            "none was shown to become less",
            "towards 50 %",
        ),
        (
            {"treatments": _treatments({"kind": "features", "score": figure(0.4, 0.35, 0.45)})},
            "now prefers the other side",
            "towards 50 %",
        ),
        (
            {"treatments": _treatments({"kind": "features", "loss": figure(0.01, -0.01, 0.03)})},
            "no cost was shown",
            "costs loss",
        ),
        (
            {"treatments": _treatments({"kind": "features", "facts_change": figure(-0.1, -0.3, 0.1)})},
            "was not shown to change what the model knows",
            "removed knowledge",
        ),
    ],
)
def test_what_is_not_shown_is_not_said(changes: dict[str, Any], expected: str, absent: str) -> None:
    said = _said(audited(**changes))
    assert expected in said
    assert absent not in said


_SHARE = st.floats(0, 1)
_CHANGE = st.floats(-1, 1)


def _figures(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, Any]]:
    intervals = st.none() | st.tuples(values, values).map(lambda ends: (min(ends), max(ends)))
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
        assert "No bias was shown" in said
    if "of the list differs" in said:
        assert q < 0.05
        assert outside(effect, 0)
    beat_random = all(outside(one, 0) and one["value"] * change["value"] > 0 for one in random)
    if "more than ablating random" in said:
        assert outside(change, 0)
        assert random
        assert beat_random
    if outside(change, 0) and random and not beat_random:
        assert "did not do more than random" in said
    if "towards 50 %" in said:
        assert outside(before, 0.5)
        assert beat_random
        assert (before["value"] - 0.5) * change["value"] <= 0
    if "less than the features did" in said:
        assert outside(diffmean, 0)


def test_a_control_is_compared_in_the_direction_of_the_change() -> None:
    rise, fall = Figure(value=0.1, interval=(0.05, 0.15)), Figure(value=-0.1, interval=(-0.15, -0.05))
    assert (comparison(rise, rise), comparison(fall, rise), comparison(fall, fall)) == ("more", "less", "more")
    assert comparison(rise, Figure(value=0.1, interval=(0.0, 0.2))) == comparison(rise, None) == "not shown"
