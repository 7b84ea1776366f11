"""How well do estimates of attribution agree with exact ablation? On real prompts, with intervals over prompts.

    python benchmarks/attribution.py MODEL SAE resid_post.9

For every prompt and both targets (the best token's logit; its difference to the second) it ablates the strongest
features at tokens of each method, and a random sample of all active ones, which no estimate chose.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from sae_core import HookPoint, LanguageModel, load_model, load_sae
from sae_core.attribution import METHODS, HookedSAE, Nodes, Target, ablate, attribute, rank_correlation

PROMPTS = (
    "The capital of France is",
    "The capital of Japan is the city of",
    "The Eiffel Tower is in the city of",
    "Water freezes at zero degrees",
    "The opposite of hot is",
    "Two plus two equals",
    "She picked up the phone and called her",
    "The doctor told the patient to take the",
    "In 1969, astronauts first walked on the",
    "The sun rises in the east and sets in the",
    "William Shakespeare wrote the play Romeo and",
    "The largest ocean on Earth is the Pacific",
    "He opened the door with a",
    "The chemical symbol for gold is",
    "Once upon a time there was a little",
    "The president of the United States lives in the White",
    "The dog chased the cat up the",
    "Monday, Tuesday, Wednesday,",
    "The French Revolution began in the year",
    "Albert Einstein developed the theory of",
    "The cat sat on the",
    "To be or not to be, that is the",
    "The train was late, so they missed their",
    "Germany and Italy were allies of Japan in the Second World",
)
STRONGEST, SAMPLE = 20, 60


def measure(model: LanguageModel, sae: HookedSAE, prompt: str, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield the correlations of one prompt, one row per target."""
    ids = torch.tensor(model.tokenize(prompt))
    uncounted = model.special_token_ids | {model.bos_token_id}
    counted = np.array([int(token) not in uncounted for token in ids])
    best, second = model.last_logits(ids[None], {})[0].topk(2).indices.tolist()
    for kind, target in (("logit", Target(best)), ("difference", Target(best, second))):
        row: dict[str, object] = {"prompt": prompt, "target": kind}
        found = {method: attribute(model, [sae], ids, target, counted=counted, method=method) for method in METHODS}
        nodes = found["gradient"].nodes
        sample = nodes[rng.choice(len(nodes), min(SAMPLE, len(nodes)), replace=False)]
        exact = ablate(model, [sae], ids, target, sample)
        for method, attribution in found.items():
            top = attribution.nodes[:STRONGEST]
            row[f"{method}, strongest"] = rank_correlation(top.attributions, ablate(model, [sae], ids, target, top))
            row[f"{method}, sample"] = rank_correlation(_estimates(attribution.nodes, sample), exact)
            row[f"{method}, explained"] = attribution.explained
        yield row


def _estimates(nodes: Nodes, sample: Nodes) -> np.ndarray:
    """Return the attributions of `nodes` at the features and positions of `sample`."""
    places = {pair: place for place, pair in enumerate(zip(nodes.features, nodes.positions, strict=True))}
    chosen = [places[pair] for pair in zip(sample.features, sample.positions, strict=True)]
    return nodes.attributions[np.array(chosen)]


def main() -> None:
    """Print one line per figure, and write all rows beside it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("sae", type=Path)
    parser.add_argument("hook")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args()
    model, hook = load_model(arguments.model, device="cpu"), HookPoint.parse(arguments.hook)
    sae = HookedSAE(load_sae(arguments.sae).for_inference(), hook, hook)
    rng = np.random.default_rng(0)
    rows = [row for prompt in PROMPTS for row in measure(model, sae, prompt, rng)]
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for kind in ("logit", "difference"):
        for name in [name for name in rows[0] if name not in ("prompt", "target")]:
            values = np.array([row[name] for row in rows if row["target"] == kind], dtype=float)
            low, high = scipy.stats.bootstrap((values,), np.mean, random_state=0).confidence_interval
            print(f"{kind:10}  {name:22}  {values.mean():.3f}  {low:.3f} to {high:.3f}  {len(values)} prompts")


if __name__ == "__main__":
    main()
