"""A real index of a small SAE, published and then read as users do: in the API, an export and a page.

The test of a new statistic runs this module in a copy of the project, to which the statistic was added.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_engine, create_sessionmaker, transaction
from app.exchange.features import export_features
from app.exchange.jsonl import FEATURES, write_jsonl
from app.pipeline.db_rows import example_rows, feature_rows, unpadded
from app.queries.corpora import CorpusRow, DocumentRow, SequenceSetRow, register_corpus, register_sequences
from app.queries.models import ModelRow, register_model
from app.queries.publish import publish_index
from app.queries.saes import SaeRow, register_sae
from app.schema import upgrade
from app.settings import Settings
from sae_core.models import InputTokens, OutputDirections
from sae_core.statistics.compute import compute_statistics
from sae_core.store.activation_store import build_store
from tests.core.statistics import small
from tests.web.site import site

OUTPUT_TOKENS = 50


async def publish_small(engine: AsyncEngine, slug: str, folder: Path) -> None:
    """Compute the statistics of the small SAE of the tests, and publish them as those of the SAE `slug`."""
    sequences, sae = small.small_sequences(), small.small_sae()
    store = build_store(sae, small.Cut(small.small_activations(sequences)), sequences, folder)
    directions = torch.randn(small.FEATURES, OUTPUT_TOKENS, generator=torch.Generator().manual_seed(2))
    output = OutputDirections(directions, torch.arange(OUTPUT_TOKENS))
    embeddings = torch.randn(OUTPUT_TOKENS, small.FEATURES, generator=torch.Generator().manual_seed(3))
    tokens = InputTokens(embeddings, np.arange(OUTPUT_TOKENS))
    statistics = compute_statistics(store, sequences, sae, output, tokens)
    async with transaction(create_sessionmaker(engine)) as session:
        model = await register_model(
            session,
            ModelRow(
                name="small",
                source="tests",
                n_layers=1,
                d_model=small.FEATURES,
                vocab_size=OUTPUT_TOKENS,
                weights_sha256="0" * 64,
                tokenizer_sha256=sequences.tokenizer_sha256,
                bos_token_id=1,
            ),
            token_bytes=[f" t{number}".encode() for number in range(OUTPUT_TOKENS)],
            special_token_ids={0, 1},
        )
        corpus = await register_corpus(
            session,
            CorpusRow(
                slug="small",
                title="Small",
                source="tests",
                licence="CC0-1.0",
                attribution="",
                sha256=sequences.corpus.sha256,
                documents=len(sequences.documents),
            ),
        )
        sequence_set = await register_sequences(
            session,
            SequenceSetRow(
                corpus_id=corpus.id,
                model_id=model.id,
                length=sequences.length,
                tokens=sequences.n_counted,
                sha256=sequences.sha256,
            ),
            documents=[DocumentRow(document.title, document.topic) for document in sequences.documents],
            sequences=list(unpadded(sequences)),
        )
        registered = await register_sae(
            session,
            SaeRow(
                slug=slug,
                model_id=model.id,
                hook="resid_post.0",
                architecture="standard",
                d_in=small.FEATURES,
                d_sae=small.FEATURES,
                k=None,
                artifact=slug,
                weights_sha256="0" * 64,
                config={},
                metrics={},
                created_by="tester",
            ),
        )
    await publish_index(
        engine,
        sae_id=registered.id,
        sequence_set_id=sequence_set.id,
        tokens=statistics.tokens,
        topics=statistics.topic_names,
        provenance=statistics.provenance,
        features=feature_rows(statistics),
        examples=example_rows(statistics),
    )


async def read(database_url: str, home: Path, slug: str, feature: int) -> dict[str, Any]:
    """Return the features of an SAE as database, API, export and page give them."""
    engine = create_engine(database_url)
    async with engine.connect() as connection:
        query = (
            "SELECT feature.* FROM feature JOIN sae ON current_index_id = index_id WHERE slug = :slug ORDER BY number"
        )
        rows = [dict(row) for row in (await connection.execute(text(query), {"slug": slug})).mappings()]
    async with site(Settings(database_url=database_url, home=home)) as client:
        api = [(await client.get(f"/api/v1/saes/{slug}/features/{row['number']}")).json() for row in rows]
        page = (await client.get(f"/saes/{slug}/features/{feature}")).text
    folder = home / f"export-{slug}"
    await export_features(create_sessionmaker(engine), slug, write_jsonl, folder, progress=lambda done, total: None)
    lines = [json.loads(line) for line in (folder / FEATURES).read_text(encoding="utf-8").splitlines()]
    await engine.dispose()
    return {"database": rows, "api": api, "export": lines, "page": page}


async def main(database_url: str, old: str, new: str, feature: int) -> None:
    """Migrate, publish an index as the SAE `new`, and print what there is of both as JSON."""
    upgrade(database_url)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        engine = create_engine(database_url, statement_timeout=None)
        await publish_small(engine, new, home / "store")
        await engine.dispose()
        print(json.dumps({slug: await read(database_url, home, slug, feature) for slug in (old, new)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
