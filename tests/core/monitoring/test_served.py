"""Watched texts on interp-engine's vLLM back end, with a stand-in for vLLM: scores are those of the eager path."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sae_core.interventions import Intervention, Sampling, Site, Step
from sae_core.models import HookPoint, LanguageModel, ServedModel
from sae_core.monitoring import Alert, Monitor, Scored, generate_watched, score_texts
from tests.core.interventions.conftest import HOOK, TEXT, random_sae, strongest
from tests.vllm_stand_in import AsyncLLM, load_served


@pytest.fixture
def served(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedModel]:
    found = load_served(monkeypatch, model.source)
    assert isinstance(found, ServedModel)
    yield found
    found.close()


def sites(model: LanguageModel, where: str) -> list[Site]:
    sae = random_sae("jumprelu")
    there = Site(HOOK, [Intervention("ablate", feature=strongest(model, sae))], sae)
    earlier = Site(HookPoint("resid_post", 0), [Intervention("add", 2.0, direction=sae.W_dec[3])])
    return {"none": [], "there": [there], "earlier": [earlier], "both": [there, earlier]}[where]


@pytest.mark.parametrize("where", ["none", "there", "earlier", "both"])
@pytest.mark.parametrize("edited", [False, True], ids=["", "edited once it fires"])
def test_scores_and_alerts_are_those_of_the_eager_path(
    where: str, edited: bool, model: LanguageModel, served: ServedModel, monitors: list[Monitor]
) -> None:
    low = [replace(monitor, threshold=0.05) for monitor in monitors]

    def watched(one: LanguageModel) -> list[Any]:
        when_fired = sites(model, "there") if edited else []
        asked = {"sites": sites(model, where), "when_fired": when_fired}
        return list(generate_watched(one, model.tokenize(TEXT), low, Sampling(max_new_tokens=10), **asked))

    ours, theirs = watched(served), watched(model)
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, Step):
            assert mine.token_id == other.token_id
        elif isinstance(mine, Scored | Alert):
            assert (mine.monitor, mine.position, mine.token_id) == (other.monitor, other.position, other.token_id)
            assert mine.score == pytest.approx(other.score, abs=1e-4)
    assert any(isinstance(event, Alert) for event in ours)


def test_texts_are_scored_as_on_the_eager_path(
    model: LanguageModel, served: ServedModel, monitors: list[Monitor]
) -> None:
    ours, theirs = (score_texts(one, monitors, [TEXT, "Call me Ishmael."]) for one in (served, model))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.token_ids == other.token_ids
        assert [one.score for one in mine.scores] == pytest.approx([one.score for one in other.scores], abs=1e-4)


def test_a_watched_text_takes_one_pass_per_token(
    model: LanguageModel, served: ServedModel, monitors: list[Monitor]
) -> None:
    engine = AsyncLLM.running[-1]
    for where, passes in (("earlier", 1), ("there", 2)):  # a second one reads what is there before it is changed
        before = engine.passes
        events = generate_watched(
            served, model.tokenize(TEXT), monitors, Sampling(max_new_tokens=6), sites=sites(model, where)
        )
        read = sum(isinstance(event, Step) for event in events) + 1
        assert engine.passes - before == passes * read
