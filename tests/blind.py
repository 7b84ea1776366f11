"""Made-up activations as an activation store, for blind tests, which are drawn from one."""

from pathlib import Path

from app.artifacts import Artifacts, store_key
from sae_core.corpora import CorpusInfo, DocumentInfo, Sequences
from sae_core.saes import SAEConfig
from sae_core.store.activation_store import ActivationStore, build_store
from tests.core.statistics import small
from tests.factories import Synthetic

OPTIONS = {"features": 24, "sequences": 900, "length": 64}
"""Of `make_sae`: a corpus large enough for tests of most of its features."""
FEW_TOKENS = 13
"""A feature of few tokens, with windows in which those leave it silent."""


def make_store(made: Synthetic, folder: Path) -> ActivationStore:
    """Write the activation store of made-up features."""
    corpus, features = made.corpus, made.features
    documents = [DocumentInfo(title, topic) for title, topic in zip(corpus.titles, corpus.topics, strict=True)]
    info = CorpusInfo("made", "Made", "made.json", None, None, "0" * 64)
    sequences = Sequences(
        corpus.token_ids.shape[1], 0, corpus.token_ids, corpus.counted, corpus.document_of, documents, info, "1" * 64
    )
    dense = features.activations.transpose(1, 2, 0)
    sae = small.Identity(SAEConfig(d_in=dense.shape[2], d_sae=dense.shape[2]))
    return build_store(sae, small.Cut(dense), sequences, folder)


def keep_store(made: Synthetic, artifacts: Path) -> None:
    """Write the store where the inference process looks for it."""
    assert made.sae.index is not None
    make_store(made, Artifacts(artifacts).index(store_key(made.sae, made.sae.index.sequence_set.sha256)))
