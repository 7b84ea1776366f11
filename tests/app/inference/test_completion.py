"""An answer that monitors watch and edits change, token by token."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from app.errors import Unprocessable
from app.inference.completion import complete
from app.inference.engine import ProbeEngine
from app.inference.residency import Residency
from app.services.inference_messages import (
    CompletionEnd,
    CompletionEvent,
    CompletionRequest,
    CompletionStart,
    CompletionToken,
    LiveMonitor,
)
from sae_core.interventions import Edit, Intervention, Sampling, Site, Step, generate
from sae_core.monitoring import DirectionDetector, FeatureDetector, Monitor, monitor_to_json, score_texts
from tests.app.inference.dictionaries import HOOK, Dictionary

TEXT = "It was the best of times, it was the"
TOKENS = 12


@pytest.fixture(scope="module")
def engine(dictionary: Dictionary) -> ProbeEngine:
    return ProbeEngine(Residency(dictionary.settings), dictionary.settings.probe_max_tokens)


def monitor(dictionary: Dictionary, threshold: float = 0.0, **options: Any) -> Monitor:
    """Watches a direction; `options` replace fields."""
    model = dictionary.model
    made = Monitor(
        "words",
        HOOK,
        DirectionDetector(torch.linspace(-1, 1, model.d_model)),
        tokens="all",
        pool="max",
        threshold=threshold,
        model_name=model.name,
        model_sha256=model.weights_sha256,
        special_token_ids=model.special_token_ids,
    )
    return replace(made, **options)


def request(dictionary: Dictionary, monitors: Sequence[Monitor], **options: Any) -> CompletionRequest:
    live = [LiveMonitor(name=one.name, file=monitor_to_json(one)) for one in monitors]
    asked = {"text": TEXT, "max_new_tokens": TOKENS, "temperature": 0, "top_p": 1, "seed": 0, "stop": [], "top": 0}
    return CompletionRequest(saes=[dictionary.ref], monitors=live, **asked | options)


def run(engine: ProbeEngine, asked: CompletionRequest, **edits: Any) -> list[CompletionEvent]:
    return [event for event in complete(engine, asked, **edits) if event is not None]


def generated(dictionary: Dictionary, sites: Sequence[Site] = ()) -> list[int]:
    steps = generate(dictionary.model, dictionary.model.tokenize(TEXT), sites, Sampling(max_new_tokens=TOKENS))
    return [step.token_id for step in steps if isinstance(step, Step)]


def running(dictionary: Dictionary, watching: Monitor, text: str) -> dict[int, float]:
    """The score of the text so far, after each position that the monitor watches."""
    [read] = score_texts(dictionary.model, [watching], [text])
    return dict(zip(read.scores[0].positions.tolist(), read.scores[0].running.tolist(), strict=True))


def test_scores_are_those_of_the_whole_text_and_an_alert_says_where(
    engine: ProbeEngine, dictionary: Dictionary
) -> None:
    sae, prompt = dictionary.sae, dictionary.model.tokenize(TEXT)
    ids = generated(dictionary)
    features = FeatureDetector.of(sae, [3, 5, 8], np.array([1.0, 0.5, -0.25]), boundary=0.5)
    watching = [monitor(dictionary), monitor(dictionary, name="features", detector=features, pool="ema", threshold=1e6)]
    start, *tokens, end = run(engine, request(dictionary, watching))
    assert isinstance(start, CompletionStart)
    assert isinstance(end, CompletionEnd)
    assert (end.reason, end.tokens, start.prompt_tokens) == ("length", TOKENS, len(prompt))
    assert [token.id for token in tokens if isinstance(token, CompletionToken)] == ids
    for one in watching:
        scores = running(dictionary, one, TEXT + dictionary.model.decode(ids))
        for count, event in enumerate([start, *tokens]):
            assert isinstance(event, CompletionStart | CompletionToken)
            assert event.watched is not None
            assert event.watched.scores[one.name] == pytest.approx(scores[len(prompt) + count - 1], abs=1e-4)
    scores = running(dictionary, watching[0], TEXT + dictionary.model.decode(ids))
    first = next((place for place, score in scores.items() if score > 0), None)
    alerts = [alert for event in [start, *tokens] for alert in event.watched.alerts]  # type: ignore[union-attr]
    assert [(alert.monitor, alert.position) for alert in alerts] == [("words", first)]
    assert alerts[0].token_id == [*prompt, *ids][alerts[0].position]


def crossing(dictionary: Dictionary, ids: list[int]) -> tuple[Monitor, int]:
    """A monitor of the answer alone that fires in its middle, and the place of that token."""
    model, place = dictionary.model, 3
    x = model.activations(torch.tensor([[*model.tokenize(TEXT), *ids]]), HOOK)[0, -len(ids) :]
    direction = x[place] - x[:place].mean(dim=0)
    values = (x @ direction).tolist()
    threshold = (values[place] + max(values[:place])) / 2
    assert values[place] > threshold
    return monitor(dictionary, threshold, detector=DirectionDetector(direction), tokens="assistant"), place


def test_an_alert_ends_the_answer_before_the_token_that_it_is_about(
    engine: ProbeEngine, dictionary: Dictionary
) -> None:
    ids, prompt = generated(dictionary), len(dictionary.model.tokenize(TEXT))
    watching, place = crossing(dictionary, ids)
    _, *tokens, end = run(engine, request(dictionary, [watching], on_alert="stop"))
    assert isinstance(end, CompletionEnd)
    assert (end.reason, end.tokens) == ("monitor", place + 1)
    assert [token.id for token in tokens if isinstance(token, CompletionToken)] == ids[:place]
    assert end.watched is not None
    [alert] = end.watched.alerts
    assert (alert.position, alert.token_id, alert.generated) == (prompt + place, ids[place], True)
    assert alert.score > alert.threshold == watching.threshold
    start, end = run(engine, request(dictionary, [monitor(dictionary, -1e6)], on_alert="stop"))
    assert isinstance(start, CompletionStart)
    assert start.watched is not None
    assert [alert.generated for alert in start.watched.alerts] == [False]
    assert isinstance(end, CompletionEnd)
    assert (end.reason, end.tokens) == ("monitor", 0)


def test_an_alert_applies_an_edit_from_the_next_token_on(engine: ProbeEngine, dictionary: Dictionary) -> None:
    ids, prompt = generated(dictionary), len(dictionary.model.tokenize(TEXT))
    edit = Edit.of("louder", dictionary.model, [Site(HOOK, [Intervention("add", 60.0, feature=3)], dictionary.sae)])
    from_the_start = run(engine, request(dictionary, []), edits=[edit])
    changed = generated(dictionary, edit.sites)
    assert [token.id for token in from_the_start if isinstance(token, CompletionToken)] == changed
    watching, place = crossing(dictionary, ids)
    asked = request(dictionary, [watching], on_alert="edit", alert_edit="louder")
    tokens = [event for event in run(engine, asked, alert_edit=edit) if isinstance(event, CompletionToken)]
    assert [n for n, token in enumerate(tokens) if token.watched and token.watched.alerts] == [place]
    written = [token.id for token in tokens]
    assert written[: place + 2] == ids[: place + 2]  # the pass that fires has chosen the next token already
    assert written[place + 2 :] != ids[place + 2 :]
    later = Intervention("add", 60.0, feature=3, positions=(prompt + place + 1, 10_000))
    assert written == generated(dictionary, [Site(HOOK, [later], dictionary.sae)])


def test_a_stop_hides_nothing_from_the_monitors(engine: ProbeEngine, dictionary: Dictionary) -> None:
    plain = run(engine, request(dictionary, []))
    text = "".join(event.text for event in plain if isinstance(event, CompletionToken | CompletionEnd))
    stop = text[8:11]
    for watching in ([], [monitor(dictionary, 1e6)]):
        events = run(engine, request(dictionary, watching, stop=[stop]))
        written = "".join(event.text for event in events if isinstance(event, CompletionToken | CompletionEnd))
        assert written == text[: text.index(stop)]
        assert events[-1].tokens == run(engine, request(dictionary, [], stop=[stop]))[-1].tokens  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"model_sha256": "f" * 64}, "other weights"), ({"prepend_bos": False}, "without BOS")],
)
def test_a_monitor_of_another_model_or_start_is_refused(
    engine: ProbeEngine, dictionary: Dictionary, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unprocessable, match=words):
        run(engine, request(dictionary, [monitor(dictionary, **changed)]))
    damaged = request(dictionary, [monitor(dictionary)])
    damaged.monitors[0].file["detector"] = {}
    with pytest.raises(Unprocessable, match="damaged"):
        run(engine, damaged)
