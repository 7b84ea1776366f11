"""Growth of costs: of a training step with width and with k, of an index with tokens.

    python benchmarks/curves.py [--tokens 2000000]

All of it on the demo's model and corpus, on this machine. The corpus has a million tokens; more than that are the same
ones again, which changes neither time nor memory. Results go to `benchmarks/results/`, the table and the plots
into `benchmarks/README.md`. Needs matplotlib (`pip install -e '.[plots]'`).
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from report import HERE, machine, write_table

from app.bench.bench_inputs import HOOK, BenchInputs, chosen, load, scratch
from app.bench.memory import forget_peak, peak_rss_mb, rss_mb
from app.bench.train import rates
from app.settings import get_settings
from sae_core.activations import ActivationCache
from sae_core.checkpoints import load_sae, save_sae
from sae_core.statistics.compute import compute_statistics
from sae_core.store.activation_store import build_store
from sae_core.training import TrainingConfig, train

WIDTHS = (2048, 4096, 8192, 16_384, 32_768, 65_536)
KS = (16, 32, 64, 128)
WIDTH, K, BATCH = 8192, 32, 2048
"""Width and k of the curves in which they do not change."""
ROUNDS, STEPS = 5, 4
TRAINED_ON = 65_536
"""Tokens that steps are measured on, and that the indexed SAE is trained on, eight times over."""
BLUE, GREY = "#2f6fde", "#8a94a6"


@dataclass(frozen=True)
class Repeated:
    """The whole shards of an activation cache, again and again: a corpus larger than the one there is."""

    cache: ActivationCache
    n_shards: int
    whole: int
    """Shards of the cache that have the usual size; the last one may be smaller."""

    def rows(self, index: int, /) -> range:
        """Return the numbers of one shard's sequences."""
        size = len(self.cache.rows(0))
        return range(index * size, (index + 1) * size)

    def shard(self, index: int, /) -> tuple[slice, torch.Tensor]:
        """Return the numbers of one shard's sequences, and their activations."""
        where, activations = self.cache.shard(index % self.whole)
        start = index * len(activations)
        return slice(start, start + where.stop - where.start), activations


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="the largest corpus; each before it has half")
    parser.add_argument("--sizes", type=int, default=5, help="how many corpora")
    args = parser.parse_args()
    settings = get_settings()
    inputs = load(settings, args.tokens, notify)
    results: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine()}
    size = 2 * ActivationCache.size(inputs.sequences, inputs.model.d_in(HOOK))
    with scratch(settings, size, "Activations and their store") as folder:
        few = chosen(inputs.sequences, slice(TRAINED_ON // inputs.sequences.length))
        cache = ActivationCache.build(inputs.model, HOOK, few, folder / "few")
        batches = list(islice(cache.batches(BATCH, seed=0), cache.train_tokens // BATCH))
        results["width"] = [step(batches, folder, width=width) for width in WIDTHS]
        results["k"] = [step(batches, folder, k=k) for k in KS]
        config = TrainingConfig(d_sae=WIDTH, k=K, samples=8 * TRAINED_ON)
        save_sae(train(config, cache, folder / "training"), folder / "sae")
        notify(f"{inputs.sequences.n_counted:,} tokens through the model")
        results["forward"] = forward(inputs, folder / "activations")
        results["index"] = [
            alone(indexed, args.tokens >> halvings, args.tokens, folder) for halvings in reversed(range(args.sizes))
        ]
    slug = f"{results['machine']['slug']}-{results['date']}"
    (HERE / "results" / f"curves-{slug}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(results)
    write_table("curves", table(results))
    notify("The table and the plots in benchmarks/README.md are written.")


def step(batches: list[torch.Tensor], folder: Path, *, width: int = WIDTH, k: int = K) -> dict[str, Any]:
    """Milliseconds of a training step, and of the encoder's product, in a process of their own."""
    answer: dict[str, Any] = alone(stepped, batches, folder / "steps", width, k)
    notify(
        f"{width:,} features, k {k}: {answer['step_ms']:,.0f} ms per step, {answer['product_ms']:,.0f} ms its product"
    )
    return answer


def stepped(batches: list[torch.Tensor], folder: Path, width: int, k: int) -> dict[str, Any]:
    """`step`, in this process."""
    samples = (4 + ROUNDS) * STEPS * BATCH
    # In so few steps many features were never active yet; AuxK, which is for those that stay dead, is kept at rest.
    config = TrainingConfig(d_sae=width, k=k, batch_size=BATCH, samples=samples, dead_after=100 * samples).resolved()
    _, ours, floor = rates(config, batches, folder, torch.device("cpu"), rounds=ROUNDS, steps=STEPS)
    of_step, of_product = (1000 * BATCH / sorted(rate)[ROUNDS // 2] for rate in (ours, floor))
    return {"width": width, "k": k, "step_ms": of_step, "product_ms": of_product, "peak_rss_mb": peak_rss_mb()}


def forward(inputs: BenchInputs, folder: Path) -> dict[str, Any]:
    """Run the model over everything."""
    before = rss_mb()
    forget_peak()
    began = time.perf_counter()
    ActivationCache.build(inputs.model, HOOK, inputs.sequences, folder, progress=every_minute())
    seconds = time.perf_counter() - began
    return {"tokens": inputs.sequences.n_counted, "seconds": seconds, "over_before_mb": peak_rss_mb() - before}


def indexed(tokens: int, of: int, folder: Path) -> dict[str, Any]:
    """Encode some tokens and compute their statistics: seconds, and memory above that of the model alone."""
    inputs = load(get_settings(), of, lambda _line: None)
    inputs.model.activations(torch.from_numpy(inputs.sequences.token_ids[:16]).long(), HOOK)
    of_model = rss_mb()
    sae, cache = load_sae(folder / "sae"), ActivationCache.open(folder / "activations", inputs.sequences)
    shard_sequences = cache.shard(0)[0].stop
    whole = len(inputs.sequences) // shard_sequences
    shards = max(1, round(tokens / inputs.sequences.n_counted * cache.n_shards))
    sequences = chosen(inputs.sequences, np.arange(shards * shard_sequences) % (whole * shard_sequences))
    forget_peak()
    began = time.perf_counter()
    store = build_store(sae, Repeated(cache, shards, whole), sequences, folder / f"store-{tokens}")
    encoded = time.perf_counter()
    model = inputs.model
    compute_statistics(store, sequences, sae, model.output_directions(), model.input_tokens())
    ended = time.perf_counter()
    answer = {
        "tokens": sequences.n_counted,
        "encode_s": encoded - began,
        "statistics_s": ended - encoded,
        "over_model_mb": peak_rss_mb() - of_model,
    }
    notify(", ".join(f"{name} {value:,.1f}" for name, value in answer.items()))
    return answer


def alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run in a fresh process, whose peak of memory is then its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def every_minute() -> Callable[..., None]:
    """A progress that prints one line per minute."""
    began = said = time.monotonic()

    def report(done: int, total: int, *_: Any) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said > 60:
            said = now
            notify(f"{done:,} of {total:,} tokens, {(now - began) * (total - done) / max(done, 1):,.0f} s left")

    return report


# --- show


def plot(results: dict[str, Any]) -> None:
    """Draw the three curves; on two logarithmic axes, a cost that is linear is a line of slope 1."""
    width, k, index = results["width"], results["k"], results["index"]
    of_width = {"step": column(width, "step_ms"), "encoder's product": column(width, "product_ms")}
    draw("width", "features", column(width, "width"), of_width, "ms a step of 2,048")
    of_k = {"step": column(k, "step_ms"), "encoder's product": column(k, "product_ms")}
    draw("k", "k, active features per token", column(k, "k"), of_k, "ms a step of 2,048", y_scale="linear")
    of_tokens = {"encoding": column(index, "encode_s"), "statistics": column(index, "statistics_s")}
    draw("tokens", "tokens", column(index, "tokens"), of_tokens, "seconds")


def column(rows: list[dict[str, Any]], name: str) -> list[float]:
    """Return one figure of every row."""
    return [row[name] for row in rows]


def draw(
    name: str, x_title: str, x: list[float], curves: dict[str, list[float]], y_title: str, y_scale: str = "log"
) -> None:
    """One plot, as SVG."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale=y_scale, xlabel=x_title, ylabel=y_title)
    for (title, y), colour in zip(curves.items(), (BLUE, GREY), strict=True):
        axes.plot(x, y, marker="o", label=title, color=colour)
    axes.set_xticks(x, [f"{value:,.0f}" for value in x], rotation=30)
    if y_scale == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0, top=1.3 * max(map(max, curves.values())))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.4g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    (HERE / "plots").mkdir(exist_ok=True)
    figure.savefig(HERE / "plots" / f"{name}.svg", metadata={"Date": None})


def table(results: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    whole = results["forward"]
    lines = [
        f"{results['date']}, {results['machine']['cpu']}, {results['machine']['cores']} cores. BatchTopK, batch 2,048.",
        "",
        "| features | k | step, ms | encoder's product, ms | step ÷ product | peak memory of the process, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in [*results["width"], *results["k"]]:
        ratio = row["step_ms"] / row["product_ms"]
        figures = f"{row['step_ms']:,.0f} | {row['product_ms']:,.0f} | {ratio:.2f} | {row['peak_rss_mb']:,.0f}"
        lines.append(f"| {row['width']:,} | {row['k']} | {figures} |")
    lines += [
        "",
        f"The model's forward over {whole['tokens']:,} tokens, activations written to disk: {whole['seconds']:,.0f} s, "
        f"at most {whole['over_before_mb']:,.0f} MB above what the process had before.",
        "",
        "| tokens | encoding, s | statistics, s | both ÷ forward | peak above the model, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in results["index"]:
        seconds = row["encode_s"] + row["statistics_s"]
        share = seconds / (whole["seconds"] * row["tokens"] / whole["tokens"])
        figures = f"{row['encode_s']:,.1f} | {row['statistics_s']:,.1f} | {share:.3f} | {row['over_model_mb']:,.0f}"
        lines.append(f"| {row['tokens']:,} | {figures} |")
    return "\n".join(lines)


def notify(line: str) -> None:
    """Tell the person at the terminal."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
