"""Generation with and without interventions."""

import pytest
import torch

from sae_core.errors import InterventionError
from sae_core.interventions import (
    End,
    Event,
    Intervention,
    Sampling,
    Shift,
    Site,
    Step,
    generate,
    generate_side_by_side,
    intervene,
)
from sae_core.models import LanguageModel
from tests.core.interventions.conftest import HOOK, TEXT, random_sae, strongest


def prompt_of(model: LanguageModel) -> list[int]:
    return model.tokenize(TEXT)


def site_of(model: LanguageModel, positions: object = "all", value: float = 6.0) -> Site:
    sae = random_sae()
    change = Intervention("clamp", value, feature=strongest(model, sae), positions=positions)  # type: ignore[arg-type]
    return Site(HOOK, [change], sae)


def text_of(events: list[Event], side: str) -> list[int]:
    return [event.token_id for event in events if isinstance(event, Step) and event.side == side]


def test_greedy_equals_transformers_own_loop(any_model: LanguageModel) -> None:
    prompt = prompt_of(any_model)
    ours = text_of(list(generate(any_model, prompt, sampling=Sampling(max_new_tokens=20))), "default")
    theirs = any_model.hf_model.generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20, do_sample=False
    )[0, len(prompt) :]
    assert ours == theirs.tolist()


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", (3, 16), frozenset({2, 15})])
def test_a_cache_gives_what_whole_passes_give(any_model: LanguageModel, positions: object) -> None:
    prompt, site = prompt_of(any_model), site_of(any_model, positions)
    steps = [
        event for event in generate(any_model, prompt, [site], Sampling(max_new_tokens=6)) if isinstance(event, Step)
    ]
    text = list(prompt)
    for step in steps:
        with intervene(any_model, [site], prompt_length=len(prompt)):
            log_p = any_model.logits(torch.tensor([text]))[0, -1].log_softmax(-1)
        assert step.token_id == int(log_p.argmax())
        assert step.log_probability == pytest.approx(float(log_p.max()), abs=1e-4)
        text.append(step.token_id)


def test_default_changed_default_leaves_no_trace(model: LanguageModel) -> None:
    prompt, sampling = prompt_of(model), Sampling(max_new_tokens=12, temperature=1.3, seed=5)

    def default() -> list[Step | End]:
        return list(generate(model, prompt, sampling=sampling))

    torch.manual_seed(1)
    before, state = default(), torch.get_rng_state()
    changed = list(generate(model, prompt, [site_of(model, value=60.0)], sampling))
    both = list(generate_side_by_side(model, prompt, [site_of(model, value=60.0)], sampling))
    assert default() == before
    assert torch.equal(torch.get_rng_state(), state)
    steps = [event for event in both if isinstance(event, Step)]
    assert [step for step in steps if step.side == "default"] == before[:-1]
    assert [step for step in steps if step.side == "changed"] == changed[:-1]
    assert text_of(both, "default") != text_of(both, "changed")


def test_interleaved_generations_do_not_disturb_each_other(model: LanguageModel) -> None:
    prompt, sampling = prompt_of(model), Sampling(max_new_tokens=9)
    sites = [site_of(model), site_of(model, value=-4.0)]
    alone = [list(generate_side_by_side(model, prompt, [site], sampling)) for site in sites]
    running = [generate_side_by_side(model, prompt, [site], sampling) for site in sites]
    mixed: list[list[Event]] = [[], []]
    while len(mixed[0]) < len(alone[0]) or len(mixed[1]) < len(alone[1]):
        for events, generation in zip(mixed, running, strict=True):
            events.extend(event for event in [next(generation, None)] if event is not None)
    assert mixed == alone


def test_shifts_compare_both_models_on_the_changed_text(model: LanguageModel) -> None:
    prompt, site = prompt_of(model), site_of(model)
    events = list(generate_side_by_side(model, prompt, [site], Sampling(max_new_tokens=19, top=3)))
    text = torch.tensor([[*prompt, *text_of(events, "changed")]])
    with intervene(model, [site]):
        q = model.logits(text)[0].softmax(-1)
    p = model.logits(text)[0].softmax(-1)
    shifts = [event for event in events if isinstance(event, Shift)]
    assert [shift.position for shift in shifts] == list(range(text.shape[1] - 1))
    expected = (q * (q / p).log()).sum(-1)
    for shift in shifts:
        at = shift.position
        assert shift.kl == pytest.approx(float(expected[at]), abs=1e-4)
        token, before, after = shift.raised[0]
        assert token == int((q[at] - p[at]).argmax()) or at == 0
        assert (before, after) == pytest.approx((float(p[at, token]), float(q[at, token])), abs=1e-5)
        assert [row[2] - row[1] for row in shift.lowered] == sorted(row[2] - row[1] for row in shift.lowered)
    assert shifts[0].kl == 0  # BOS is left alone
    assert max(shift.kl for shift in shifts) > 0.01


def test_the_same_noise_gives_the_same_text_where_nothing_changes(model: LanguageModel) -> None:
    site = site_of(model)
    nothing = Site(HOOK, [Intervention("scale", 1.0, feature=site.interventions[0].feature)], site.sae)
    for seed in range(3):
        sampling = Sampling(max_new_tokens=15, temperature=1.0, seed=seed)
        events = list(generate_side_by_side(model, prompt_of(model), [nothing], sampling))
        assert text_of(events, "default") == text_of(events, "changed")


def test_samples_follow_the_distribution(model: LanguageModel) -> None:
    prompt, temperature = prompt_of(model), 0.7
    p = (model.logits(torch.tensor([prompt]))[0, -1] / temperature).softmax(-1)
    counts = torch.zeros(len(p))
    for seed in range(400):
        [step, _] = generate(model, prompt, sampling=Sampling(1, temperature, seed))
        assert isinstance(step, Step)
        counts[step.token_id] += 1
    likeliest = p.topk(3).indices
    spread = 4 * (p[likeliest] * (1 - p[likeliest]) / 400).sqrt()
    assert ((counts[likeliest] / 400 - p[likeliest]).abs() < spread).all()


def test_top_p_draws_from_the_fewest_likeliest_tokens(model: LanguageModel) -> None:
    prompt, temperature = prompt_of(model), 1.5
    ordered = (model.logits(torch.tensor([prompt]))[0, -1] / temperature).softmax(-1).sort(descending=True)
    sums = ordered.values.cumsum(0)
    top_p = float(sums[3] + sums[4]) / 2  # five tokens reach it, four do not

    def draw(top_p: float, seed: int) -> int:
        [token_id] = text_of(list(generate(model, prompt, (), Sampling(1, temperature, seed, top_p=top_p))), "default")
        return token_id

    assert {draw(top_p, seed) for seed in range(200)} == set(ordered.indices[:5].tolist())
    assert {draw(0, seed) for seed in range(5)} == {int(ordered.indices[0])}


def test_the_last_position_alone_gives_the_same_distribution(any_model: LanguageModel) -> None:
    token_ids = torch.tensor([prompt_of(any_model)])
    cache = any_model.new_cache()
    last = any_model.extend(token_ids, cache, last_only=True)
    torch.testing.assert_close(last[0], any_model.logits(token_ids)[0, -1:], atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == token_ids.shape[1]


def test_a_text_ends_at_the_tokens_that_the_models_own_generation_ends_with(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = text_of(list(generate(model, prompt_of(model))), "default")
    assert model.end_token_ids == {model.eos_token_id}
    monkeypatch.setattr(model.hf_model.generation_config, "eos_token_id", [model.eos_token_id, second])
    again = LanguageModel(
        hf_model=model.hf_model, tokenizer=model.tokenizer, name="again", source="again", weights_sha256="0" * 64
    )
    events = list(generate(again, prompt_of(model)))
    assert (text_of(events, "default"), events[-1]) == ([first, second], End("default", "end of text"))


def test_a_text_ends_at_eos_a_stop_or_its_length(model: LanguageModel) -> None:
    prompt = prompt_of(model)
    full = text_of(list(generate(model, prompt, sampling=Sampling(max_new_tokens=8))), "default")
    third = model.decode(full[:3])
    *steps, end = generate(model, prompt, sampling=Sampling(max_new_tokens=8, stop=(third[-2:],)))
    assert end == End("default", "stop")
    assert third[-2:] in model.decode([step.token_id for step in steps if isinstance(step, Step)])
    assert list(generate(model, prompt, sampling=Sampling(max_new_tokens=8)))[-1] == End("default", "length")
    sae = random_sae()
    towards_eos = Intervention("add", 400.0, direction=model.hf_model.get_output_embeddings().weight[2].detach())
    *_, end = generate(model, prompt, [Site(HOOK, [towards_eos], sae)], Sampling(max_new_tokens=60))
    assert end.reason in ("end of text", "length")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"max_new_tokens": 0}, "at least one"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_sampling_refuses_what_makes_no_sense(sampling: dict[str, float], message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        Sampling(**sampling)  # type: ignore[arg-type]


def test_what_the_context_cannot_hold_is_refused_at_once(model: LanguageModel) -> None:
    with pytest.raises(InterventionError, match="at most 256 tokens"):
        next(generate(model, prompt_of(model), sampling=Sampling(max_new_tokens=10**6)))
    with pytest.raises(InterventionError, match="empty"):
        next(generate_side_by_side(model, [], [site_of(model)], Sampling()))
