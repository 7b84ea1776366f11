"""What near decoders, comparisons and the map of a wide SAE cost, and whether they are exact.

    python benchmarks/directions.py [--features 4096 131072] [--dimensions 576 768] [--rows 8192] [--json FILE]
    python benchmarks/directions.py --map | --activity | --coactive | --compare

Decoders are made up: at random, or around one centre per 64 features at all distances. The work is in proportion to the
rows that are compared with all others, so `--rows` of them are timed and the rest is reckoned; a map is drawn whole.
Times are CPU seconds of one thread, because other work on the machine does not change them much; two idle cores take
half as long. Recall is the share of the ten nearest in float64, for a few rows, that are found.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from report import machine
from torch import Tensor

from sae_core.matching import match_features
from sae_core.matching.pairs import Activity, Asked, Pairs
from sae_core.matching.partners import MIN_JOINT, BestPartners, choose_partners
from sae_core.progress import silent
from sae_core.statistics.coactivation import JOINT_BYTES, coactive_features
from sae_core.statistics.map import feature_map
from sae_core.statistics.nearest import ROWS, Table, cosines, nearest_of_both, unit_rows
from sae_core.statistics.spec import NEAR
from sae_core.statistics.token_table import TokenTable
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import cut, row_bounds

CHECKED = 256
"""Rows whose neighbours are found again in float64."""
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
SHAPES = ("random", "clustered")
TOKENS, ACTIVE, LENGTH = 200_000, 32, 128


def decoder(features: int, dimensions: int, shape: str) -> Tensor:
    """Return made-up directions."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(features, dimensions, generator=generator)
    if shape == "random":
        return unit_rows(rows)
    centres = torch.randn(max(1, features // 64), dimensions, generator=generator)
    distance = torch.randn(features, 1, generator=generator).abs()
    return unit_rows(centres[torch.randint(len(centres), (features,), generator=generator)] + distance * rows)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` returns, and its CPU seconds."""
    began = time.process_time()
    return work(), time.process_time() - began


def peak_mb(*, reset: bool = False) -> float:
    """Return the most memory that this process has had; `reset` starts from what it has now, where Linux can."""
    if reset and CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")
    if STATUS.exists():
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_directions(features: int, dimensions: int, rows: int, shape: str) -> dict[str, Any]:
    """Time the nearest of `rows` features among all, and check some of them."""
    unit = decoder(features, dimensions, shape)
    rows = min(rows, features)
    _, floor = timed(lambda: unit[:ROWS] @ unit.T)
    base = peak_mb()
    table = Table(unit, unit, itself=True)
    blocks = islice(table.blocks(silent), rows // ROWS)
    found, near = timed(lambda: [table.best_of_rows(start, products, NEAR)[0] for start, products in blocks])
    _, half = timed(lambda: nearest_of_both(unit[: rows // 2], unit))
    _, both = timed(lambda: nearest_of_both(unit[:rows], unit))
    peak = peak_mb() - base
    products = unit[:CHECKED].double() @ unit.double().T
    products.fill_diagonal_(-torch.inf)
    expected = products.topk(NEAR, dim=1).indices.numpy()
    ids = found[0][:CHECKED]
    recall = np.mean(
        [len({*mine} & {*theirs}) / NEAR for mine, theirs in zip(ids.tolist(), expected.tolist(), strict=True)]
    )
    return {
        "features": features,
        "dimensions": dimensions,
        "rows": rows,
        "shape": shape,
        "product_in": str(table.rounded_a.dtype).removeprefix("torch."),
        "float32_product_cpu_s": floor * features / ROWS,
        "near_cpu_s": near * features / rows,
        "both_ways_cpu_s": both + (both - half) * 2 * (features - rows) / rows,  # some of it does not grow with rows
        "peak_mb_above_decoder": peak,
        "recall": float(recall),
        "recall_rows": len(ids),
    }


class MadeUpStore:
    """Activations of `ACTIVE` features per token, some features far more frequent than others, in memory."""

    def __init__(self, features: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        drawn = (features * random.random((TOKENS, ACTIVE)) ** 2).astype(np.int32)
        keys = np.unique(drawn.astype(np.int64) * TOKENS + np.arange(TOKENS)[:, None])
        row, position = keys // TOKENS, (keys % TOKENS).astype(np.int32)
        value = random.gamma(2, 1, len(keys)).astype(np.float32)
        self.all = FeatureBlock(0, row_bounds(row, features), position, value)
        self.d_sae, self.count = features, self.all.count
        self.plan, self.shard_nonzeros, self.n_shards = {"tokens": TOKENS, "sequences_sha256": ""}, [len(keys)], 1

    def block(self, start: int, stop: int, shards: range | None = None) -> FeatureBlock:
        """Return some features; there is one shard."""
        return self.all.features(start, stop)

    def block_on(self, start: int, stop: int, positions: range) -> FeatureBlock:
        """Return the same: there is one shard."""
        return self.block(start, stop)

    def positions(self, shards: range) -> range:
        """Return all positions."""
        return range(TOKENS)

    def shard_groups(self, most: int) -> list[range]:
        """Return the one shard."""
        return [range(1)]

    def feature_blocks(self, most: int, most_features: int, features: range | None = None) -> list[tuple[int, int]]:
        """Return cuts of the features."""
        own = features or range(self.d_sae)
        cuts = cut(self.count[own.start : own.stop].tolist(), most, most_features)
        return [(own.start + start, own.start + stop) for start, stop in cuts]


def measure_activity(features: int, dimensions: int) -> dict[str, Any]:
    """Time the part of a comparison that needs activations, on `TOKENS` made-up tokens, with and without a table."""
    unit = decoder(features, dimensions, "random")
    stores: Any = (MadeUpStore(features, 0), MadeUpStore(features, 1))
    near = np.random.default_rng(2).integers(0, features, (2, features)).astype(np.int32)
    activity = Activity.of(*stores)
    asked = Asked.of_both(*near)
    list(
        Activity.of(MadeUpStore(8, 0), MadeUpStore(8, 1)).pairs(Asked.of_both(*near[:, :8] % 8), 1, silent)
    )  # compiles

    def cosine(row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = cosines(unit, unit, torch.from_numpy(row), torch.from_numpy(column)).numpy()
        return found

    def choose(pairs: Iterable[Pairs]) -> tuple[BestPartners, BestPartners]:
        a, b = BestPartners.given(near[0].copy()), BestPartners.given(near[1].copy())
        choose_partners(a, b, pairs, (stores[0].count, stores[1].count), TOKENS, cosine)
        return a, b

    base = peak_mb(reset=True)
    found, seconds = timed(lambda: choose(activity.pairs(asked, MIN_JOINT, silent)))
    peak = peak_mb()
    plain, plain_seconds = timed(lambda: choose(activity.all_pairs(silent)))
    return {
        "features": features,
        "tokens": TOKENS,
        "active": ACTIVE,
        "cpu_s": seconds,
        "peak_mb_above_stores": peak - base,
        "sparse_matrices_cpu_s": plain_seconds,
        "sparse_matrices_peak_mb_above_stores": peak_mb() - base,
        "equal": all(
            np.array_equal(getattr(getattr(one, score), field), getattr(getattr(other, score), field))
            for one, other in zip(found, plain, strict=True)
            for score in ("near", "coactive", "parent")
            for field in ("ids", "score", "joint", "product")
        ),
    }


def measure_coactive(features: int) -> dict[str, Any]:
    """Rank all co-active features with a token table; rank three parts of them without, and reckon the rest."""
    store: Any = MadeUpStore(features, 0)
    near = np.random.default_rng(2).integers(0, features, (features, NEAR)).astype(np.int32)
    small: Any = MadeUpStore(8, 0)
    coactive_features(small, range(8), TOKENS, near[:8] % 8, silent, TokenTable.of(small, values=False))  # compiles
    base = peak_mb(reset=True)
    table, table_seconds = timed(lambda: TokenTable.of(store, values=False))
    (found, joint), seconds = timed(lambda: coactive_features(store, range(features), TOKENS, near, silent, table))
    peak = peak_mb()
    rows = min(features, max(1, JOINT_BYTES // (4 * features)))
    plain_seconds, equal = 0.0, True
    for start in (0, (features - rows) // 2, features - rows):
        own = slice(start, start + rows)
        part = range(start, start + rows)
        (plain, plain_joint), some = timed(partial(coactive_features, store, part, TOKENS, near[own], silent))
        plain_seconds += some
        equal &= np.array_equal(joint[own], plain_joint) and all(
            np.array_equal(getattr(found, field)[own], getattr(plain, field)) for field in ("ids", "pmi", "joint")
        )
    return {
        "features": features,
        "tokens": TOKENS,
        "active": ACTIVE,
        "table_cpu_s": table_seconds,
        "cpu_s": seconds,
        "peak_mb_above_store": peak - base,
        "parts_of_all_pairs_cpu_s": plain_seconds / 3 * features / rows,
        "parts_of_all_pairs_peak_mb_above_store": peak_mb() - base,
        "rows_compared": 3 * rows,
        "equal": equal,
    }


def measure_compare(features: int, dimensions: int) -> dict[str, Any]:
    """Compare two made-up SAEs of different directions and activations, as a run does, in one piece and all threads."""
    directions = tuple(decoder(features, dimensions, shape) for shape in SHAPES)
    stores = tuple(MadeUpStore(features, seed) for seed in (1, 2))
    base, began = peak_mb(reset=True), time.perf_counter()
    _, cpu_s = timed(lambda: match_features(*directions, cast("Any", stores)))
    return {
        "features": features,
        "dimensions": dimensions,
        "tokens": TOKENS,
        "active": ACTIVE,
        "threads": torch.get_num_threads(),
        "s": time.perf_counter() - began,
        "cpu_s": cpu_s,
        "peak_mb_above_inputs": peak_mb() - base,
    }


def measure_map(features: int, dimensions: int) -> dict[str, Any]:
    """Draw a map of a clustered decoder."""
    directions = decoder(features, dimensions, "clustered")
    base = peak_mb()
    _, seconds = timed(lambda: feature_map(directions))
    return {
        "features": features,
        "dimensions": dimensions,
        "cpu_s": seconds,
        "peak_mb_above_decoder": peak_mb() - base,
    }


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--features", type=int, nargs="+", default=[131_072])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[768])
    parser.add_argument("--rows", type=int, default=8_192)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES)
    parser.add_argument("--map", action="store_true", help="draw a whole map, of the clustered decoder")
    parser.add_argument("--activity", action="store_true", help="time the part of a comparison that needs activations")
    parser.add_argument("--coactive", action="store_true", help="rank the co-active features of one SAE")
    parser.add_argument("--compare", action="store_true", help="compare two SAEs in one piece, with all threads")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.compare:
        torch.set_num_threads(1)
    sizes = [(features, dimensions) for features in options.features for dimensions in options.dimensions]
    results: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    if options.activity:
        results["activity"] = [measure_activity(*size) for size in sizes]
    elif options.coactive:
        results["coactive"] = [measure_coactive(features) for features in options.features]
    elif options.compare:
        results["compare"] = [measure_compare(*size) for size in sizes]
    elif options.map:
        results["map"] = [measure_map(*size) for size in sizes]
    else:
        results["directions"] = [
            measure_directions(*size, options.rows, shape) for size in sizes for shape in options.shapes
        ]
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
