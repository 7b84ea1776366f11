"""A tiny model and a random SAE on it, on disk and as database rows."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from sqlalchemy.ext.asyncio import AsyncEngine
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from app.artifacts import Artifacts, store_key
from app.db import create_sessionmaker, transaction
from app.inference import loading
from app.pipeline.db_rows import unpadded
from app.queries.corpora import CorpusRow, DocumentRow, SequenceSetRow, register_corpus, register_sequences
from app.queries.models import ModelInfo, ModelRow, register_model
from app.queries.publish import FeatureStatisticsRow, publish_index
from app.queries.saes import SaeDetail, SaeRow, get_sae, register_sae
from app.services.inference_messages import SaeRef
from app.settings import Settings
from sae_core.checkpoints import save_sae
from sae_core.corpora import CorpusInfo, DocumentInfo, Sequences
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.saes import SAE, TopK
from sae_core.saes.topk import TopKConfig
from sae_core.statistics.spec import STATISTICS
from sae_core.store.activation_store import build_store
from tests.tiny import documents, tiny_model

loading.PATIENCE = 60.0
"""Tests that probe wait for their model, which takes seconds on a busy machine; test_loading sets its own."""

HOOK = HookPoint("resid_post", 2)
SLUG = "tiny-l2-topk-64"


@dataclass(frozen=True)
class Dictionary:
    """A model with an SAE: loaded, for the test to compute with, and as a row of the database."""

    model: LanguageModel
    sae: SAE
    row: SaeDetail
    settings: Settings

    @property
    def ref(self) -> SaeRef:
        """As a request names the SAE."""
        return SaeRef.of(self.row)


def random_sae(d_in: int, *, d_sae: int = 64, k: int = 8, seed: int = 0) -> TopK:
    generator = torch.Generator().manual_seed(seed)
    sae = TopK(TopKConfig(d_in=d_in, d_sae=d_sae, k=k))
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=generator))
        sae.W_dec.copy_(sae.W_enc.t())
        sae.b_dec.copy_(torch.randn(d_in, generator=generator) / 10)
    return sae


def make_dictionary(home: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Dictionary:
    """Make them in `home`; `tokenizer` replaces the model's own."""
    source = tiny_model(home / "model")
    if tokenizer is not None:
        tokenizer.save_pretrained(source)
    model = load_model(source, device="cpu", name="tiny")
    sae = random_sae(model.d_model)
    settings = Settings(home=home, device="cpu", probe_max_tokens=100)
    save_sae(sae, settings.artifacts / "saes" / SLUG, {"model_name": "tiny", "hook_name": HOOK.transformer_lens})
    now = datetime.now(UTC)
    info = ModelInfo(
        id=1,
        name="tiny",
        source=str(source),
        n_layers=model.n_layers,
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        bos_token_id=model.bos_token_id,
        created_at=now,
    )
    row = SaeDetail(
        id=1,
        slug=SLUG,
        model=info,
        hook=str(HOOK),
        hook_out=None,
        architecture="topk",
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k,
        artifact=f"saes/{SLUG}",
        weights_sha256="0" * 64,
        config={},
        metrics={},
        created_by="tester",
        created_at=now,
        index=None,
        labelled=0,
    )
    return Dictionary(model, sae, row, settings)


CORPUS = [document["text"][:230] for document in documents()]


def activations(dictionary: Dictionary, text: str) -> Tensor:
    """[position, d_sae] activations of the SAE, 0 on special tokens."""
    token_ids = torch.tensor([dictionary.model.tokenize(text)])
    f = dictionary.sae.encode(dictionary.model.activations(token_ids, HOOK)[0]).detach()
    f[[token_id in dictionary.model.special_token_ids for token_id in token_ids[0].tolist()]] = 0
    return f


def packed(dictionary: Dictionary) -> Sequences:
    """`CORPUS`, one sequence per text."""
    texts = [dictionary.model.tokenize(text) for text in CORPUS]
    shape = len(texts), max(map(len, texts))
    token_ids, counted, document_of = np.zeros(shape, np.int32), np.zeros(shape, bool), np.full(shape, -1, np.int32)
    for number, ids in enumerate(texts):
        token_ids[number, : len(ids)] = ids
        counted[number, : len(ids)] = [token not in dictionary.model.special_token_ids for token in ids]
        document_of[number, : len(ids)] = number
    documents = [DocumentInfo(f"text {number}", "Letters") for number in range(len(texts))]
    corpus = CorpusInfo("tiny", "Tiny", "tests", None, None, "2" * 64)
    return Sequences(shape[1], 0, token_ids, counted, document_of, documents, corpus, dictionary.model.tokenizer_sha256)


class _Shards:
    """The activations of all sequences, as one shard."""

    n_shards = 1

    def __init__(self, dictionary: Dictionary, sequences: Sequences) -> None:
        self.x = dictionary.model.activations(torch.from_numpy(sequences.token_ids), HOOK)

    def rows(self, index: int, /) -> range:
        return range(len(self.x))

    def shard(self, index: int, /) -> tuple[slice, Tensor]:
        return slice(0, len(self.x)), self.x


EARLY_SLUG = "tiny-l1-topk-64"


def link_files(dictionary: Dictionary, folder: Path) -> Path:
    """Link model and SAEs into `folder`, where the Python of pages finds them by their names; returns it."""
    source = Path(dictionary.model.source)
    (folder / source.name).symlink_to(source)
    (folder / "saes").symlink_to(dictionary.settings.artifacts / "saes")
    return folder


async def add_early_sae(engine: AsyncEngine, dictionary: Dictionary, model_id: int) -> SaeDetail:
    """Register a second SAE of the model, one layer earlier, with weights and without an index."""
    sae, hook = random_sae(dictionary.model.d_model, seed=1), HookPoint("resid_post", 1)
    artifact = f"saes/{EARLY_SLUG}"
    info = {"model_name": "tiny", "hook_name": hook.transformer_lens}
    save_sae(sae, dictionary.settings.artifacts / artifact, info)
    async with transaction(create_sessionmaker(engine)) as session:
        return await register_sae(
            session,
            SaeRow(
                slug=EARLY_SLUG,
                model_id=model_id,
                hook=str(hook),
                architecture="topk",
                d_in=sae.d_in,
                d_sae=sae.d_sae,
                k=sae.k,
                artifact=artifact,
                weights_sha256="1" * 64,
                config={},
                metrics={},
                created_by="tester",
            ),
        )


async def publish(engine: AsyncEngine, dictionary: Dictionary, *, with_store: bool = False) -> SaeDetail:
    """Register model and SAE, and publish an index of `CORPUS` with histograms and little else.

    `with_store` also writes the activation store, where an index run leaves it.
    """
    row, model = dictionary.row, dictionary.model
    packing = packed(dictionary)
    if with_store:
        key = store_key(row, packing.sha256)
        folder = Artifacts(dictionary.settings.artifacts).index(key)
        build_store(dictionary.sae, _Shards(dictionary, packing), packing, folder)
    f = torch.cat([activations(dictionary, text) for text in CORPUS])
    async with transaction(create_sessionmaker(engine)) as session:
        registered = await register_model(
            session,
            ModelRow(
                name=row.model.name,
                source=row.model.source,
                n_layers=model.n_layers,
                d_model=model.d_model,
                vocab_size=model.vocab_size,
                weights_sha256=model.weights_sha256,
                tokenizer_sha256=model.tokenizer_sha256,
                bos_token_id=model.bos_token_id,
            ),
            token_bytes=model.token_bytes(),
            special_token_ids=model.special_token_ids,
        )
        corpus = await register_corpus(
            session,
            CorpusRow(
                slug="tiny",
                title="Tiny",
                source="tests",
                licence="CC0-1.0",
                attribution="",
                sha256="2" * 64,
                documents=len(CORPUS),
            ),
        )
        sequences = await register_sequences(
            session,
            SequenceSetRow(
                corpus_id=corpus.id, model_id=registered.id, length=packing.length, tokens=len(f), sha256=packing.sha256
            ),
            documents=[DocumentRow(document.title, document.topic) for document in packing.documents],
            sequences=list(unpadded(packing)),
        )
        sae = await register_sae(
            session,
            SaeRow(
                slug=row.slug,
                model_id=registered.id,
                hook=row.hook,
                architecture=row.architecture,
                d_in=row.d_in,
                d_sae=row.d_sae,
                k=row.k,
                artifact=row.artifact,
                weights_sha256=row.weights_sha256,
                config={},
                metrics={},
                created_by="tester",
            ),
        )
    await publish_index(
        engine,
        sae_id=sae.id,
        sequence_set_id=sequences.id,
        tokens=len(f),
        topics=[],
        provenance={},
        features=[_statistics(number, f[:, number]) for number in range(sae.d_sae)],
        examples=[],
    )
    async with transaction(create_sessionmaker(engine)) as session:
        published = await get_sae(session, row.slug)
    assert published is not None
    return published


def _statistics(number: int, f: Tensor) -> FeatureStatisticsRow:
    active = f[f > 0]
    maximum = active.max().item() if len(active) else 0.0
    empty: dict[str, list[int]] = {statistic.name: [] for statistic in STATISTICS if statistic.required}
    return FeatureStatisticsRow(
        **empty
        | {
            "number": number,
            "count": len(active),
            "density": len(active) / len(f),
            "max": maximum,
            "mean": active.mean().item() if len(active) else 0.0,
            "histogram": torch.histc(active, bins=50, min=0, max=maximum).int().tolist(),
        }
    )
