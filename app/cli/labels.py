"""seesae import-labels: labels out of a file, with all their history."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import Json
from app.cli.outcome import answer, report_user_errors
from app.cli.processes import settings_with
from app.cli.sessions import local_session

if TYPE_CHECKING:
    from app.services.label_files import Format, Imported
    from app.settings import Settings

_MOST_BYTES = 500_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Exchange")(import_labels)


@report_user_errors
def import_labels(
    file: Annotated[
        Path, typer.Argument(help="history.jsonl, labels.jsonl or labels.csv of an export.", show_default=False)
    ],
    sae: Annotated[
        str | None, typer.Option(help="SAE that the labels are of.", show_default="the one that the file names")
    ] = None,
    person: Annotated[
        list[str] | None,
        typer.Option(help="Give what a name wrote to an account, as NAME=ACCOUNT; repeat it.", show_default=False),
    ] = None,
    other_weights: Annotated[
        bool, typer.Option("--other-weights", help="Take labels of an SAE with other weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import labels that were exported here or elsewhere, with their history where the file has it.

    The whole file is checked before anything is written, and an error names its line. Importing a file twice changes
    nothing. People become names without accounts, unless --person gives them one.

    Examples:
      seesae import-labels exported/history.jsonl
      seesae import-labels labels.csv --sae smollm2-135m-l9-batchtopk-4096 --person ada=ada.lovelace
    """
    from app.errors import UserError

    accounts = {}
    for given in person or []:
        name, equals, account = given.partition("=")
        if not (name and equals and account):
            raise typer.BadParameter("Write it as NAME=ACCOUNT.", param_hint="--person")
        accounts[name] = account
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{file} has more than {_MOST_BYTES / 1e6:,.0f} MB: split it into several files.")
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not text in UTF-8.") from None
    format: Format = "csv" if file.suffix.lower() == ".csv" else "jsonl"
    slug, done = asyncio.run(_import(settings_with(), text, format, sae, accounts, other_weights))
    result = {"sae": slug, **asdict(done)}
    summary = (
        f"{slug}: {done.labels:,} labels added, {done.changed:,} brought up to date, {done.unchanged:,} were here; "
        f"{done.sets:,} sets, {done.votes:,} votes, {done.decisions:,} decisions and {done.comments:,} comments added."
    )
    answer(result, as_json=as_json, text=summary)


async def _import(
    settings: "Settings", text: str, format: "Format", slug: str | None, accounts: dict[str, str], other_weights: bool
) -> "tuple[str, Imported]":
    from app.errors import UserError
    from app.services import label_files
    from app.services.actors import local_actor
    from app.services.saes import find_sae

    lines = label_files.read_labels(text, format)
    slug = slug or label_files.slug_of(lines)
    if slug is None:
        raise UserError("This file does not say which SAE its labels are of: name it with --sae.")
    async with local_session(settings) as session:
        sae = await find_sae(session, slug)
        done = await label_files.import_labels(
            session, sae, lines, actor=local_actor(settings), accounts=accounts, other_weights=other_weights
        )
    return sae.slug, done
