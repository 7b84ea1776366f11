"""The three monitors that ship: SAE features beside plain baselines, in and out of distribution; docs/monitoring.md.

    python benchmarks/monitors.py HOME [--json FILE] [--only RECIPE]

HOME is the home folder of a finished demo (`SEESAE_HOME`). Its model and SAE read the built-in text sets of each recipe
(about 150,000 tokens; what was read is kept in HOME/cache/monitors, so a second run takes a minute). Everything is
trained on one part of a set, calibrated on another and reported on a third.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from report import machine

from app.pipeline.builtin_sets import add_up
from app.pipeline.params import DEMO_MODEL
from app.pipeline.sources import read_model
from app.queries.text_sets import TextItem
from app.services.monitor_recipes import RECIPES, Recipe
from sae_core import HookPoint, LanguageModel, load_sae
from sae_core.monitoring import (
    Candidate,
    Comparison,
    Examples,
    FeatureDetector,
    Followed,
    Monitor,
    Source,
    cautions,
    compare_candidates,
    follow_texts,
    measure_decoupling,
    score_texts,
)
from sae_core.progress import Progress
from sae_core.readings import Reading, read_texts, select_texts
from sae_core.saes import TopK
from sae_core.saes.topk import TopKConfig

SAE_NAME, HOOK = "smollm2-135m-l9-batchtopk-4096", HookPoint.parse("resid_post.9")
MAX_TOKENS = 128
"""Of a text; most have 10 to 30."""
ELSEWHERE = 200
"""Texts of each kind from the sets elsewhere."""
LIVE = 150
"""Texts that are followed token by token."""
WORDS = {
    "feature": "one SAE feature",
    "features-10": "10 SAE features",
    "features-50": "50 SAE features",
    "probe-mean": "probe on mean activations",
    "probe-max": "probe on maximal activations",
    "diffmean": "difference of means",
    "words": "bag of words",
    "length": "length",
}


class Bench:
    """The demo's model and SAE, and what they read."""

    def __init__(self, home: Path) -> None:
        self.cache = home / "cache"
        sae = load_sae(home / "artifacts" / "saes" / SAE_NAME)
        self.model: LanguageModel = read_model(
            DEMO_MODEL, device="cpu", cache=self.cache, converted=home / "artifacts" / "models"
        )
        self.source = Source(
            sae=sae.for_inference(),
            hook=HOOK,
            sae_name=SAE_NAME,
            model_name=self.model.name,
            model_sha256=self.model.weights_sha256,
            special_token_ids=self.model.special_token_ids,
        )
        self.sets: dict[tuple[str, int | None], tuple[list[TextItem], Reading]] = {}
        self.read_sets: dict[str, dict[str, float]] = {}

    def read(self, name: str, most: int | None) -> tuple[list[TextItem], Reading]:
        if (name, most) not in self.sets:
            items = _draw(add_up(name, self.cache)[1], most)
            print(f"Reading {len(items):,} texts of {name}", file=sys.stderr)
            began = time.monotonic()
            folder = self.cache / "monitors" / (name if most is None else f"{name}-{most}")
            reading = read_texts(
                self.model,
                self.source.sae,
                [item.text for item in items],
                hook=HOOK,
                folder=folder,
                max_tokens=MAX_TOKENS,
            )
            seconds = round(time.monotonic() - began, 1)
            self.read_sets[name] = {"texts": len(items), "tokens": reading.tokens, "seconds": seconds}
            self.sets[name, most] = items, reading
        return self.sets[name, most]

    def examples(self, part: str, most: int | None = None) -> Examples:
        name, _, label = part.partition(":")
        items, reading = self.read(name, most)
        rows = [row for row, item in enumerate(items) if item.label == label]
        chosen = [items[row] for row in rows]
        return Examples(select_texts(reading, rows), [item.text for item in chosen], [item.split for item in chosen])

    def follow(self, monitors: Sequence[Monitor], side: Examples, progress: Progress) -> list[Followed]:
        return follow_texts(self.model, monitors, side.as_read, max_tokens=MAX_TOKENS, progress=progress)

    def live(self, recipe: Recipe, monitor: Monitor) -> dict[str, Any]:
        """Return how many benign test texts are above the threshold at their end, and at any token on the way."""
        texts = self.examples(recipe.benign).part("test").texts[:LIVE]
        scores = [read.scores[0] for read in score_texts(self.model, [monitor], texts, max_tokens=MAX_TOKENS)]
        above = sum(score.score > monitor.threshold for score in scores)
        on_the_way = sum(score.peak > monitor.threshold for score in scores)
        return {"texts": len(texts), "at_the_end": above, "on_the_way": on_the_way}

    def decoupling(self, recipe: Recipe, features: Sequence[int]) -> dict[str, Any]:
        """Return how features differ, had the SAE been a TopK of the same weights."""
        sae = self.source.sae
        topk = TopK(TopKConfig(d_in=sae.d_in, d_sae=sae.d_sae, k=sae.k)).requires_grad_(False)
        for name, parameter in topk.named_parameters():
            parameter.copy_(sae.get_parameter(name))
        texts = self.examples(recipe.positive).part("test").texts[:LIVE]
        x = torch.cat(
            [self.model.activations(torch.tensor([self.model.tokenize(text)]), HOOK)[0, 1:] for text in texts]
        )
        smallest = topk.encode(x).topk(sae.k, dim=1).values.min(dim=1).values.mean()
        detector = FeatureDetector.of(topk, features, boundary=float(smallest))
        found = measure_decoupling(detector, topk, x)
        return asdict(found) | {"differing": found.differing}

    def compare(self, recipe: Recipe) -> Comparison:
        return compare_candidates(
            self.examples(recipe.positive),
            self.examples(recipe.benign),
            self.source,
            self.follow,
            name=recipe.name,
            fpr=recipe.fpr,
            tokens=recipe.tokens,
            pool=recipe.pool,
            elsewhere=(self.examples(recipe.elsewhere[0], ELSEWHERE), self.examples(recipe.elsewhere[1], ELSEWHERE)),
        )


def measure(home: Path, names: list[str]) -> dict[str, Any]:
    bench = Bench(home)
    found: dict[str, Any] = {"recipes": {}}
    for name in names:
        began = time.monotonic()
        comparison, recipe = bench.compare(RECIPES[name]), RECIPES[name]
        monitors = {one: comparison.candidate(one).monitor for one in (comparison.chosen, comparison.best_features)}
        features = monitors[comparison.best_features].detector.features
        found["recipes"][name] = _record(recipe, comparison) | {
            "live": {one: bench.live(recipe, monitor) for one, monitor in monitors.items()},
            "decoupling": bench.decoupling(recipe, features),
            "seconds": round(time.monotonic() - began, 1),
        }
    return found | {"sets": bench.read_sets}


def _draw(items: list[TextItem], most: int | None) -> list[TextItem]:
    """Return at most so many texts of each label, by hash."""
    by_label: dict[str | None, list[TextItem]] = {}
    for item in sorted(items, key=lambda item: hashlib.sha256(item.text.encode()).digest()):
        by_label.setdefault(item.label, []).append(item)
    kept = {item.number for texts in by_label.values() for item in texts[:most]}
    return [item for item in items if item.number in kept]


def _record(recipe: Recipe, comparison: Comparison) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe),
        "chosen": comparison.chosen,
        "best_features": comparison.best_features,
        "best_baseline": comparison.best_baseline,
        "lead": comparison.lead,
        "lead_interval": comparison.lead_interval,
        "shared": len(comparison.shared),
        "cautions": cautions(comparison),
        "cautions_features": cautions(comparison, comparison.best_features),
        "candidates": {candidate.name: _candidate(candidate) for candidate in comparison.candidates},
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    features = getattr(candidate.monitor and candidate.monitor.detector, "features", None)
    calibration = candidate.calibration
    return {
        "features": features,
        "validation_auroc": candidate.validation_auroc,
        "calibration": {
            "threshold": calibration.threshold,
            "texts": calibration.texts,
            "exceeding": calibration.exceeding,
            "interval": calibration.interval,
        },
        "test": _performance(asdict(candidate.test)),
        "elsewhere": candidate.out_of_distribution and _performance(asdict(candidate.out_of_distribution)),
    }


def _performance(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name != "roc"}


def tables(result: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, found in result["recipes"].items():
        sizes = next(iter(found["candidates"].values()))
        lines += ["", f"### {found['recipe']['title']}", ""]
        lines += [
            f"{where}: {sizes[of]['positive']} positive and {sizes[of]['benign']} benign texts"
            for where, of in (("test", "test"), ("elsewhere", "elsewhere"))
        ]
        lines += [
            "",
            "| | AUROC | log-AUROC | recall at 1 % | recall, false positives at the threshold "
            "| elsewhere: AUROC | elsewhere: recall, false positives |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        ranked = sorted(found["candidates"].items(), key=lambda item: -item[1]["validation_auroc"])
        lines += [_row(candidate, measured, candidate == found["chosen"]) for candidate, measured in ranked]
        low, high = found["lead_interval"]
        lines += [
            "",
            f"{name}: {WORDS[found['best_baseline']]} leads {WORDS[found['best_features']]} "
            f"by {found['lead']:+.3f} ({low:+.3f} to {high:+.3f})",
        ]
        lines += [f"- live, {one}: {of}" for one, of in found["live"].items()]
        lines.append(f"- as a TopK: {found['decoupling']}")
        lines += [f"- {caution}" for caution in found["cautions"]]
        lines += [f"- (features) {caution}" for caution in found["cautions_features"]]
    return lines


def _row(name: str, of: Mapping[str, Any], chosen: bool) -> str:
    test, elsewhere = of["test"], of["elsewhere"]
    at = test["recall_at"][0]
    recall = _share(at["recall"]) if at["benign"] * at["fpr"] >= 1 else f"not from {at['benign']}"
    title = f"**{WORDS[name]}**" if chosen else WORDS[name]
    cells = [title, _auroc(test), f"{test['log_auroc']:.2f}", recall, _at_threshold(test)]
    return f"| {' | '.join([*cells, _auroc(elsewhere), _at_threshold(elsewhere)])} |"


def _auroc(of: Mapping[str, Any]) -> str:
    low, high = of["auroc_interval"]
    return f"{of['auroc']:.3f} ({low:.3f}–{high:.3f})"


def _at_threshold(of: Mapping[str, Any]) -> str:
    return f"{_share(of['recall'])}, {_share(of['false_positives'])}"


def _share(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['count'] / share['texts']:.1%} ({low:.1%}–{high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="home folder of a finished demo")
    parser.add_argument("--json", type=Path, help="a file for all figures, with machine and date")
    parser.add_argument("--only", choices=[*RECIPES], action="append", help="make these recipes only")
    arguments = parser.parse_args()
    began, where = time.monotonic(), machine()
    result = measure(arguments.home, arguments.only or [*RECIPES])
    seconds = round(time.monotonic() - began, 1)
    print("\n".join(tables(result)), f"\n\n{seconds} s")
    if arguments.json:
        said = {"date": datetime.now(UTC).date().isoformat(), "machine": where, "seconds": seconds, **result}
        arguments.json.write_text(json.dumps(said, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
