"""seesae delete and seesae gc: what is not wanted any more, and what nothing needs."""

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Json, Yes
from app.cli.outcome import FAILED, answer, notify, report_user_errors
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.services.deletion import Deletion
    from app.storage.removal import Removed
    from app.storage.survey import Item

USAGE = 2


class Deletable(StrEnum):
    """Kinds of what can be deleted."""

    SAE = "sae"
    MODEL = "model"
    CORPUS = "corpus"
    INDEX = "index"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Maintenance")(delete)
    app.command(rich_help_panel="Maintenance")(gc)


@report_user_errors
def delete(
    kind: Annotated[Deletable, typer.Argument(help="What to delete.", show_default=False)],
    name: Annotated[
        str, typer.Argument(help="Its name; of an index, the name of its SAE.", metavar="NAME", show_default=False)
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete an SAE, a model, a corpus, or the index of an SAE, with its files.

    It says what goes with it, and asks. What a run under way uses is not deleted, nor a model that has SAEs, nor a
    corpus that an index is of.

    Examples:
      seesae delete sae smollm2-135m-l9-topk-4096
      seesae delete index smollm2-135m-l9-topk-4096 --yes
    """
    asyncio.run(_delete(kind.value, name, yes, as_json))


async def _delete(kind: Any, name: str, yes: bool, as_json: bool) -> None:
    from app.cli.local_runs import local_job_context
    from app.db import transaction
    from app.services import deletion as deletions
    from app.storage.removal import remove_deleted

    async with local_job_context(settings_with()) as ctx:
        async with transaction(ctx.sessions) as session:
            found = await deletions.describe(session, kind, name, ctx.artifacts)
        if not yes:
            size = await asyncio.to_thread(ctx.artifacts.bytes_of, found.folders)
            _ask(found, size or 0)
        async with transaction(ctx.sessions) as session:
            # No labels may have been written while the answer was awaited.
            seen = None if yes else found.label_changes
            gone = await deletions.delete(session, kind, name, ctx.artifacts, label_changes=seen)
        removed = await remove_deleted(ctx.sessions, ctx.artifacts)
    own = [item for item in removed.items if f"{item.category}/{item.path.name}" in gone.folders]
    left = [f"{item.path}: {why}" for item, why in removed.skipped]
    freed = sum(item.size for item in own)
    text = "\n".join(
        [
            f"Deleted {gone.what}, with {_listed(gone.goes)}. Freed {_size(freed + gone.table_bytes)}.",
            *gone.stays,
            *(f"Not removed yet, {line}. `seesae gc --yes` tries again." for line in left),
        ]
    )
    result = {
        "kind": gone.kind,
        "name": gone.name,
        "goes": list(gone.goes),
        "stays": list(gone.stays),
        "labels": gone.labels,
        "file_bytes": freed,
        "database_bytes": gone.table_bytes,
        "left": left,
    }
    answer(result, as_json=as_json, text=text)


def _ask(found: "Deletion", file_bytes: int) -> None:
    """State what goes, and ask; exit where the answer is no, or nobody can be asked."""
    size = _size(file_bytes + found.table_bytes)
    statement = f"Deleting {found.what} takes {_listed(found.goes)} with it, and frees {size}. This cannot be undone."
    notify(statement)
    for line in found.stays:
        notify(line)
    if found.labels:
        notify(f"To keep the labels: seesae export {found.name} FOLDER --format labels")
    if not sys.stdin.isatty():
        notify("Nothing was deleted. Add --yes to delete it.")
        raise typer.Exit(USAGE)
    if not typer.confirm(f"Delete {found.what}?", err=True):
        notify("Nothing was deleted.")
        raise typer.Exit(FAILED)


@report_user_errors
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove them. Without it, they are only listed.")] = False,
    as_json: Json = False,
) -> None:
    """List the files that nothing needs, with sizes and reasons; remove them with --yes.

    These are activation caches, packed text, activation stores of no published index, checkpoints of training that is
    not under way, converted models that are not registered, and what killed processes and deletions left. What a run
    under way uses stays, and so do files that SeeSAE does not know.

    Example: seesae gc --yes
    """
    garbage, unknown, removed = asyncio.run(_gc(yes))
    skipped = removed.skipped if removed else ()
    shown = removed.items if removed else garbage
    total = sum(item.size for item in shown)
    result = {
        "removed": yes,
        "bytes": total,
        "items": [_as_json(item) for item in shown],
        "skipped": [{**_as_json(item), "reason": why} for item, why in skipped],
        "left_alone": [_as_json(item) for item in unknown],
    }
    answer(result, as_json=as_json, text=_gc_text(shown, skipped, unknown, yes))


async def _gc(yes: bool) -> "tuple[list[Item], list[Item], Removed | None]":
    from app.cli.local_runs import local_job_context
    from app.storage import removal

    async with local_job_context(settings_with()) as ctx:
        garbage, unknown = await removal.unneeded(ctx.sessions, ctx.artifacts)
        removed = (
            await removal.remove(ctx.sessions, garbage, holder="seesae gc", store=ctx.artifacts.store) if yes else None
        )
        await removal.remove_deleted(ctx.sessions, ctx.artifacts)  # forgets what is gone
    return garbage, unknown, removed


def _gc_text(
    shown: "Sequence[Item]", skipped: "Sequence[tuple[Item, str]]", unknown: "Sequence[Item]", removed: bool
) -> str:
    from app.cli.result_text import items_table

    lines = []
    if shown:
        lines.append(items_table(shown))
    total = _size(sum(item.size for item in shown))
    if not shown:
        lines.append("Nothing was removed." if skipped else "Everything on disk is needed.")
    elif removed:
        lines.append(f"Removed {total}.")
    else:
        lines.append(f"Nothing needs these {total}. `seesae gc --yes` removes them.")
    lines += [f"Skipped {item.path}: {why}." for item, why in skipped]
    lines += [f"Left alone {item.path} ({_size(item.size)}): {item.reason}." for item in unknown]
    return "\n".join(lines)


def _as_json(item: "Item") -> dict[str, Any]:
    return {"path": str(item.path), "category": item.category, "bytes": item.size, "reason": item.reason}


def _listed(clauses: "Sequence[str]") -> str:
    return "; ".join(clauses)


def _size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)
