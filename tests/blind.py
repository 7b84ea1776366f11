"""Made-up activations as an activation store, for blind tests, which are drawn from one."""

from pathlib import Path

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from app.artifacts import Artifacts, store_key
from app.queries.blind_tests import NewTest, StoredItem, create_test
from app.queries.label_sets import ensure_set
from app.queries.labels import LabelView
from app.services.actors import Actor, ensure_person
from app.services.blind_items import BlindKind
from app.services.blind_tests import answer_test
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


async def add_test(
    session: AsyncSession,
    made: Synthetic,
    kind: BlindKind,
    *,
    label: LabelView | None = None,
    first: int = 0,
    testers: tuple[str, ...] = (),
) -> int:
    """Keep a test that hopper made of the sequences from `first` on; the testers answer yes, or the first text."""
    label_set = await ensure_set(session, made.sae.id)
    feature = FEW_TOKENS if label is None else label.feature
    assert made.sae.index is not None
    new = NewTest(
        label_set_id=label_set.id,
        feature=feature,
        kind=kind,
        label_id=None if label is None else label.id,
        explanation=None if label is None else label.explanation,
        items=5 if kind == "intruder" else 20,
        index_id=made.sae.index.id,
        seed=1,
        created_by=await ensure_person(session, Actor("hopper")),
    )
    sequences = iter(range(first, len(made.corpus.token_ids)))
    items = []
    for number in range(new.items):
        chosen = [next(sequences) for _ in range(5 if kind == "intruder" else 1)]
        active = [np.flatnonzero(made.features.activations[feature, one, :32]).tolist() for one in chosen]
        shown = [
            {"token_ids": made.corpus.token_ids[one, :32].tolist(), "marked": [] if kind == "detection" else [2, 5]}
            for one in chosen
        ]
        hidden = [
            {"sequence": one, "start": 0, "active": places, "values": [1.0 + place for place in places]}
            for one, places in zip(chosen, active, strict=True)
        ]
        items.append(StoredItem(shown, hidden, number % 2, "band_3" if number % 2 else "random"))
    test_id = await create_test(session, new, items)
    for tester in testers:
        await answer_test(session, test_id, Actor(tester), [0 if kind == "intruder" else 1] * new.items)
    return test_id
