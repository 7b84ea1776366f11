"""Benchmark of generation: ours with and without an intervention, beside `transformers`' own greedy loop.

All three write the same number of tokens after the same prompt with a key-value cache, in turn. The interventions are
on features of an SAE of random weights, whose speed is that of a trained one.

What a monitor of `WATCHED` features costs is a few percent, less than the machine's speed changes within seconds. So
two texts, one of them watched, are written in turns, token by token, and neighbouring tokens are compared.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from app.bench.bench_inputs import HOOK, BenchInputs, Notify, load, spread
from app.settings import Settings
from sae_core.interventions import Intervention, Sampling, Site, Step, generate
from sae_core.models import LanguageModel
from sae_core.monitoring import FeatureDetector, Monitor, generate_watched
from sae_core.saes import SAE, TopK
from sae_core.saes.topk import TopKConfig

WARM = 8
"""Tokens that each side writes before the measurement."""
WATCHED = 10
"""Features of the monitor."""
PAUSE = 0.1
"""Seconds before each measurement: torch's threads go on spinning for a moment when a pass has ended."""


def run(settings: Settings, width: int, prompt: int, tokens: int, rounds: int, notify: Notify) -> dict[str, Any]:
    """Generate with the demo's model and time it.

    Raises:
        SAEError: prompt and tokens do not fit in the model's context.
    """
    inputs = load(settings, 4096, notify)
    text, model = _prompt(inputs, prompt), inputs.model
    notify(f"Writing {tokens} tokens after {prompt}, three ways in turn, then watched and not in turns")
    sae = _sae(model, width)
    measured = rates(model, text, [_site(sae)], tokens, rounds)
    return {"tokens": tokens, **measured, **watched_rates(model, text, _monitor(sae), tokens, rounds)}


def rates(
    model: LanguageModel, prompt: Sequence[int], sites: Sequence[Site], tokens: int, rounds: int
) -> dict[str, Any]:
    """Return the tokens per second of our generation, default and changed, and of `transformers`' own."""
    ways: dict[str, Callable[[int], int]] = {
        "default_tokens_per_s": lambda count: _ours(model, prompt, [], count),
        "changed_tokens_per_s": lambda count: _ours(model, prompt, sites, count),
        "floor_tokens_per_s": lambda count: _theirs(model, prompt, count),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(WARM)
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            time.sleep(PAUSE)
            began = time.perf_counter()
            written = ways[name](tokens)
            measured[name].append(written / (time.perf_counter() - began))
    result = {name: spread(values) for name, values in measured.items()}
    default, changed, floor = (result[name]["median"] for name in ways)
    return {
        **{name: round(values["median"], 2) for name, values in result.items()},
        "default_share": round(default / floor, 3),
        "changed_share": round(changed / default, 3),
        "spread": result,
    }


def watched_rates(
    model: LanguageModel, prompt: Sequence[int], monitor: Monitor, tokens: int, rounds: int
) -> dict[str, Any]:
    """Return the speed of our generation with a monitor as a share of that without, from pairs of neighbouring tokens.

    The share is the median over pairs, with its bootstrap interval, 95 %.
    """
    rounds_of_pairs: list[list[tuple[float, float]]] = []
    for number in range(rounds + 1):
        sampling = Sampling(max_new_tokens=tokens)
        sides = [
            _seconds(generate(model, prompt, (), sampling)),
            _seconds(generate_watched(model, prompt, [monitor], sampling)),
        ]
        order = (0, 1) if number % 2 else (1, 0)
        pairs: list[tuple[float, float]] = []
        for _ in range(tokens):
            taken = {side: next(sides[side], None) for side in order}
            if taken[0] is None or taken[1] is None:  # the texts have ended
                break
            pairs.append((taken[0], taken[1]))
        rounds_of_pairs.append(pairs)
    default, watched = np.concatenate(rounds_of_pairs[1:]).T  # the first round warms up
    shares = default / watched
    found = stats.bootstrap((shares,), np.median, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return {
        "watched_tokens_per_s": round(1 / float(np.median(watched)), 2),
        "watched_share": round(float(np.median(shares)), 4),
        "watched_share_low": round(float(found.low), 4),
        "watched_share_high": round(float(found.high), 4),
        "watched_pairs": len(shares),
    }


def _seconds(events: Iterator[Any]) -> Iterator[float]:
    """Yield how long each token takes."""
    began = time.perf_counter()
    for event in events:
        if isinstance(event, Step):
            yield time.perf_counter() - began
            began = time.perf_counter()


def _monitor(sae: SAE) -> Monitor:
    detector = FeatureDetector.of(sae, range(WATCHED), boundary=0.5)
    return Monitor("bench", HOOK, detector, tokens="all", pool="max", threshold=1e9)


def _ours(model: LanguageModel, prompt: Sequence[int], sites: Sequence[Site], tokens: int) -> int:
    """Write a text; return how many tokens it has."""
    steps = generate(model, prompt, sites, Sampling(max_new_tokens=tokens))
    return sum(isinstance(step, Step) for step in steps)


def _theirs(model: LanguageModel, prompt: Sequence[int], tokens: int) -> int:
    ids = torch.tensor([list(prompt)], device=model.device)
    text = model.hf_model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return int(text.shape[1]) - len(prompt)


def _site(sae: SAE) -> Site:
    changes = [
        Intervention("clamp", 1.0, feature=0),
        Intervention("add", 1.0, feature=1),
        Intervention("ablate", feature=2, positions="generated"),
    ]
    return Site(HOOK, changes, sae)


def _sae(model: LanguageModel, width: int) -> SAE:
    """Return a TopK, of which all features have to be encoded: the slowest architecture."""
    sae = TopK(TopKConfig(d_in=model.d_in(HOOK), d_sae=width))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.03 * torch.randn(parameter.shape, generator=generator))
    return sae.for_inference().to(model.device)


def _prompt(inputs: BenchInputs, tokens: int) -> list[int]:
    """Return the first tokens of the corpus."""
    ids: list[int] = inputs.sequences.token_ids.reshape(-1)[:tokens].tolist()
    return ids
