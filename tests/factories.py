"""Made-up SAEs, published through the real queries, for the tests of everything that reads the database.

To look at pages against a database full of them: `python -m tests.factories --home FOLDER`, then
`SEESAE_HOME=FOLDER seesae web`.
"""

import argparse
import asyncio
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_engine, create_sessionmaker, transaction
from app.queries.corpora import CorpusRow, DocumentRow, SequenceSetRow, register_corpus, register_sequences
from app.queries.feature_maps import put_map
from app.queries.labels import LabelText, LabelView
from app.queries.models import ModelRow, register_model
from app.queries.publish import FeatureStatisticsRow, publish_index
from app.queries.runs import (
    MetricPoint,
    RunView,
    Stage,
    append_metrics,
    create_run,
    fail_run,
    finish_run,
    start_run,
    update_progress,
)
from app.queries.saes import SaeDetail, SaeRow, get_sae, register_sae
from app.schema import upgrade
from app.services.actors import Actor
from app.services.labels import save_label
from app.supervision.embedded_postgres import database
from app.tables import Sae
from tests.probing import probing
from tests.synthetic import END, Corpus, Features, make_corpus, make_features

METRICS = {
    "explained_variance": 0.812,
    "l0": 31.7,
    "mse": 0.0421,
    "cosine": 0.934,
    "ce_recovered_mean": 0.961,
    "probing": probing(
        **{
            "wikipedia-topics": {"activations": (-0.1, -0.15, -0.05)},
            "imdb": {"random": (0.02, -0.08, 0.1), "activations": (-0.2, -0.3, -0.1)},
        }
    ),
}


@dataclass(frozen=True)
class Synthetic:
    """A published SAE, and the truth about it."""

    sae: SaeDetail
    corpus: Corpus
    features: Features


async def make_sae(
    engine: AsyncEngine,
    *,
    slug: str = "tiny-l1-batchtopk-24",
    features: int = 24,
    sequences: int = 40,
    length: int = 32,
    seed: int = 0,
    publish: bool = True,
    coherence: Sequence[float | None] | None = None,
) -> Synthetic:
    """An SAE of made-up features, committed: registered with its model and corpus, and its index published.

    Without `coherence`, one value per feature, the index is one from before there was such a statistic.
    """
    corpus = make_corpus(sequences=sequences, length=length, seed=seed)
    made = make_features(corpus, n=features, seed=seed)
    async with transaction(create_sessionmaker(engine)) as session:
        sae, sequence_set_id = await _register(session, slug, corpus, features)
    if publish:
        await publish_features(engine, sae, sequence_set_id, made, coherence)
    async with transaction(create_sessionmaker(engine)) as session:
        found = await get_sae(session, slug)
        assert found is not None
        if publish:
            places = np.random.default_rng(seed).normal(size=(2, features))
            await put_map(session, found, *places.tolist(), {"method": "made up", "seed": seed})
    return Synthetic(found, corpus, made)


async def publish_features(
    engine: AsyncEngine,
    sae: SaeDetail,
    sequence_set_id: int,
    features: Features,
    coherence: Sequence[float | None] | None = None,
) -> int:
    """Publish an index of `features`; another seed is another provenance."""
    rows = features.rows()
    if coherence is not None:
        both = zip(rows, coherence, strict=True)
        rows = [FeatureStatisticsRow(**vars(row), coherence=value) for row, value in both]
    return await publish_index(
        engine,
        sae_id=sae.id,
        sequence_set_id=sequence_set_id,
        tokens=features.tokens,
        topics=features.topic_names,
        provenance={"seed": features.seed, "code": "synthetic", "dense_above": 0.1, "left_out": ["BOS"]},
        features=rows,
        examples=features.examples(),
    )


async def _register(session: AsyncSession, slug: str, corpus: Corpus, features: int) -> tuple[SaeDetail, int]:
    sha256 = hashlib.sha256(corpus.token_ids.tobytes()).hexdigest()
    model = await register_model(
        session,
        ModelRow(
            name="tiny",
            source="tests/synthetic.py",
            n_layers=2,
            d_model=16,
            vocab_size=len(corpus.vocabulary),
            weights_sha256="0" * 64,
            tokenizer_sha256="1" * 64,
            bos_token_id=END,
        ),
        token_bytes=corpus.vocabulary,
        special_token_ids={END},
    )
    registered = await register_corpus(
        session,
        CorpusRow(
            slug=f"sentences-{sha256[-8:]}",
            title="Made-up sentences",
            source="tests/synthetic.py",
            licence="CC0-1.0",
            attribution="Nobody wrote these sentences.",
            sha256=sha256,
            documents=len(corpus.titles),
        ),
    )
    sequences = await register_sequences(
        session,
        SequenceSetRow(
            corpus_id=registered.id,
            model_id=model.id,
            length=corpus.token_ids.shape[1],
            tokens=int(corpus.counted.sum()),
            sha256=sha256,
        ),
        documents=[DocumentRow(title, topic) for title, topic in zip(corpus.titles, corpus.topics, strict=True)],
        sequences=list(zip(corpus.token_ids.tolist(), corpus.document_of.tolist(), strict=True)),
    )
    sae = await register_sae(
        session,
        SaeRow(
            slug=slug,
            model_id=model.id,
            hook="resid_post.1",
            architecture="batchtopk",
            d_in=16,
            d_sae=features,
            k=4,
            artifact=f"saes/{slug}",
            weights_sha256=hashlib.sha256(slug.encode()).hexdigest(),
            config={"architecture": "batchtopk", "d_sae": features, "k": 4, "lr": 2e-4},
            metrics=METRICS,
            created_by="ada",
        ),
    )
    return sae, sequences.id


async def add_label(
    session: AsyncSession,
    sae: SaeDetail,
    feature: int,
    explanation: str,
    *,
    author: str = "ada",
    status: str = "submitted",
    categories: tuple[str, ...] = (),
) -> LabelView:
    """A first label by `author`."""
    text = LabelText(explanation, categories=categories, interpretability=4, confidence=3, status=status)
    return await save_label(session, sae, feature, actor=Actor(author), text=text, expected_version=None)


async def add_run(
    session: AsyncSession, sae: SaeDetail | None = None, *, steps: int = 60, ends: str = "done"
) -> RunView:
    """A training run with curves; `ends` is "done", "failed" or "running" (half-way)."""
    total = 100_000
    share = 1.0 if ends == "done" else 0.5
    stages = [
        Stage("tokenise", "Tokenise the corpus", "done", total, total, "tokens", 4.2),
        Stage(
            "train", "Train the SAE", "done" if ends == "done" else "running", int(total * share), total, "tokens", 71.0
        ),
        Stage(
            "index",
            "Index the features",
            "done" if ends == "done" else "waiting",
            int(total * (share == 1)),
            total,
            "tokens",
        ),
    ]
    run = await create_run(
        session,
        kind="train",
        title=f"Train {sae.slug}" if sae else "Train",
        params={"architecture": "batchtopk", "d_sae": 24, "k": 4, "samples": total},
        stages=stages,
        created_by="ada",
        sae_id=sae and sae.id,
    )
    if sae is not None:
        noted = Sae.config.concat({"run": run.id})
        await session.execute(update(Sae).where(Sae.id == sae.id).values(config=noted))
    await start_run(session, run.id)
    await update_progress(session, run.id, stages)
    await append_metrics(session, run.id, [_point(step, steps) for step in range(int(steps * share))])
    if ends == "done":
        await finish_run(session, run.id, {"explained_variance": 0.81, "seconds": {"train": 71.0}})
    elif ends == "failed":
        await fail_run(session, run.id, "The loss is no longer a number at step 31: lower the learning rate.")
    return run


def _point(step: int, steps: int) -> MetricPoint:
    left = math.exp(-5 * step / steps) + 0.01 * math.sin(step * 1.7)
    return MetricPoint(
        step * 50,
        {
            "loss": 0.19 + 0.8 * left,
            "explained_variance": 0.81 - 0.8 * left,
            "l0": 32 + 40 * left * left,
            "dead_fraction": 0.3 * max(0.0, left - 0.1),
            "lr": 2e-4,
        },
    )


LABELS = (
    (0, "Words for music: instruments, forms, performers", "ada", ("topic",)),
    (0, "Music vocabulary, strongest on instruments", "grace", ("topic", "music")),
    (1, "Biology: organisms and their parts", "ada", ("topic",)),
    (2, "Geographical features such as rivers and harbours", "grace", ("topic",)),
    (8, "First pieces of given names", "ada", ("names", "syntax")),
    (9, "Digits of years", "ada", ("numbers",)),
    (10, "White space and line ends", "grace", ("layout",)),
)


async def fill(engine: AsyncEngine, *, features: int = 256) -> SaeDetail:
    """Two SAEs, one of them without an index yet, with labels and runs, to look at pages against."""
    made = await make_sae(engine, slug=f"tiny-l1-batchtopk-{features}", features=features, sequences=600, length=64)
    bare = await make_sae(engine, slug="tiny-l1-topk-64", features=64, sequences=600, length=64, publish=False)
    async with transaction(create_sessionmaker(engine)) as session:
        for feature, explanation, author, categories in LABELS:
            await add_label(session, made.sae, feature, explanation, author=author, categories=categories)
        await add_run(session, made.sae)
        await add_run(session, bare.sae, ends="failed")
        await add_run(session, bare.sae, ends="running")
    return made.sae


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill an embedded database with a made-up SAE.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--features", type=int, default=256)
    arguments = parser.parse_args()

    async def run(url: str) -> None:
        engine = create_engine(url, statement_timeout=None)
        sae = await fill(engine, features=arguments.features)
        print(f"/saes/{sae.slug}")
        await engine.dispose()

    with database(arguments.home, None) as url:
        upgrade(url)
        asyncio.run(run(url))


if __name__ == "__main__":
    main()
