"""`seesae bench web`: a site over many features in a scratch database, and people who browse it.

The web process is the one that `seesae serve` runs, on loopback; the clients run in this process. Server time is what
the web process itself says in `Server-Timing`: from the first byte of a request read to its answer being ready, with
every wait for the database or for other requests in it.
"""

import asyncio
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import psutil
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from app.bench import synthetic
from app.bench.synthetic import SyntheticIndex
from app.db import create_engine, create_sessionmaker, libpq_url, sqlalchemy_url, transaction
from app.errors import UserError
from app.queries.corpora import CorpusRow, DocumentRow, SequenceSetRow, register_corpus, register_sequences
from app.queries.models import ModelRow, register_model
from app.queries.publish import partition, publish_written
from app.queries.saes import SaeRow, register_sae
from app.queries.search import searched_text
from app.queries.sql.copy import copy_encoded
from app.schema import upgrade
from app.settings import Settings
from app.supervision.child_processes import Child, ChildSpec
from app.supervision.embedded_postgres import database
from app.supervision.sockets import listen, url_of
from app.tables import ExampleBand, Feature, Label, LabelRevision

Notify = Callable[[str], None]

_SCRATCH = "seesae_bench_"
_BYTES_PER_FEATURE = 6_500
_LOG_BYTES = 1_200_000_000
"""What Postgres' write-ahead log grows to while much is written."""
_WARM_SECONDS = 3.0
_UP_SECONDS = 60.0
_LABEL = "Tokens about {word}, most often where {other} comes before, in any spelling"


@dataclass(frozen=True)
class Plan:
    """How much to fill, and how many people browse it for how long. Between two pages each looks for `pause` s."""

    saes: int = 16
    features: int = 65_536
    clients: int = 32
    seconds: float = 20.0
    pause: float = 1.0


def run(settings: Settings, plan: Plan, notify: Notify) -> dict[str, Any]:
    """Fill a scratch database, browse it, and drop it again, however this ends.

    Raises:
        UserError: the disk is too small, or the database cannot be had.
    """
    with database(settings.home, settings.database_url) as server:
        check_disk(server, plan)
        with scratch_database(server, notify) as url:
            upgrade(url)
            return asyncio.run(_measure(url, plan, notify))


def check_disk(server: str, plan: Plan) -> None:
    """Refuse a plan that does not fit beside the server's data; a server on another machine is not looked at.

    Raises:
        UserError: it does not fit; the message says how much would.
    """
    features = plan.saes * plan.features
    needed = features * _BYTES_PER_FEATURE + min(_LOG_BYTES, features * _BYTES_PER_FEATURE)
    with psycopg.connect(libpq_url(server)) as connection:
        try:
            row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return
    folder = Path(row[0]) if row else Path()
    if not row or not folder.exists():
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{features:,} features need {needed / 1e9:.1f} GB on the database's disk, and {free / 1e9:.1f} GB are "
            "free: ask for fewer with --saes or --features."
        )


@contextmanager
def scratch_database(server: str, notify: Notify) -> Iterator[str]:
    """A new database on the server, dropped at the end. Those left by a bench that was killed are dropped first."""
    name = f"{_SCRATCH}{os.getpid()}"
    url = sqlalchemy_url(server).set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(libpq_url(server), autocommit=True) as connection:
        _drop_left_over(connection)
        create = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
        connection.execute(sql.SQL(create).format(sql.Identifier(name)))
        try:
            with psycopg.connect(libpq_url(url), autocommit=True):  # shows others that it is in use
                yield url
        finally:
            notify(f"Dropping the scratch database {name}.")
            _drop(connection, name)


def _drop_left_over(connection: psycopg.Connection[Any]) -> None:
    unused = """
        SELECT datname FROM pg_database
        WHERE starts_with(datname, %s) AND NOT EXISTS (SELECT FROM pg_stat_activity activity
                                                       WHERE activity.datid = pg_database.oid)
    """
    for (name,) in connection.execute(unused, [_SCRATCH]).fetchall():
        _drop(connection, name)


def _drop(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


async def _measure(url: str, plan: Plan, notify: Notify) -> dict[str, Any]:
    engine = create_engine(url, statement_timeout=None)
    try:
        started = time.monotonic()
        words = await fill(engine, plan, notify)
        fill_s = time.monotonic() - started
        size = await _size(engine)
    finally:
        await engine.dispose()
    async with _web_process(url, notify) as site:
        notify(f"{plan.clients} clients browse for {_WARM_SECONDS + plan.seconds:.0f} s.")
        web = psutil.Process(site.pid)
        visits, cpu_s = await browse(site.url, plan, words, web)
        rss = web.memory_info().rss
    return {
        "features": plan.saes * plan.features,
        "clients": plan.clients,
        **_figures(visits),
        "bytes_per_feature": round(size / (plan.saes * plan.features)),
        "errors": sum(visit.failed for visit in visits),
        "saes": plan.saes,
        "pause_s": plan.pause,
        "requests": len(visits),
        "requests_per_s": round(len(visits) / plan.seconds, 1),
        "fill_s": round(fill_s, 1),
        "web_start_s": round(site.start_s, 2),
        "web_rss_mb": round(rss / 2**20, 1),
        "web_cpu_ms": round(1000 * cpu_s / max(1, len(visits)), 1),
    }


def _figures(visits: "list[Visit]") -> dict[str, float | None]:
    """Times of pages and lists in milliseconds: as the server measured them, and as the clients did."""
    figures: dict[str, float | None] = {}
    for kind in ("feature", "list"):
        answered = [visit for visit in visits if visit.kind == kind and not visit.failed]
        for name, times, share in (
            ("p95_ms", [visit.server_ms for visit in answered], 0.95),
            ("p50_ms", [visit.server_ms for visit in answered], 0.5),
            ("client_p95_ms", [visit.client_ms for visit in answered], 0.95),
        ):
            figures[f"{kind}_{name}"] = round(float(np.quantile(times, share)), 1) if times else None
    return figures


# --- fill


async def fill(engine: AsyncEngine, plan: Plan, notify: Notify) -> NDArray[np.str_]:
    """Register a model and a corpus, and publish an index of every SAE; the answer is the vocabulary as searched."""
    tokens = synthetic.vocabulary()
    words = np.array([searched_text(token) for token in tokens])
    async with transaction(create_sessionmaker(engine)) as session:
        model_id, sequence_set_id = await _register_corpus(session, tokens)
    started = time.monotonic()
    for number in range(plan.saes):
        index = SyntheticIndex(plan.features, number, words)
        async with transaction(create_sessionmaker(engine)) as session:
            sae_id = await _register_sae(session, model_id, number, plan.features)
        await _publish(engine, sae_id, sequence_set_id, index)
        await _label(engine, sae_id, index)
        done, seconds = number + 1, time.monotonic() - started
        left = seconds / done * (plan.saes - done)
        rate = done * plan.features / seconds
        notify(f"SAE {done} of {plan.saes}: {rate:,.0f} features/s, {left:.0f} s left to fill.")
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for table in ("label", "label_revision", "sequence", "document", "token", "sae", "feature_index"):
            await connection.execute(text(f"VACUUM ANALYZE {table}"))
    return words


def slug(number: int) -> str:
    """The name of an SAE."""
    return f"bench-{number}"


async def _register_corpus(session: AsyncSession, tokens: list[bytes]) -> tuple[int, int]:
    model = await register_model(
        session,
        ModelRow(
            name="bench",
            source="made up",
            n_layers=2,
            d_model=16,
            vocab_size=len(tokens),
            weights_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
            bos_token_id=0,
        ),
        token_bytes=tokens,
        special_token_ids={0},
    )
    documents = [
        DocumentRow(f"Document {number}", synthetic.TOPICS[number % len(synthetic.TOPICS)])
        for number in range(2 * synthetic.SEQUENCES)
    ]
    corpus = await register_corpus(
        session,
        CorpusRow(
            slug="bench",
            title="Made-up words",
            source="made up",
            licence="CC0-1.0",
            attribution="Nobody wrote these words.",
            sha256="0" * 64,
            documents=len(documents),
        ),
    )
    sequences = await register_sequences(
        session,
        SequenceSetRow(
            corpus_id=corpus.id, model_id=model.id, length=synthetic.LENGTH, tokens=synthetic.COUNTED, sha256="0" * 64
        ),
        documents=documents,
        sequences=synthetic.sequences(seed=0),
    )
    return model.id, sequences.id


async def _register_sae(session: AsyncSession, model_id: int, number: int, features: int) -> int:
    sae = await register_sae(
        session,
        SaeRow(
            slug=slug(number),
            model_id=model_id,
            hook=f"resid_post.{number}",
            architecture="batchtopk",
            d_in=16,
            d_sae=features,
            k=32,
            artifact=slug(number),
            weights_sha256="0" * 64,
            config={},
            metrics={"explained_variance": 0.8, "l0": 32.0},
            created_by="bench",
        ),
    )
    return sae.id


async def _publish(engine: AsyncEngine, sae_id: int, sequence_set_id: int, index: SyntheticIndex) -> None:
    async def write(connection: AsyncConnection, index_id: int) -> None:
        for table, rows in ((Feature, index.feature_rows), (ExampleBand, index.band_rows)):
            async with partition(connection, table, index_id) as name:
                await copy_encoded(connection, rows(index_id), into=name, freeze=True)

    await publish_written(
        engine,
        sae_id=sae_id,
        sequence_set_id=sequence_set_id,
        tokens=synthetic.COUNTED,
        topics=synthetic.TOPICS,
        provenance={"made up": index.seed},
        write=write,
    )


async def _label(engine: AsyncEngine, sae_id: int, index: SyntheticIndex) -> None:
    """Label some features, each by one person, as the newest of one version."""
    random = np.random.default_rng((index.seed, 5))
    labels = []
    for feature in index.labelled().tolist():
        word, other = index.words[synthetic.frequent_tokens(random, (2,))].tolist()
        content = {"status": "submitted", "explanation": _LABEL.format(word=word, other=other), "categories": []}
        labels.append({"sae_id": sae_id, "feature": feature, "author": "bench", "version": 1, **content})
    async with engine.begin() as connection:
        if labels:
            await connection.execute(insert(Label), labels)
        history = select(Label.id, Label.version, Label.status, Label.explanation, Label.categories)
        columns = ["label_id", "version", "status", "explanation", "categories"]
        await connection.execute(insert(LabelRevision).from_select(columns, history.where(Label.sae_id == sae_id)))


async def _size(engine: AsyncEngine) -> int:
    """Bytes of all that grows with features: statistics, examples and labels, with their indexes."""
    of_partitions = select(func.sum(func.pg_total_relation_size(text("relid")))).select_from(
        text("unnest(ARRAY['feature', 'example_band']::regclass[]) parent, pg_partition_tree(parent)")
    )
    async with engine.connect() as connection:
        partitions = await connection.scalar(of_partitions)
        labels = await connection.scalar(
            select(func.pg_total_relation_size("label") + func.pg_total_relation_size("label_revision"))
        )
    return int(partitions or 0) + int(labels or 0)


# --- serve


@dataclass(frozen=True)
class _Web:
    """A running web process; `start_s` went by from its start to its first page."""

    url: str
    pid: int
    start_s: float


@asynccontextmanager
async def _web_process(database_url: str, notify: Notify) -> AsyncIterator[_Web]:
    """The site on the scratch database, as `seesae serve` starts it."""
    with TemporaryDirectory(prefix="seesae-bench-") as folder, listen("127.0.0.1", 0) as listening:
        descriptor = listening.fileno()
        environment = {"SEESAE_DATABASE_URL": database_url, "SEESAE_HOST": "127.0.0.1", "SEESAE_HOME": folder}
        spec = ChildSpec("web", ("web", "--fd", str(descriptor)), environment, (descriptor,))
        child = Child(spec, Path(folder), on_restart=notify)
        started = time.monotonic()
        running = asyncio.create_task(child.keep_running())
        try:
            await _first_page(url_of(listening))
            assert child.pid is not None
            yield _Web(url_of(listening), child.pid, time.monotonic() - started)
        finally:
            child.stop()
            await running


async def _first_page(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=_UP_SECONDS) as client:
        with suppress(httpx.TransportError):
            if (await client.get(url)).is_success:
                return
    raise UserError("The web process does not answer.")


# --- browse


@dataclass
class Visit:
    """One request: how long it took by the server's clock and by the client's."""

    kind: str
    server_ms: float
    client_ms: float
    failed: bool


@dataclass
class Person:
    """Somebody who opens pages of features, and lists with filters, of which they may read some more pages."""

    client: httpx.AsyncClient
    plan: Plan
    words: NDArray[np.str_]
    random: np.random.Generator
    visits: list[Visit] = field(default_factory=list)

    async def browse(self) -> None:
        """Open one page after the other, for ever."""
        await self._look()
        while True:
            base = f"/saes/{slug(int(self.random.integers(self.plan.saes)))}/features"
            if self.random.random() < 0.6:
                await self._open("feature", f"{base}/{self.random.integers(self.plan.features)}")
            else:
                page = await self._open("list", f"{base}?{urlencode(self._filters())}")
                while self.random.random() < 0.4 and (more := re.search(r'data-more href="([^"]+)"', page)):
                    page = await self._open("list", unescape(more[1]), {"HX-Request": "true"})

    def _filters(self) -> dict[str, str]:
        """As the form has them, most of them left as they are."""
        filters = {"sort": str(self.random.choice(_SORTS))}
        if self.random.random() < 0.4:
            filters["min_density"] = str(self.random.choice(["1e-05", "0.0001", "0.001"]))
        if self.random.random() < 0.4:
            filters["max_density"] = str(self.random.choice(["0.001", "0.01", "0.1"]))
        if self.random.random() < 0.3:
            filters["label"] = str(self.random.choice(["labelled", "unlabelled"]))
        if self.random.random() < 0.3:
            word = str(self.words[int(synthetic.frequent_tokens(self.random, ()))])
            filters["q"] = word[: int(self.random.integers(3, 9))]
        return filters

    async def _open(self, kind: str, address: str, headers: dict[str, str] | None = None) -> str:
        """A page's text. What is not answered well counts as an error, and has no text."""
        started = time.perf_counter()
        try:
            response = await self.client.get(address, headers=headers)
            failed, timing, page = response.status_code != 200, response.headers.get("server-timing", ""), response.text
        except httpx.HTTPError:
            failed, timing, page = True, "", ""
        spent = 1000 * (time.perf_counter() - started)
        said = re.search(r"dur=([\d.]+)", timing)
        self.visits.append(Visit(kind, float(said[1]) if said else 0.0, spent, failed or not said))
        await self._look()
        return "" if failed else page

    async def _look(self) -> None:
        await asyncio.sleep(self.plan.pause * self.random.uniform(0.5, 1.5))


_SORTS = ("density", "density-asc", "max", "max-asc", "index", "index-desc")


async def browse(url: str, plan: Plan, words: NDArray[np.str_], web: psutil.Process) -> tuple[list[Visit], float]:
    """Let all clients browse: every visit, and the seconds of CPU that the web process took for all.

    The first seconds, in which caches fill, are not counted.
    """
    async with httpx.AsyncClient(
        base_url=url, trust_env=False, timeout=30.0, limits=httpx.Limits(max_keepalive_connections=plan.clients)
    ) as client:
        people = [Person(client, plan, words, np.random.default_rng((6, number))) for number in range(plan.clients)]
        tasks = [asyncio.create_task(person.browse()) for person in people]
        await asyncio.sleep(_WARM_SECONDS)
        for person in people:
            person.visits.clear()
        before = sum(web.cpu_times()[:2])
        await asyncio.sleep(plan.seconds)
        cpu_s = sum(web.cpu_times()[:2]) - before
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return [visit for person in people for visit in person.visits], cpu_s
