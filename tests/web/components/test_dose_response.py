"""The drawing of a dose–response, and its numbers."""

from app.web.components.dose_response import HEIGHT, WIDTH, dose_response
from tests.effects import effect


def test_doses_rise_within_the_box_and_are_in_the_table() -> None:
    drawn = dose_response(effect(1)["dose_response"])
    heights = [dose.y for dose in drawn.doses]
    assert heights == sorted(heights, reverse=True)
    assert all(
        0 < dose.x < WIDTH and 0 < (dose.high or 0) <= dose.y <= (dose.low or 0) < HEIGHT for dose in drawn.doses
    )
    assert [dose.name for dose in drawn.doses] == ["0.5 ×", "1 ×", "2 ×", "4 ×"]
    assert drawn.chart.rows[-1] == ("4 ×", "0.40", "0.20–0.80", "+0.0800", "50")
    assert [name for _, name in drawn.levels] == ["0", "0.5", "1"]


def test_a_dose_without_interval_or_without_any_change_is_drawn() -> None:
    nothing = {"dose": 1.0, "kl": 0.0, "kl_interval": None, "delta_loss": 0.0, "tokens": 3}
    drawn = dose_response([nothing])
    assert drawn.doses[0].low is None
    assert drawn.doses[0].y == drawn.bottom
