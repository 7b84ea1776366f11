"""seesae probe: which features are active on texts, as a table, CSV or JSON lines."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.options import Device, Json
from app.cli.outcome import notify, report_user_errors, say
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from app.queries.saes import SaeDetail
    from app.services.inference import InferenceClient
    from app.services.probe_texts import TextFindings
    from app.settings import Settings

MAX_TEXTS = 100_000
"""Texts in one file."""


class Format(StrEnum):
    """Format of standard output."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


class Rank(StrEnum):
    """Order of the features of a text."""

    PERCENTILE = "percentile"
    ACTIVATION = "activation"
    RARITY = "rarity"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(probe)


@report_user_errors
def probe(
    sae: Annotated[str, typer.Argument(help="Name of the SAE.", show_default=False)],
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help=f'One text per line; .jsonl with strings or {{"text": …}}; or .csv with a column "text". Up to '
            f"{MAX_TEXTS:,} texts.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Features per text.")] = 10,
    rank_by: Annotated[Rank, typer.Option(help="Order of the features.")] = Rank.PERCENTILE,
    format_: Annotated[Format, typer.Option("--format", help="Written as the texts are read, one after another.")] = (
        Format.TABLE
    ),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show which features are active on texts.

    It loads the model itself, beside a site that may be running. Texts are neither kept nor logged. One that cannot be
    probed, such as one that is too long, gets a row that says why.

    Examples:
      seesae probe smollm2-135m-l9-batchtopk-4096 --text "He was taken off with a concussion."
      seesae probe smollm2-135m-l9-batchtopk-4096 --file prompts.txt --format csv > features.csv
    """
    texts = [*(text or ()), *(read_texts(file) if file else ())]
    if not texts:
        raise typer.BadParameter("Give --text, or --file with at least one text.")
    from app.logging import configure

    configure("error")
    asyncio.run(_probe(settings_with(device=device), sae, texts, top, rank_by.value, format_, as_json))


def read_texts(file: Path) -> list[str]:
    """Return the texts of a file, without empty lines.

    Raises:
        UserError: it is not UTF-8, not what its name says, or has too many texts.
    """
    from app.errors import UserError
    from app.services.text_files import texts_of

    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return texts_of(lines, str(file), MAX_TEXTS)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error.reason}. Convert it first.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error


async def _probe(
    settings: "Settings",
    slug: str,
    texts: list[str],
    top: int,
    rank_by: Literal["percentile", "activation", "rarity"],
    form: Format,
    as_json: bool,
) -> None:
    from app.services.probe_texts import csv_rows, ndjson_rows, probe_texts

    async with _local_inference(settings, slug) as (sessions, inference, sae):
        rows = probe_texts(sessions, inference, sae, texts, top_k=top, rank_by=rank_by)
        if as_json:
            found = [_row(row) async for row in rows]
            say(json.dumps({"sae": sae.slug, "results": found}))
            return
        first = await anext(rows)
        if form is Format.TABLE:
            _say_table(first, texts)
            async for row in rows:
                _say_table(row, texts)
            return
        write = csv_rows if form is Format.CSV else ndjson_rows
        async for lines in write(first, rows):
            say(lines.decode().replace("\r\n", "\n").removesuffix("\n"))


def _row(found: "TextFindings") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found)


def _say_table(found: "TextFindings", texts: list[str]) -> None:
    shown = " ".join(texts[found.prompt].split())
    say(f"{found.prompt}  {shown if len(shown) <= 100 else shown[:99] + '…'}")
    if found.error:
        say(f"   {found.error}")
    for feature in found.features:
        percentile = "" if feature.percentile is None else f"{feature.percentile:8.2f}"
        say(f"   {feature.index:>8}  {feature.max:>10.4g}{percentile:>10}  {feature.label or ''}".rstrip())


@asynccontextmanager
async def _local_inference(
    settings: "Settings", slug: str
) -> "AsyncIterator[tuple[async_sessionmaker[AsyncSession], InferenceClient, SaeDetail]]":
    """Yield sessions, a client of an inference service within this process, and the SAE, which is loaded.

    Raises:
        UserError: there is no such SAE, or it cannot be loaded.
    """
    from secrets import token_hex

    import httpx
    from pydantic import SecretStr

    from app.db import create_engine, create_sessionmaker, transaction
    from app.errors import NoWeights
    from app.inference.server import create_app
    from app.services.inference import InferenceClient
    from app.services.inference_messages import SaeRef
    from app.services.saes import find_sae
    from app.supervision.embedded_postgres import database

    with database(settings.home, settings.database_url) as url:
        own = {"database_url": url, "inference_url": "http://inference", "inference_secret": SecretStr(token_hex(16))}
        settings = settings.model_copy(update=own)
        service, engine = create_app(settings), create_engine(url)
        inference = InferenceClient(settings, transport=httpx.ASGITransport(service))
        try:
            sessions = create_sessionmaker(engine)
            async with transaction(sessions) as session:
                sae = await find_sae(session, slug)
            if not sae.has_weights:
                raise NoWeights(slug)
            notify(f"Loading {sae.model.name}")
            service.state.probe_engine.load(SaeRef.of(sae))
            yield sessions, inference, sae
        finally:
            await inference.close()
            await engine.dispose()
            await service.state.engine.dispose()
