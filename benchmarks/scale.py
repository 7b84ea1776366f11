"""What an index costs beyond one machine: measured rates of its parts, and a model made of them; docs/scale.md.

    python benchmarks/scale.py [--rates FILE] [--json FILE]

Measures the CPU seconds of each part on one thread, with synthetic activations (about two minutes), or takes them from
the results of an earlier call. Then computes hours, bytes and money for corpora, dictionaries and numbers of workers.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from report import machine
from safetensors import safe_open
from safetensors.numpy import save_file

from sae_core.progress import silent
from sae_core.statistics.coactivation import (
    JOINT_BYTES,
    TABLE_ROWS,
    TokenFeatureTable,
    add_joint,
    coactive_features,
)
from sae_core.statistics.decoders import near_decoders
from sae_core.statistics.examples import choose_examples
from sae_core.statistics.moments import MOMENTS, order_by_strength
from sae_core.statistics.ranges import BLOCK_FEATURES, BLOCK_NONZEROS, LARGE_NONZEROS, RANGES
from sae_core.statistics.token_table import HELD_BYTES, TokenTable
from sae_core.statistics.tokens import top_tokens
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import cut, row_bounds

D_IN, VOCABULARY, LENGTH = 576, 49_152, 128
"""Of SmolLM2-135M."""
L0 = {4_096: 32, 131_072: 64, 1_048_576: 128}
"""Active features per token that are assumed for a dictionary."""
FORWARD_TOKENS_PER_CORE_SECOND = 1_048_280 / 415.75 / 2
"""Of SmolLM2-135M to layer 9: curves-amd-epyc-2-cores-2026-11-24.json, idle cores."""
PRICE_PER_CORE_HOUR = 0.04
"""US dollars: an assumption, about what clouds ask for a core of a virtual machine."""
PRICE_PER_GB_MONTH = 0.08
"""US dollars: an assumption, about what clouds ask for a shared file system on disks."""
PUBLISH_BYTES, PUBLISH_SECONDS = 6_500, 2.1 / 4_096
"""Of a feature in Postgres, with its examples; seconds as in docs/demo.md."""
CORES = 2
"""Of a worker's machine."""


def main() -> None:
    """Measure, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=Path, help="results of an earlier call, whose rates are taken")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rates:
        found = json.loads(args.rates.read_text(encoding="utf-8"))
    else:
        torch.set_num_threads(1)
        found = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine(), "rates": measure()}
    found["assumed"] = {"dollars_per_core_hour": PRICE_PER_CORE_HOUR, "dollars_per_gb_month": PRICE_PER_GB_MONTH}
    found["assumed"] |= {"l0": L0, "cores_per_worker": CORES, "d_in": D_IN}
    found["cost"] = [
        cost(found["rates"], tokens, features, workers)
        for tokens in (10**6, 10**9)
        for features in L0
        for workers in (1, 2, 8, 64)
    ]
    text = json.dumps(found, indent=2) + "\n"
    print(text if args.json is None else table(found["cost"]))
    if args.json:
        args.json.write_text(text, encoding="utf-8")


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of some work: those of others on the machine are not in them."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure() -> dict[str, float]:
    """Return CPU seconds of one thread per unit of work."""
    random = np.random.default_rng(0)
    features, tokens, l0 = 16_384, 32_768, 64
    block = activations(random, features, tokens, l0)
    nonzeros = len(block.position)
    token_ids = random.integers(0, VOCABULARY, tokens).astype(np.int32)
    x = torch.from_numpy(random.standard_normal((4_096, D_IN)).astype(np.float32))
    W = torch.from_numpy(random.standard_normal((features, D_IN)).astype(np.float32))
    joint = np.zeros((1_024, features), np.int32)
    part = block.features(0, 1_024)
    tables: list[TokenFeatureTable] = []
    table_s = seconds(lambda: tables.append(TokenFeatureTable.of(block, range(tokens))))
    joint_s = seconds(lambda: list(add_joint(joint, part, tables[0])))
    empty = FeatureBlock(0, np.zeros(1_025, np.int64), block.position[:0], block.value[:0])
    row_s = seconds(lambda: list(add_joint(joint, empty, tables[0]))) / (1_024 * features)
    pairs = int(part.indptr[-1]) * nonzeros / tokens
    store: Any = InMemory(block, tokens)
    near = np.full((features, 1), -1, np.int32)
    held: list[TokenTable] = []
    held_s = seconds(lambda: held.append(TokenTable.of(store, values=False)))
    coactive_features(store, range(1), tokens, near[:1], silent, held[0])  # compiles
    ranked_s = seconds(lambda: coactive_features(store, range(features), tokens, near, silent, held[0]))
    return {
        "forward_s_per_token": 1 / FORWARD_TOKENS_PER_CORE_SECOND,
        "encode_s_per_token_feature": seconds(lambda: x @ W.T) / (len(x) * features),
        "sort_s_per_nonzero": seconds(lambda: order_by_strength(block)) / nonzeros,
        "own_s_per_nonzero": seconds(lambda: own(block, token_ids)) / nonzeros,
        "table_s_per_nonzero": table_s / nonzeros,
        "pair_s": max(joint_s - row_s * joint.size, 0) / pairs,
        "held_table_s_per_nonzero": held_s / nonzeros,
        "held_pair_s": ranked_s / (nonzeros * nonzeros / tokens),
        "joint_row_s_per_pair_of_features": row_s,
        "near_s_per_pair_of_features": seconds(lambda: near_decoders(W)) / features**2,
        "output_s_per_feature_token": seconds(lambda: x @ W.T) / (len(x) * features) * 2,
        "publish_s_per_feature": PUBLISH_SECONDS,
        "open_s": open_rate(),
    }


class InMemory:
    """A store of one shard."""

    def __init__(self, block: FeatureBlock, tokens: int) -> None:
        self.all, self.tokens = block, tokens
        self.d_sae, self.count, self.shard_nonzeros = block.n_features, block.count, [len(block.position)]

    def block(self, start: int, stop: int, shards: range | None = None) -> FeatureBlock:
        return self.all.features(start, stop)

    def positions(self, shards: range) -> range:
        return range(self.tokens)

    def shard_groups(self, most: int) -> list[range]:
        return [range(1)]

    def feature_blocks(self, most: int, most_features: int, features: range) -> list[tuple[int, int]]:
        return cut(self.count[: features.stop].tolist(), most, most_features)


def activations(random: np.random.Generator, features: int, tokens: int, l0: int) -> FeatureBlock:
    """Return activations of features that differ in density as those of SAEs do."""
    weights = random.pareto(1.5, features) + 0.1
    cells = random.choice(features, tokens * l0, p=weights / weights.sum()).astype(np.int64) * tokens
    feature, token = np.divmod(np.unique(cells + np.repeat(np.arange(tokens), l0)), tokens)
    value = random.gamma(1.0, 2.0, len(token)).astype(np.float32) + 1e-3
    return FeatureBlock(0, row_bounds(feature, features), token.astype(np.int32), value)


def own(block: FeatureBlock, token_ids: np.ndarray[Any, Any]) -> None:
    """Compute the statistics of features' own activations that take longest, in blocks as an index does."""
    for start in range(0, block.n_features, 1_024):
        part = block.features(start, start + 1_024)
        strongest_first = order_by_strength(part)
        for moment in MOMENTS.values():
            moment(part, strongest_first)
        choose_examples(part, strongest_first, LENGTH, 0)
        top_tokens(part, token_ids)


def open_rate() -> float:
    """Return the seconds that reading a few features from a shard takes, whatever their number."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "shard.safetensors"
        save_file({"indptr": np.arange(4_097), "position": np.zeros(4_096, np.int32)}, file)

        def read() -> None:
            for _ in range(1_000):
                with safe_open(file, framework="numpy") as opened:
                    opened.get_slice("indptr")[8:16]

        return seconds(read) / 1_000


def cost(rates: dict[str, float], tokens: int, features: int, workers: int) -> dict[str, Any]:
    """Return hours of each part, bytes and money; what workers share is divided by them, and by their cores."""
    l0 = L0[features]
    nonzeros = tokens * l0
    held = 4 * nonzeros <= HELD_BYTES
    rows = TABLE_ROWS if held else JOINT_BYTES // (4 * features)
    rows = max(1, min(rows, features if nonzeros <= LARGE_NONZEROS else -(-features // RANGES)))
    ranges = -(-features // rows)
    core_s = {
        "forward": tokens * rates["forward_s_per_token"],
        "encode": tokens * features * rates["encode_s_per_token_feature"] + nonzeros * rates["sort_s_per_nonzero"],
        "own statistics": nonzeros * rates["own_s_per_nonzero"],
        "token table": held * nonzeros * rates["held_table_s_per_nonzero"],
        "pairs": nonzeros * l0 * rates["held_pair_s"]
        if held
        else ranges * nonzeros * rates["table_s_per_nonzero"]
        + nonzeros * l0 * rates["pair_s"]
        + features**2 * rates["joint_row_s_per_pair_of_features"],
        "near decoders": features**2 * rates["near_s_per_pair_of_features"],
        "output tokens": features * VOCABULARY * rates["output_s_per_feature_token"],
        "publish": features * rates["publish_s_per_feature"],
    }
    shards = -(-tokens // (64 * LENGTH))
    blocks = max(min(features, nonzeros / BLOCK_NONZEROS), features / BLOCK_FEATURES)
    core_s["opening shards"] = 2 * blocks * shards * rates["open_s"]
    takers = {"forward": shards, "encode": shards, "own statistics": ranges, "pairs": ranges}
    takers["opening shards"] = ranges
    hours = {}
    for name, needed in core_s.items():
        many = min(workers, takers.get(name, 1))
        # Numpy's parts, and the publication, run on one core of a machine; products of matrices and what numba
        # compiled on all. Each worker makes the token table for itself.
        threaded = ("forward", "encode", "near decoders", "output tokens", *(["pairs"] if held else []))
        cores = CORES if name in threaded else 1
        hours[name] = needed / many / cores / 3600
    wall = sum(hours.values())
    stored = {
        "activations": tokens * D_IN * 4,
        "store": nonzeros * 8 + shards * 8 * (features + 1),
        "database": features * PUBLISH_BYTES,
    }
    gigabytes = sum(stored.values()) / 1e9
    return {
        "tokens": tokens,
        "features": features,
        "workers": workers,
        "hours": round(wall, 3),
        "parts": {name: round(own_hours, 4) for name, own_hours in hours.items()},
        "gigabytes": {name: round(size / 1e9, 2) for name, size in stored.items()},
        "dollars": round(wall * workers * CORES * PRICE_PER_CORE_HOUR, 2),
        "dollars_per_month_kept": round(gigabytes * PRICE_PER_GB_MONTH, 2),
    }


def table(costs: list[dict[str, Any]]) -> str:
    """Return the costs as a table of Markdown."""
    lines = [
        "| tokens | features | workers | hours | longest part | stored, GB | dollars |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in costs:
        longest = max(one["parts"], key=one["parts"].get)
        share = one["parts"][longest] / max(sum(one["parts"].values()), 1e-9)
        lines.append(
            f"| {one['tokens']:,} | {one['features']:,} | {one['workers']} | {one['hours']:,.3g} | "
            f"{longest} ({share:.0%}) | {sum(one['gigabytes'].values()):,.1f} | {one['dollars']:,.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
