"""Training steps on an NVIDIA GPU: this library's captured step, its plain torch step, and SAELens, on the same data.

    make bench-gpu                # prints JSON

Activations lie in the GPU's memory, in float32; products are taken in bfloat16, weights and moments are float32. No
feature is dead, so AuxK has nothing to do. SAELens is measured where it is installed (its own environment: it needs
numpy < 2): TopK by `SAETrainer.step` with autocast. A peer that does not fit into memory is `null`, and says so.

The ceiling is that of exact sparse training, 2·d·n + 10·k·d operations per sample at the card's dense bfloat16 rate.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.kernels import gpu
from sae_core.training.config import TrainingConfig
from sae_core.training.state import TrainingState
from sae_core.training.step import take_step

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second in NVIDIA's data sheets of the SXM cards."""
BATCHES = 4
"""Batches in memory, which the steps take in turn."""


@dataclass(frozen=True)
class Case:
    """One training problem."""

    d_in: int
    d_sae: int
    k: int
    batch: int


CASES = {"small": Case(768, 16_384, 32, 32_768), "wide": Case(4096, 131_072, 64, 16_384)}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Training steps on an NVIDIA GPU.")
    arguments.add_argument("--case", choices=CASES, action="append", help="what to measure; all, if not given")
    arguments.add_argument("--seconds", type=float, default=5.0, help="for each step that is timed")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench-gpu needs an NVIDIA GPU, and PyTorch sees none here. Nothing was measured.")
    if not gpu.HAS_TRITON:
        sys.exit("bench-gpu needs Triton, which PyTorch's CUDA builds for Linux bring. Nothing was measured.")
    results = {name: measured(CASES[name], options.seconds) for name in options.case or CASES}
    card = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    print(json.dumps({**card, "cases": results}, indent=2))


def measured(case: Case, seconds: float) -> dict[str, Any]:
    """Samples per second of every step, and the share of the ceiling that ours reaches."""
    rows = activations(case)
    steps: dict[str, Callable[[], Callable[[Tensor], object]]] = {
        "seesae_topk": lambda: captured_step(case, "topk", rows[0]),
        "seesae_batchtopk": lambda: captured_step(case, "batchtopk", rows[0]),
        "seesae_topk_ordinary_step": lambda: ordinary_step(case, "topk", rows[0]),
        "plain_torch_topk": lambda: plain_step(case, "topk", rows[0]),
        "plain_torch_batchtopk": lambda: plain_step(case, "batchtopk", rows[0]),
    }
    if find_spec("sae_lens"):
        steps[f"saelens_{version('sae-lens')}_topk"] = lambda: saelens_step(case)
    rates = {name: rate(make, rows, seconds) for name, make in steps.items()}
    peak = next((rate for name, rate in PEAK.items() if name in torch.cuda.get_device_name()), None)
    ceiling = peak and peak / (2 * case.d_in * case.d_sae + 10 * case.k * case.d_in)
    ours = rates["seesae_topk"]
    return {
        "case": asdict(case),
        "samples_per_s": rates,
        "ceiling_samples_per_s": ceiling,
        "share_of_ceiling": ours and ceiling and ours / ceiling,
        "encoder_ms": encoder_milliseconds(case, rows[0]),
    }


def activations(case: Case) -> list[Tensor]:
    """Batches of sums of a few directions, some much more common than others, and noise."""
    generator = torch.Generator("cuda").manual_seed(0)
    directions = torch.randn(4 * case.d_in, case.d_in, device="cuda", generator=generator)
    popularity = 1 / torch.arange(1, len(directions) + 1, device="cuda")
    batches = []
    for _ in range(BATCHES):
        chosen = torch.multinomial(popularity.expand(case.batch, -1), 16, generator=generator)
        strength = torch.rand(case.batch, 16, device="cuda", generator=generator)
        sums = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=strength, mode="sum")
        noise = torch.randn(sums.shape, device="cuda", generator=generator)
        batches.append(sums + 0.1 * noise)
    return batches


def new_state(case: Case, architecture: str, sample: Tensor) -> TrainingState:
    config = TrainingConfig(
        architecture=architecture, d_sae=case.d_sae, k=case.k, batch_size=case.batch, samples=10**6 * case.batch,
        precision="bf16", dead_after=10**15,
    ).resolved()  # fmt: skip
    state = TrainingState.create(config, case.d_in, Path(), torch.device("cuda"))
    state.sae.initialise(sample, seed=0)
    return state


def captured_step(case: Case, architecture: str, sample: Tensor) -> Callable[[Tensor], object]:
    from sae_core.training.gpu_step import GpuStep

    return GpuStep(new_state(case, architecture, sample))


def ordinary_step(case: Case, architecture: str, sample: Tensor) -> Callable[[Tensor], object]:
    """`take_step`, which uses the kernels where it can, but waits for the device."""
    state = new_state(case, architecture, sample)

    def step(rows: Tensor) -> None:
        with gpu.enabled():
            take_step(state, rows)

    return step


def plain_step(case: Case, architecture: str, sample: Tensor) -> Callable[[Tensor], object]:
    """`take_step` with PyTorch's own operations."""
    state = new_state(case, architecture, sample)
    return lambda rows: take_step(state, rows)


def saelens_step(case: Case) -> Callable[[Tensor], object]:
    """SAELens' own step, of its TopK; decoder norms are folded in, which is its default."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=case.d_in, d_sae=case.d_sae, k=case.k, device="cuda"))
    config = SAETrainerConfig(
        total_training_samples=10**6 * case.batch, train_batch_size_samples=case.batch, device="cuda", autocast=True,
        dead_feature_window=10**9,
    )  # fmt: skip
    return SAETrainer(config, sae.to("cuda"), data_provider=iter(())).step  # type: ignore[no-any-return]


def rate(make: Callable[[], Callable[[Tensor], object]], rows: list[Tensor], seconds: float) -> float | None:
    """Samples per second of a step; None if it does not fit into the GPU's memory."""
    try:
        return 1000 * len(rows[0]) / milliseconds(make(), rows, seconds)
    except torch.cuda.OutOfMemoryError as error:
        print(f"does not fit: {error}", file=sys.stderr)
        return None
    finally:
        torch.cuda.empty_cache()


def milliseconds(step: Callable[[Tensor], object], rows: list[Tensor], seconds: float) -> float:
    """Time of one step, from steps that follow each other for some seconds after a warm-up."""
    batches = itertools.cycle(rows)

    def timed(count: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for batch in itertools.islice(batches, count):
            step(batch)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    timed(5)  # compiles, and captures the graph
    return timed(max(5, int(1000 * seconds / timed(5))))


def encoder_milliseconds(case: Case, rows: Tensor) -> dict[str, float]:
    """The encoder's product with each group's peak: in one kernel, and as cuBLAS' product with a pass over it."""
    from sae_core.kernels.gpu.product import group_peaks, pre_activations

    x = rows.bfloat16()
    encoder = torch.randn(case.d_sae, case.d_in, device="cuda", dtype=torch.bfloat16)
    bias = torch.zeros(case.d_sae, device="cuda")
    short_bias = bias.bfloat16()
    return {
        "fused": milliseconds(lambda x: pre_activations(x, encoder, bias), [x], 1.0),
        "cublas_then_peaks": milliseconds(lambda x: group_peaks(torch.addmm(short_bias, x, encoder.t())), [x], 1.0),
    }


if __name__ == "__main__":
    main()
