"""Measures of a sweep, against plain passes of the model."""

from collections.abc import Generator
from typing import TypeVar

import pytest
import torch

from sae_core.interventions import Baseline, Intervention, Sampling, Site, Sweep, SweepPoint, intervene
from sae_core.interventions.sweep import repetition
from sae_core.models import LanguageModel
from tests.core.interventions.conftest import HOOK, TEXT, random_sae, strongest

T = TypeVar("T")
PROMOTED = [5, 9]


def finished(work: Generator[None, None, T]) -> tuple[T, int]:
    """Return the result, and the number of places where others could have used the model."""
    pauses = 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, pauses
        pauses += 1


def swept(model: LanguageModel, site: Site, sampling: Sampling) -> tuple[Baseline, SweepPoint]:
    sweep = Sweep(model, model.tokenize(TEXT), sampling, PROMOTED)
    baseline, _ = finished(sweep.baseline())
    point, pauses = finished(sweep.point([site]))
    assert pauses >= len(point.token_ids)
    return baseline, point


@pytest.mark.parametrize("positions", ["all", "generated", (3, 16)])
def test_measures_equal_those_of_whole_passes(any_model: LanguageModel, positions: object) -> None:
    sae, prompt = random_sae(), any_model.tokenize(TEXT)
    change = Intervention("clamp", 6.0, feature=strongest(any_model, sae), positions=positions)  # type: ignore[arg-type]
    site = Site(HOOK, [change], sae)
    baseline, point = swept(any_model, site, Sampling(max_new_tokens=12))

    def log_p(text: list[int], changed: bool) -> torch.Tensor:
        ids = torch.tensor([prompt + text])
        if not changed:
            return any_model.logits(ids)[0, len(prompt) - 1 : -1].log_softmax(-1)
        with intervene(any_model, [site], prompt_length=len(prompt)):
            return any_model.logits(ids)[0, len(prompt) - 1 : -1].log_softmax(-1)

    def loss(text: list[int], changed: bool) -> float:
        return -float(log_p(text, changed).gather(1, torch.tensor(text)[:, None]).mean())

    p, q = log_p(point.token_ids, False), log_p(point.token_ids, True)
    assert point.kl == pytest.approx(float((q.exp() * (q - p)).sum(1).mean()), abs=1e-4)
    assert point.loss == pytest.approx(loss(baseline.token_ids, True), abs=1e-4)
    assert baseline.loss == pytest.approx(loss(baseline.token_ids, False), abs=1e-4)
    rise = (q.exp() - p.exp())[:, PROMOTED].sum(1).mean()
    assert point.promoted == pytest.approx(float(rise), abs=1e-5)


def test_what_changes_nothing_leaves_the_baseline(any_model: LanguageModel) -> None:
    sae = random_sae()
    site = Site(HOOK, [Intervention("scale", 1.0, feature=strongest(any_model, sae))], sae)
    baseline, point = swept(any_model, site, Sampling(max_new_tokens=8))
    assert point.token_ids == baseline.token_ids
    assert (point.loss, point.repetition) == (pytest.approx(baseline.loss, abs=1e-4), baseline.repetition)
    assert point.kl < 1e-5
    assert point.promoted == pytest.approx(0, abs=1e-5)


def test_one_token_is_enough(any_model: LanguageModel) -> None:
    sae = random_sae()
    site = Site(HOOK, [Intervention("add", 6.0, feature=1)], sae)
    baseline, point = swept(any_model, site, Sampling(max_new_tokens=1))
    assert len(baseline.token_ids) == len(point.token_ids) == 1
    assert point.repetition == 0


def test_repetition_is_the_share_of_3_grams_that_came_before() -> None:
    assert repetition([1, 2, 3, 4]) == 0
    assert repetition([1, 2, 1, 2, 1, 2]) == 0.5  # 121, 212, and both again
    assert repetition([7] * 10) == 7 / 8
    assert repetition([7, 7]) == 0
