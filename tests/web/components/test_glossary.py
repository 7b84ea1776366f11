"""Explanations beside numbers."""

from app.web.components.glossary import measures


def test_a_share_of_the_loss_beyond_its_ends_is_explained() -> None:
    def remark(value: float) -> str:
        (measure,), others = measures({"ce_recovered_mean": value})
        assert not others
        return measure.remark

    assert "above 100 %" in remark(1.012)
    assert "below 0 %" in remark(-0.1)
    assert remark(1.0) == remark(0.0) == remark(0.97) == ""
    assert measures({"explained_variance": 1.2})[0][0].remark == ""
