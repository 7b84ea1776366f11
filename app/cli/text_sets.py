"""seesae textset: named texts with labels, groups or pairs."""

import asyncio
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Json, Yes
from app.cli.outcome import answer, notify, report_user_errors
from app.cli.processes import settings_with
from app.cli.sessions import local_session

if TYPE_CHECKING:
    from app.queries.text_sets import TextItem, TextSetView
    from app.services.text_set_about import About
    from app.services.text_set_files import Columns
    from app.settings import Settings

group = typer.Typer(
    help="Text sets: named texts with labels, groups or pairs, for comparisons, monitors and audits.",
    no_args_is_help=True,
)
MAX_BYTES = 200_000_000
"""Of a file. It is held in memory as texts, several times its size."""

Name = Annotated[str, typer.Argument(help="Name of the set.", metavar="NAME", show_default=False)]


def _column(meaning: str, more: str = "") -> Any:
    return typer.Option(help=f"Column with the {meaning}{more}.", metavar="COLUMN", show_default=False)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="textset", rich_help_panel="Work")


@group.command()
@report_user_errors
def add(
    name: Name,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="File that ends with .jsonl, .csv, .parquet or .txt; none for a built-in set.", show_default=False
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="Column with the text.", metavar="COLUMN")] = "text",
    label: Annotated[str | None, _column("label, such as toxic or benign")] = None,
    group: Annotated[str | None, _column("group that a text is about")] = None,
    pair: Annotated[str | None, _column("key of a pair", "; the label is its side")] = None,
    score: Annotated[str | None, _column("score")] = None,
    chat: Annotated[str | None, _column("turns of a conversation")] = None,
    split: Annotated[
        str | None, _column("part: train, calibration or test", "; by default a hash of the words decides")
    ] = None,
    description: Annotated[str, typer.Option(help="What the texts are.")] = "",
    source: Annotated[str, typer.Option(help="Where they are from.")] = "",
    licence: Annotated[str, typer.Option(help="Under which licence.")] = "",
    url: Annotated[str, typer.Option(help="Address of the source.")] = "",
    offensive: Annotated[bool, typer.Option("--offensive", help="Show texts only after a click.")] = False,
    as_json: Json = False,
) -> None:
    """Add texts from a file, or one of the built-in sets by its name.

    A column called text, label, group, pair, score, chat or split is taken for that without being named. The other
    columns are kept. Each text belongs to train (60 %), calibration (20 %) or test (20 %) by a hash of its words.

    Examples:
      seesae textset add crows-pairs
      seesae textset add reviews reviews.csv --text review --label stars --licence "CC BY 4.0"
    """
    from app.services.text_set_about import About
    from app.services.text_set_files import Columns

    columns = Columns(text, label, group, pair, score, chat, split)
    about = About(name=name, description=description, source=source, licence=licence, url=url, offensive=offensive)
    settings = settings_with()
    about, items = _built_in(about, settings) if file is None else (about, _read(about, file, columns))
    asyncio.run(_add(settings, about, items, as_json=as_json))


def _read(about: "About", file: Path, columns: "Columns") -> "list[TextItem]":
    """Read a file, after what can be refused without it."""
    from app.errors import TooLarge, UserError
    from app.services.text_set_files import read_file
    from app.services.text_sets import check_about

    check_about(about)
    try:
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size > MAX_BYTES:
                raise TooLarge(
                    f"{file} is larger than {MAX_BYTES / 1e6:,.0f} MB, the most that is read. Take a part of it."
                )
            return read_file(opened, file.name, columns)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None


def _built_in(about: "About", settings: "Settings") -> "tuple[About, list[TextItem]]":
    """Fetch a built-in set; what the user says of it stands instead of what is known."""
    from app.errors import NotFound
    from app.pipeline.builtin_sets import add_up
    from app.services.builtin_sets import BUILTIN_SETS

    if about.name not in BUILTIN_SETS:
        raise NotFound(
            f"There is no built-in set “{about.name[:60]}”: name a file, or one of {', '.join(BUILTIN_SETS)}."
        )
    notify(f"Fetching {about.name}, unless it is here")
    known, items = add_up(about.name, settings.home / "cache")
    said = {field: value for field, value in asdict(about).items() if value}
    return replace(known, **said), items


async def _add(settings: "Settings", about: "About", items: "list[TextItem]", *, as_json: bool) -> None:
    from app.services.actors import local_actor
    from app.services.text_sets import create_text_set

    async with local_session(settings) as session:
        stored = await create_text_set(session, about, items, actor=local_actor(settings))
    answer(_result(stored), as_json=as_json, text=_summary(stored))


@group.command("list")
@report_user_errors
def list_(as_json: Json = False) -> None:
    """List the text sets, and the built-in ones that can be added."""
    asyncio.run(_list(as_json))


async def _list(as_json: bool) -> None:
    from app.queries.text_sets import list_text_sets
    from app.services.builtin_sets import BUILTIN_SETS

    async with local_session(settings_with()) as session:
        found, _ = await list_text_sets(session, limit=1_000_000)
    names = {each.name for each in found}
    offered = [name for name in BUILTIN_SETS if name not in names]
    lines = [f"{each.name}: {_plural(each.counts.texts, 'text')}{_labels(each)}" for each in found] or [
        "No text sets yet."
    ]
    if offered:
        lines.append(f"Built in, added by `seesae textset add NAME`: {', '.join(offered)}")
    result = {"textsets": [_result(each) for each in found], "built_in": offered}
    answer(result, as_json=as_json, text="\n".join(lines))


@group.command()
@report_user_errors
def show(name: Name, as_json: Json = False) -> None:
    """Show what a set holds."""
    asyncio.run(_show(name, as_json))


async def _show(name: str, as_json: bool) -> None:
    from app.services.text_sets import find_text_set

    async with local_session(settings_with()) as session:
        found = await find_text_set(session, name)
    answer(_result(found), as_json=as_json, text=_summary(found))


@group.command()
@report_user_errors
def delete(
    name: Name,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete a set with its texts."""
    if not yes:
        typer.confirm(f"Delete the text set {name} with all its texts?", abort=True, err=True)
    asyncio.run(_delete(name, as_json))


async def _delete(name: str, as_json: bool) -> None:
    from app.services.actors import local_actor
    from app.services.text_sets import delete_text_set

    settings = settings_with()
    async with local_session(settings) as session:
        await delete_text_set(session, name, actor=local_actor(settings))
    answer({"deleted": name}, as_json=as_json, text=f"Deleted {name}.")


def _result(found: "TextSetView") -> dict[str, Any]:
    from app.services.text_sets import text_set_json

    return text_set_json(found)


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _labels(found: "TextSetView") -> str:
    most = list(found.counts.labels.items())[:6]
    more = f" and {len(found.counts.labels) - 6} more" if len(found.counts.labels) > 6 else ""
    return f" ({', '.join(f'{label}: {number:,}' for label, number in most)}{more})" if most else ""


def _summary(found: "TextSetView") -> str:
    from app.services.text_sets import remarks

    counts = found.counts
    lines = [f"{found.name}: {_plural(counts.texts, 'text')}{_labels(found)}"]
    for what, number in (("pair", counts.pairs), ("conversation", counts.chats), ("score", counts.scores)):
        if number:
            lines.append(_plural(number, what))
    lines.append(", ".join(f"{number:,} {split}" for split, number in counts.splits.items()))
    lines += remarks(counts)
    return "\n".join(lines)
