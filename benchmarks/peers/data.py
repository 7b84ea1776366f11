"""Make the data that all sides read: activations to train on, and a corpus with an SAE for the dashboards.

python data.py '{"activations": FILE}'                    65,536 rows to train on and 8,192 held out
python data.py '{"activations": FILE, "dashboard": DIR}'  tokens, activations and SAEs for the dashboards
"""

import json
import sys
from itertools import islice
from pathlib import Path

import protocol
import torch
from safetensors.torch import load_file, save_file
from train_ours import Ours

from app.pipeline.sources import read_corpus, read_model
from app.settings import Settings
from sae_core import ActivationCache, HookPoint, LanguageModel, pack, save_sae
from sae_core.corpora import Corpus, Sequences

MODEL, CORPUS, HOOK = "smollm2-135m", "wikipedia-summaries", "resid_post.9"
LENGTH = 128
TRAIN_ROWS, HELD_OUT_ROWS = 65_536, 8_192
DASHBOARD_SEQUENCES = 128
SAE_STEPS = 32
SAE_KINDS = ("batchtopk", "topk")


def material() -> tuple[LanguageModel, Corpus]:
    """The demo's model and corpus, from the cache under SEESAE_HOME or fetched to it."""
    home = Settings().home
    model = read_model(MODEL, device="cpu", cache=home / "cache", converted=home / "artifacts" / "models")
    return model, read_corpus(CORPUS, cache=home / "cache")


def make_activations(file: Path) -> None:
    """The counted rows of the corpus' first sequences; the held-out ones come after those to train on."""
    model, corpus = material()
    tokens = int(1.05 * (TRAIN_ROWS + HELD_OUT_ROWS))
    sequences = pack(corpus, model, length=LENGTH, max_tokens=tokens, seed=protocol.SEED)
    cache = ActivationCache.build(model, HookPoint.parse(HOOK), sequences, file.parent / "cache")
    counted = torch.from_numpy(sequences.counted)
    rows = torch.cat([cache.shard(i)[1][counted[cache.shard(i)[0]]] for i in range(cache.n_shards)])
    held_out = rows[TRAIN_ROWS : TRAIN_ROWS + HELD_OUT_ROWS]
    assert len(held_out) == HELD_OUT_ROWS, "the corpus has too few tokens"
    save_file({"train": rows[:TRAIN_ROWS].clone(), "held_out": held_out.clone()}, file)


def make_dashboard(activations: Path, folder: Path) -> None:
    """Sequences, their activations and SAEs, for us and in the form that SAEDashboard reads."""
    model, corpus = material()
    packed = pack(corpus, model, length=LENGTH, max_tokens=2 * DASHBOARD_SEQUENCES * LENGTH, seed=protocol.SEED)
    sequences = Sequences(
        **{
            **vars(packed),
            **{
                name: getattr(packed, name)[:DASHBOARD_SEQUENCES].copy()
                for name in ("token_ids", "counted", "document_of")
            },
        }
    )
    sequences.save(folder / "sequences")
    cache = ActivationCache.build(model, HookPoint.parse(HOOK), sequences, folder / "cache")
    for kind in SAE_KINDS:
        train_sae(kind, activations, folder / f"sae-{kind}")
    # SAEDashboard's own cache of activations: files of 64 sequences, its default, which are our shards' size too.
    hook = HookPoint.parse(HOOK).transformer_lens
    for i in range(cache.n_shards):
        peer = folder / "peer"
        peer.mkdir(parents=True, exist_ok=True)
        torch.save({hook: cache.shard(i)[1].clone()}, peer / f"model_activations_{i}.pt")
    directions = model.output_directions().by_token.contiguous()
    token_ids = torch.from_numpy(sequences.token_ids).long()
    save_file({"token_ids": token_ids, "W_U": directions}, folder / "peer.safetensors")


def train_sae(kind: str, activations: Path, folder: Path) -> None:
    """An SAE after a few steps, as its inference form (of BatchTopK, a JumpReLU), in SAELens' layout."""
    train = load_file(activations)["train"]
    settings = {"architecture": kind, "d_sae": 8192, "k": 32, "batch_size": 2048, "recipe": "own"}
    ours = Ours({**settings, "samples": SAE_STEPS * 2048}, train[:16384])
    for x in islice(protocol.batches(train, 2048), SAE_STEPS):
        ours.step(x)
    save_sae(ours.state.finished(), folder, {"model_name": MODEL, "hook_name": HookPoint.parse(HOOK).transformer_lens})


if __name__ == "__main__":
    paths = {name: Path(value) for name, value in json.loads(sys.argv[1]).items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    if not paths["activations"].exists():
        make_activations(paths["activations"])
    if "dashboard" in paths:
        make_dashboard(paths["activations"], paths["dashboard"])
