"""Measures of agreement in words."""

from app.services.agreement_report import Estimate, PersonAgreement
from app.web.components.agreement_text import decimals, interval, on_scale, second_look, verdict


def test_measures_are_read_with_two_decimals() -> None:
    assert [decimals(value) for value in (0.745, -0.081, -0.001, 1.0)] == ["0.74", "−0.08", "0.00", "1.00"]
    assert interval(Estimate(20, 0.5, -0.1, 0.9)) == "−0.10 to 0.90"
    assert interval(Estimate(20, 0.5)) == ""
    assert (on_scale(-1.0), on_scale(-0.25), on_scale(1.0)) == (0, 0, 100)


def test_advice_goes_by_the_lower_end() -> None:
    ends = [Estimate(20, 0.9, low, 0.95) for low in (0.81, 0.7, 0.5)]
    assert [verdict(end).split()[0] for end in ends] == ["reliable:", "enough", "too"]
    assert verdict(Estimate(3)) == ""


def test_a_second_look_is_asked_for_kindly_and_only_beyond_chance() -> None:
    near, far = Estimate(20, 0.1, -0.1, 0.3), Estimate(20, 0.3, 0.1, 0.5)
    assert second_look(PersonAgreement(1, 20, Estimate(20), near)) == ""
    assert "worth going through some together" in second_look(PersonAgreement(1, 20, Estimate(20), far))
