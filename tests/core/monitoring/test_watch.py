"""Monitors of passes: `transformers`' own generation, ours, batches, padding, alerts, stops and edits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_core.errors import ModelError, MonitorError
from sae_core.interventions import End, Intervention, Sampling, Site, Step, generate, intervene
from sae_core.models import HookPoint, LanguageModel
from sae_core.monitoring import (
    Alert,
    DirectionDetector,
    Monitor,
    MonitorFired,
    ProbeDetector,
    Scored,
    TextScore,
    calibrate_monitor,
    follow_texts,
    generate_watched,
    save_monitor,
    score_activations,
    score_reading,
    score_texts,
    watch,
)
from sae_core.readings import Part, read_texts
from tests.core.interventions.conftest import HOOK, TEXT, random_sae
from tests.core.monitoring.conftest import features_monitor, monitor_of

TEXTS = [
    "It was the best of times.",
    "Call me Ishmael. Some years ago",
    "the",
    "A man of honour keeps his word, always",
]
LATER = HookPoint("resid_post", 2)


@pytest.fixture
def plain(model: LanguageModel) -> Any:
    """The tiny Llama as `transformers` loads it; nothing ends its texts."""
    loaded = AutoModelForCausalLM.from_pretrained(model.source)
    loaded.generation_config.eos_token_id = None
    return loaded


def of_ids(model: LanguageModel, monitor: Monitor, ids: list[int]) -> TextScore:
    """A text's score from a pass of its own."""
    x = model.activations(torch.tensor([ids]), monitor.hook)[0]
    counted = np.array([token not in monitor.special_token_ids for token in ids])
    return score_activations(monitor, x, np.full(len(ids), Part.USER), counted)


def test_a_batch_scores_as_each_text_alone(plain: Any, model: LanguageModel, monitors: list[Monitor]) -> None:
    rows = [model.tokenize(text) for text in TEXTS]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[2] * (longest - len(row)) + row for row in rows])  # padded on the left
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    with watch(plain, monitors) as watching:
        written = plain.generate(ids, attention_mask=mask, max_new_tokens=9, do_sample=False)
        for row, prompt in enumerate(rows):
            read = [*prompt, *written[row, longest:-1].tolist()]  # the last token is never read
            for monitor in monitors:
                expected = of_ids(model, monitor, read)
                scored = [one for one in watching.scored if (one.monitor, one.row) == (monitor.name, row)]
                np.testing.assert_allclose([one.score for one in scored], expected.running, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose([one.value for one in scored], expected.values, rtol=1e-4, atol=1e-5)
                assert [one.position for one in scored] == expected.positions.tolist()
                assert [one.token_id for one in scored] == [read[place] for place in expected.positions]
                assert [one.generated for one in scored] == [one.position >= len(prompt) for one in scored]
                assert watching.scores(row)[monitor.name] == pytest.approx(expected.score, rel=1e-4, abs=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())


def test_which_tokens_are_watched(plain: Any, model: LanguageModel, monitors: list[Monitor]) -> None:
    prompt = model.tokenize(TEXT)
    watched = [replace(monitors[1], name=tokens, tokens=tokens) for tokens in ("all", "user", "assistant")]
    with watch(plain, watched) as watching:
        plain.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
        found = {tokens: [one for one in watching.scored if one.monitor == tokens] for tokens in ("user", "assistant")}
    assert [one.position for one in found["user"]] == list(range(1, len(prompt)))
    assert [one.position for one in found["assistant"]] == list(range(len(prompt), len(prompt) + 4))


def test_a_second_text_begins_anew(plain: Any, model: LanguageModel, monitors: list[Monitor]) -> None:
    first, second = (torch.tensor([model.tokenize(text)]) for text in TEXTS[:2])
    with watch(plain, monitors) as watching, torch.no_grad():
        plain(first)
        plain(second)
        again = watching.scores()
    with watch(plain, monitors) as watching, torch.no_grad():
        plain(second)
        assert watching.scores() == again


def test_it_alerts_once_when_it_happens(plain: Any, model: LanguageModel, monitors: list[Monitor]) -> None:
    prompt = torch.tensor([model.tokenize(TEXT)])
    with watch(plain, [monitors[0]]) as watching:
        plain.generate(prompt, max_new_tokens=12, do_sample=False)
        course = list(watching.scored)
    generated = [one for one in course if one.generated]
    threshold = (course[0].score + max(one.score for one in generated)) / 2
    first = next(one for one in course if one.score > threshold)
    calls: list[Alert] = []
    with watch(plain, [replace(monitors[0], threshold=threshold)], on_alert=calls.append) as watching:
        plain.generate(prompt, max_new_tokens=12, do_sample=False)
    assert calls == watching.alerts
    found = (calls[0].position, calls[0].token_id, calls[0].score, calls[0].threshold)
    assert found == (first.position, first.token_id, first.score, threshold)
    assert len(calls) == 1


def test_a_growing_text_has_a_threshold_of_its_own(plain: Any, model: LanguageModel, monitors: list[Monitor]) -> None:
    benign = [" ".join(TEXT.split()[first:last]) for first in range(6) for last in range(first + 2, 13)]
    scores = [text.scores[0] for text in score_texts(model, [monitors[2]], benign)]
    for score in scores:
        assert score.peak == max(score.running) >= score.score
    ends: list[int] = []
    others, found = follow_texts(model, [monitors[0], monitors[2]], benign, progress=lambda done, *_: ends.append(done))
    np.testing.assert_array_equal(found.scores, [score.score for score in scores])
    np.testing.assert_array_equal(found.peaks, [score.peak for score in scores])
    assert (others.scores != found.scores).all() and ends == [*range(1, len(benign) + 1)]
    made = calibrate_monitor(monitors[2], found, 0.1)
    assert made.live is not None and made.live.exceeding <= 0.1 * len(benign)
    assert made.live.threshold in [score.peak for score in scores]
    assert made.calibration is not None and made.threshold == made.calibration.threshold < made.live_threshold
    assert made.threshold in [score.score for score in scores]
    ids = torch.tensor([model.tokenize(TEXT)])
    with watch(plain, [replace(made, live=None)]) as first, watch(plain, [made]) as second, torch.no_grad():
        plain(ids)
    assert first.fired() and not second.fired()


def always(monitor: Monitor, course: list[Scored], at: int) -> Monitor:
    """The monitor with a threshold that its score passes first at one token."""
    scores = [one.score for one in course]
    assert scores[at] > max(scores[:at])
    return replace(monitor, threshold=(scores[at] + max(scores[:at])) / 2)


def rising(model: LanguageModel) -> Monitor:
    """A monitor whose score rises with each generated token: that of a token alone, by its own projection."""
    return monitor_of(model, DirectionDetector(torch.linspace(-1, 2, 32)), tokens="assistant", name="rising")


def test_generation_stops(plain: Any, model: LanguageModel) -> None:
    monitor, prompt = rising(model), torch.tensor([model.tokenize(TEXT)])
    with watch(plain, [monitor]) as watching:
        whole = plain.generate(prompt, max_new_tokens=20, do_sample=False)
        course = list(watching.scored)
    scores = [one.score for one in course]
    at = next(place for place in range(1, len(scores)) if scores[place] > max(scores[:place]))
    monitor = always(monitor, course, at)
    with watch(plain, [monitor]) as watching:
        criteria = watching.stopping_criteria
        short = plain.generate(prompt, max_new_tokens=20, do_sample=False, stopping_criteria=criteria)
        assert watching.fired()
    assert short.shape[1] == prompt.shape[1] + at + 2  # the token that fired, and the one chosen meanwhile
    assert torch.equal(short, whole[:, : short.shape[1]])
    with pytest.raises(MonitorFired, match="rising") as raised, watch(plain, [monitor], raises=True):
        plain.generate(prompt, max_new_tokens=20, do_sample=False)
    assert raised.value.alert.position == course[at].position
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())


def test_one_text_of_a_batch_stops_and_padding_is_not_scored(plain: Any, model: LanguageModel) -> None:
    monitor = rising(model)
    ids = torch.tensor([model.tokenize(TEXT)[:6], model.tokenize("Call me Ishmael, some years ago")[:6]])
    first, second = plain.generate(ids, max_new_tokens=8, do_sample=False)[:, 6:].tolist()
    ends = next(token for token in first[1:-1] if token not in second)  # one that ends the first text alone
    length = first.index(ends) + 1
    plain.generation_config.eos_token_id = ends
    plain.generation_config.pad_token_id = 7
    with watch(plain, [monitor]) as watching:
        plain.generate(ids, max_new_tokens=8, do_sample=False)
        rows = [[one.position for one in watching.scored if one.row == row] for row in (0, 1)]
    assert rows == [list(range(6, 6 + length)), list(range(6, 13))]


def test_what_cannot_be_watched_is_refused(plain: Any, model: LanguageModel, monitors: list[Monitor]) -> None:
    with pytest.raises(MonitorError, match="name of its own"), watch(plain, [monitors[0], monitors[0]]):
        pass
    with pytest.raises(MonitorError, match="at least one"), watch(plain, []):
        pass
    with (
        pytest.raises(ModelError, match="no layer 9"),
        watch(plain, [replace(monitors[0], hook=HookPoint("resid_post", 9))]),
    ):
        pass
    wide = monitor_of(model, ProbeDetector(np.ones(33)))
    with pytest.raises(MonitorError, match="33 dimensions"), watch(plain, [wide]):
        plain(torch.tensor([[1, 5, 6]]))
    with (
        pytest.raises(MonitorError, match="other weights"),
        watch(model, [replace(monitors[0], model_sha256="0" * 64)]),
    ):
        pass
    with pytest.raises(MonitorError, match="input_ids"), watch(plain, monitors):
        plain(inputs_embeds=torch.zeros(1, 3, 32))
    cache = model.new_cache()
    with pytest.raises(MonitorError, match="batch has changed"), watch(plain, monitors):
        plain(torch.tensor([[1, 5, 6]]), past_key_values=cache)
        plain(torch.tensor([[4], [5]]), past_key_values=cache)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())


def test_files_are_watched_on_a_loaded_model(model: LanguageModel, monitors: list[Monitor], tmp_path: Any) -> None:
    save_monitor(monitors[0], tmp_path / "m.json")
    with watch(model, [tmp_path / "m.json"]) as watching:
        model.logits(torch.tensor([model.tokenize(TEXT)]))
        score = watching.scores()["features"]
    assert score == pytest.approx(score_texts(model, monitors, [TEXT])[0].scores[0].score, rel=1e-5)


def test_any_family_is_watched(load_family: Callable[[str], LanguageModel]) -> None:
    for family in ("gpt2", "gemma2"):
        model = load_family(family)
        monitor = features_monitor(model)
        with watch(model, [monitor]) as watching:
            model.logits(torch.tensor([model.tokenize(TEXT)]))
        assert watching.scores()["features"] == pytest.approx(
            of_ids(model, monitor, model.tokenize(TEXT)).score, rel=1e-4
        )


# Our own generation


def test_watched_generation_is_the_same_and_scores_the_whole_text(
    model: LanguageModel, monitors: list[Monitor]
) -> None:
    prompt, sampling = model.tokenize(TEXT), Sampling(max_new_tokens=8)
    events = list(generate_watched(model, prompt, monitors, sampling))
    assert [event for event in events if isinstance(event, Step | End)] == list(generate(model, prompt, (), sampling))
    text = [*prompt, *(event.token_id for event in events if isinstance(event, Step))]
    for monitor in monitors:
        scored = [event for event in events if isinstance(event, Scored) and event.monitor == monitor.name]
        expected = of_ids(model, monitor, text)
        np.testing.assert_allclose([one.score for one in scored], expected.running, rtol=1e-4, atol=1e-5)
        assert scored[-1].position == len(text) - 1


def test_an_edit_begins_after_the_token_that_fires(model: LanguageModel) -> None:
    monitor, prompt, sampling = rising(model), model.tokenize(TEXT), Sampling(max_new_tokens=10)
    events = list(generate_watched(model, prompt, [monitor], sampling))
    course = [event for event in events if isinstance(event, Scored)]
    written = [event.token_id for event in events if isinstance(event, Step)]
    scores = [one.score for one in course]
    at = next(place for place in range(1, 8) if scores[place] > max(scores[:place]))
    monitor = always(monitor, course, at)
    edit = Site(LATER, [Intervention("add", 60.0, direction=torch.linspace(1, -1, 32))])
    edited = list(generate_watched(model, prompt, [monitor], sampling, when_fired=[edit]))
    tokens = [event.token_id for event in edited if isinstance(event, Step)]
    assert tokens[: at + 2] == written[: at + 2] != tokens
    cache, ids = model.new_cache(), [*prompt, *tokens[: at + 1]]
    model.extend(torch.tensor([ids]), cache)
    for place in range(at + 1, 9):  # from the next token on, the edit is there
        with intervene(model, [edit]):
            logits = model.extend(torch.tensor([[tokens[place]]]), cache)[0, -1]
        assert int(logits.argmax()) == tokens[place + 1]
    alert = next(number for number, event in enumerate(edited) if isinstance(event, Alert))
    assert sum(isinstance(event, Step) for event in edited[:alert]) == at + 1
    stopped = list(generate_watched(model, prompt, [monitor], sampling, stop=True))
    assert [event.token_id for event in stopped if isinstance(event, Step)] == written[: at + 1]
    assert stopped[-1] == End("default", "stop")


def test_a_monitor_sees_the_feature_that_an_edit_ablates(model: LanguageModel) -> None:
    monitor = features_monitor(model)
    sae = random_sae("jumprelu")
    ablate = Site(HOOK, [Intervention("ablate", feature=feature) for feature in monitor.detector.features], sae)
    prompt = model.tokenize(TEXT)
    plain, edited = (
        list(generate_watched(model, prompt, [monitor], Sampling(max_new_tokens=1), sites=sites))
        for sites in ([], [ablate])
    )
    first, second = (
        [one.score for one in events if isinstance(one, Scored)][: len(prompt) - 1] for events in (plain, edited)
    )
    assert first == second
    assert max(first) > 0.2


def test_parts_of_a_chat_are_told_apart(model: LanguageModel) -> None:
    prompt = model.tokenize(TEXT)
    parts = [Part.TEMPLATE] * 4 + [Part.SYSTEM] * 3 + [Part.USER] * (len(prompt) - 7)
    watched = [replace(rising(model), name=tokens, tokens=tokens) for tokens in ("all", "user", "assistant", "last")]
    events = list(generate_watched(model, prompt, watched, Sampling(max_new_tokens=2), parts=parts))
    scored = {
        name: [one.position for one in events if isinstance(one, Scored) and one.monitor == name]
        for name in ("all", "user", "assistant", "last")
    }
    end = len(prompt)
    assert scored["user"] == list(range(7, end))
    assert scored["all"] == list(range(4, end + 2))
    assert scored["assistant"] == [end, end + 1]
    assert scored["last"] == list(range(1, end + 2))


# Whole texts


@pytest.mark.parametrize("pool", ["max", "mean", "top", "ema"])
def test_a_reading_scores_as_the_model_does(model: LanguageModel, monitors: list[Monitor], pool: Any) -> None:
    sae = random_sae("jumprelu")
    reading = read_texts(model, sae, [*TEXTS, ""], hook=HOOK)
    feature = replace(monitors[0], pool=pool)
    others = [replace(monitors[1], pool="mean"), replace(monitors[2], pool=pool), monitors[3]]
    watched = [feature, *(monitor for monitor in others if monitor.pool in ("max", "mean"))]
    found = score_texts(model, watched, [*TEXTS, ""])
    for number, monitor in enumerate(watched):
        expected = [text.scores[number].score for text in found]
        np.testing.assert_allclose(score_reading(monitor, reading), expected, rtol=1e-4, atol=1e-5)
    assert found[0].scores[0].alert == (found[0].scores[0].score > 0.5)
    for monitor in (
        replace(monitors[1], pool="max"),
        replace(monitors[2], pool="ema"),
        replace(monitors[2], tokens="user", pool="top"),
    ):
        with pytest.raises(MonitorError, match="score the texts with the model"):
            score_reading(monitor, reading)
