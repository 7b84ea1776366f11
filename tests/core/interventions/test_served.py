"""Interventions on interp-engine's vLLM back end, with a stand-in for vLLM: they do what they do on the eager path."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sae_core.errors import BackendError, ModelError
from sae_core.interventions import Intervention, Sampling, Shift, Site, Step, Sweep, generate_side_by_side
from sae_core.interventions.generation import Generation, read
from sae_core.interventions.served import require_possible
from sae_core.interventions.vllm_worker import SteeringWorker
from sae_core.models import HookPoint, LanguageModel, ServedModel
from tests.core.interventions.conftest import HOOK, TEXT, random_sae, strongest
from tests.vllm_stand_in import AsyncLLM, load_served

WALK = torch.linspace(-1, 1, 32)


@pytest.fixture
def served(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedModel]:
    found = load_served(monkeypatch, model.source)
    assert isinstance(found, ServedModel)
    yield found
    found.close()


def sites_of(model: LanguageModel, case: str) -> list[Site]:
    """Every kind of change, beside each other and alone."""
    sae = random_sae("topk" if case == "topk" else "jumprelu" if case == "jumprelu" else "standard")
    feature = strongest(model, sae)
    change: dict[str, list[Intervention]] = {
        "clamp": [Intervention("clamp", 6.0, feature=feature)],
        "ablate": [Intervention("ablate", feature=feature, positions="prompt")],
        "scale": [Intervention("scale", -3.0, feature=feature, positions="generated")],
        "add": [Intervention("add", 4.0, feature=feature, positions=(3, 16))],
        "control": [Intervention("clamp", 6.0, feature=feature, along=WALK)],
        "direction": [Intervention("ablate", direction=WALK), Intervention("add", 2.0, direction=WALK.flip(0))],
        "special": [Intervention("add", 3.0, direction=WALK, special_tokens=True)],
        "topk": [Intervention("clamp", 6.0, feature=feature)],
        "jumprelu": [Intervention("scale", 4.0, feature=feature)],
        "positions": [
            Intervention("clamp", 6.0, feature=feature, positions=frozenset({2, 15})),
            Intervention("add", -2.0, direction=WALK, positions="generated"),
        ],
    }
    site = Site(HOOK, change[case], sae)
    later = Site(HookPoint("mlp_out", 2), [Intervention("scale", 0.5, direction=WALK)])
    last = Site(HookPoint("resid_post", 3), [Intervention("add", 1.5, direction=WALK, positions="generated")])
    same = Site(HOOK, [Intervention("scale", 2.0, direction=WALK.flip(0))])
    return [site, later, last, same] if case == "positions" else [site]


CASES = ("clamp", "ablate", "scale", "add", "control", "direction", "special", "topk", "jumprelu", "positions")


@pytest.mark.parametrize("case", CASES)
def test_both_sides_are_those_of_the_eager_path(case: str, model: LanguageModel, served: ServedModel) -> None:
    prompt, sites = model.tokenize(TEXT), sites_of(model, case)
    sampling = Sampling(max_new_tokens=12, temperature=0.8, seed=3)
    ours = list(generate_side_by_side(served, prompt, sites, sampling))
    theirs = list(generate_side_by_side(model, prompt, sites, sampling))
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, Step) and isinstance(other, Step):
            assert (mine.side, mine.token_id) == (other.side, other.token_id)
            assert mine.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        elif isinstance(mine, Shift) and isinstance(other, Shift):
            assert mine.position == other.position
            assert mine.kl == pytest.approx(other.kl, abs=1e-4, rel=1e-3)
    assert max(event.kl for event in ours if isinstance(event, Shift)) > 1e-3


def test_a_sweep_is_that_of_the_eager_path(model: LanguageModel, served: ServedModel) -> None:
    def measured(swept: LanguageModel) -> list[Any]:
        sweep = Sweep(swept, model.tokenize(TEXT), Sampling(max_new_tokens=8), promoted=[5])
        return [_returned(sweep.baseline()), *(_returned(sweep.point(sites_of(model, case))) for case in CASES[:3])]

    for mine, other in zip(measured(served), measured(model), strict=True):
        assert mine.token_ids == other.token_ids
        assert (mine.loss, mine.repetition) == pytest.approx((other.loss, other.repetition), abs=1e-4)


def _returned(generator: Any) -> Any:
    try:
        while True:
            next(generator)
    except StopIteration as end:
        return end.value


def test_a_change_that_begins_later_leaves_what_was_read_before(model: LanguageModel, served: ServedModel) -> None:
    """With a key-value cache, earlier tokens keep what they were when they were read; whole passes must do the same."""
    found = []
    for one in (served, model):
        text = Generation(one, model.tokenize(TEXT), Sampling(max_new_tokens=12))
        for number in range(8):
            if number == 4:
                text.sites = sites_of(model, "clamp")
            log_p, _ = text.step()
        found.append(log_p[-1])
        assert not torch.allclose(log_p[-1], _after(one, text.prompt, text.token_ids[:7], sites_of(model, "clamp")))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def _after(model: LanguageModel, prompt: Any, new: list[int], sites: list[Site]) -> torch.Tensor:
    return read(model, model.new_cache(), [*prompt, *new], sites, len(prompt))[-1]


def texts_in_turns(model: LanguageModel, number: int) -> list[list[int]]:
    """Write texts, each with a change of its own, a token of each in turn."""
    sae = random_sae("standard")
    texts = []
    for feature in range(number):
        site = Site(HOOK, [Intervention("clamp", 8.0, feature=feature)], sae)
        texts.append(Generation(model, model.tokenize(TEXT), Sampling(max_new_tokens=4, seed=feature), [site]))
    for _ in range(4):
        for text in texts:
            text.step()
    return [text.token_ids for text in texts]


def test_texts_take_turns_however_many(
    model: LanguageModel, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    hold = SteeringWorker.hold_changes
    monkeypatch.setattr(SteeringWorker, "hold_changes", lambda self, *args: (told.append(args[0]), hold(self, *args)))
    state = AsyncLLM.running[-1].worker._seesae()
    assert texts_in_turns(served, 16) == texts_in_turns(model, 16)
    assert len(told) == len(set(told)) == 16  # once each
    assert texts_in_turns(served, 18) == texts_in_turns(model, 18)
    assert len(set(told)) == 16 + 18  # those that were dropped are told again under their names
    assert len(state.held) == 16


def test_nothing_stays_in_the_workers_when_a_text_has_been_read(model: LanguageModel, served: ServedModel) -> None:
    ids = torch.tensor([model.tokenize(TEXT)])
    before = served.activations(ids, HOOK)
    read(served, served.new_cache(), ids[0].tolist(), sites_of(model, "positions"), 5)
    demux = AsyncLLM.running[-1].worker._np_demux
    assert not (demux.hooks or demux.steer_mods or demux.cap_points or demux.registered)
    torch.testing.assert_close(served.activations(ids, HOOK), before, atol=0, rtol=0)


def test_a_text_that_vllm_cuts_into_pieces_is_not_taken_for_changed(
    model: LanguageModel, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = AsyncLLM.running[-1].worker.model_runner
    original = type(runner).prepare_inputs
    monkeypatch.setattr(
        type(runner), "prepare_inputs", lambda self, request: original(self, (request[0], request[1] - 1))
    )
    with pytest.raises(ModelError, match=r"vLLM ran \d+ tokens at once"):
        read(served, served.new_cache(), model.tokenize(TEXT), sites_of(model, "clamp"), 5)


def test_what_it_cannot_do_is_refused(model: LanguageModel, served: ServedModel) -> None:
    sae = random_sae(skip=False)
    there = HookPoint("mlp_in", 1)
    encoded = Site(there, [Intervention("clamp", 2.0, feature=1)], sae, HookPoint("mlp_out", 1))
    added = Site(there, [Intervention("add", 2.0, feature=1)], sae, HookPoint("mlp_out", 1))
    middle = Site(HookPoint("resid_mid", 1), [Intervention("add", 2.0, direction=WALK)])
    nowhere = Site(HookPoint("resid_post", 4), [Intervention("add", 2.0, direction=WALK)])
    for site, message in (
        (encoded, "add to them instead"),
        (middle, "cannot change activations at resid_mid.1"),
        (nowhere, "vLLM has no resid_post.4 of llama: layer 4 is out of range"),
    ):
        with pytest.raises(BackendError, match=message):
            require_possible(served, [site])
        require_possible(model, [site])
        with pytest.raises(BackendError, match=message):
            read(served, served.new_cache(), [1, 2, 3], [site], 3)
    assert not served.failed
    ids = model.tokenize(TEXT)
    ours, theirs = (read(one, one.new_cache(), ids, [added], 5) for one in (served, model))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
