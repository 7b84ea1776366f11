"""How well measures of a feature's examples agree with judgements of whether it can be named; docs/site.md.

    python benchmarks/coherence.py HOME [--json FILE]

HOME is the home folder of a finished demo (`SEESAE_HOME`), for the model's embeddings. Everything else stands in
judged_features.json: 99 features of the demo's SAE, the tokens on which their examples peak, and the judgements.
Spearman's rho, with the 95 % interval of 10,000 bootstrap samples of features.
"""

import argparse
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import HERE, machine
from scipy.stats import spearmanr

from app.pipeline.params import DEMO_MODEL
from app.pipeline.sources import read_model

JUDGED = HERE / "judged_features.json"
SAMPLES = 10_000
PARTS = {"chosen on": ("chosen on",), "held out": ("held out",), "all": ("chosen on", "held out")}


def measures(feature: Mapping[str, Any], judged: Mapping[str, Any], embeddings: Any, word: Any) -> dict[str, float]:
    """Return every measure of one feature by name."""
    tokens = [token for band in feature["tokens"] for token in band]
    others = ~np.eye(len(tokens), dtype=bool)
    cosines = embeddings[tokens] @ embeddings[tokens].T
    same = word[tokens][:, None] == word[tokens]
    similarity = float(cosines[others].mean())
    by_word = float(np.where(same, 1, cosines)[others].mean())
    counts = np.array([judged["counts"][str(token)] for token in tokens])
    token_bits, word_bits = np.log2(judged["index_tokens"] / counts).mean(axis=0)
    bands = [np.unique(word[band], return_counts=True)[1].max() / len(band) for band in feature["tokens"] if band]
    return {
        "coherence: mean similarity × bits of words": similarity * word_bits,
        "the same, all spellings of a word alike (1)": by_word * word_bits,
        "the same, bits of tokens": similarity * token_bits,
        "mean similarity alone": similarity,
        "the same, all spellings alike (1)": by_word,
        "share of the first top token": feature["first_token_share"],
        "share of a band's most frequent word, mean of bands": float(np.mean(bands)),
        "topic lift": feature["topic_lift"],
        "density": feature["density"],
    }


def agreement(measured: NDArray[np.float64], judged: NDArray[np.int64]) -> dict[str, Any]:
    """Return Spearman's rho of a measure and judgements, with its bootstrap interval."""
    random = np.random.default_rng(0)
    drawn = (random.integers(0, len(judged), len(judged)) for _ in range(SAMPLES))
    sampled = [_rho(measured[rows], judged[rows]) for rows in drawn]
    low, high = np.nanpercentile(sampled, (2.5, 97.5))
    return {"rho": _rho(measured, judged), "low": float(low), "high": float(high), "n": len(judged)}


def _rho(measured: NDArray[np.float64], judged: NDArray[np.int64]) -> float:
    return float(spearmanr(measured, judged)[0]) if len(set(judged.tolist())) > 1 else math.nan


def main() -> None:
    """Measure, print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("home", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    judged = json.loads(JUDGED.read_text(encoding="utf-8"))
    model = read_model(
        DEMO_MODEL, device="cpu", cache=options.home / "cache", converted=options.home / "artifacts" / "models"
    )
    tokens = model.input_tokens()
    centred = (tokens.embeddings - tokens.embeddings.mean(0)).double().numpy()
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    features = list(judged["features"].values())
    found = [measures(feature, judged, unit, tokens.spellings) for feature in features]
    table: dict[str, dict[str, Any]] = {}
    for name in found[0]:
        table[name] = {}
        for part, of in PARTS.items():
            rows = [row for row, feature in enumerate(features) if feature["part"] in of]
            values, scores = np.array([found[row][name] for row in rows]), [features[row]["judged"] for row in rows]
            table[name][part] = agreement(values, np.array(scores))
        cells = (f"{each['rho']:5.2f} ({each['low']:5.2f} to {each['high']:5.2f})" for each in table[name].values())
        print(f"{name:52s} {' | '.join(cells)}")
    if options.json:
        figures = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "spearman": table}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
