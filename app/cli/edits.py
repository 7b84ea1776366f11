"""seesae export-model: a model that does what an edit does."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import Device, Json
from app.cli.outcome import answer, notify, report_user_errors
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from app.settings import Settings
    from sae_core.interventions import Edit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Work")(export_model)


@report_user_errors
def export_model(
    edit: Annotated[
        str, typer.Argument(help="Name of a saved edit, or the file of one.", metavar="EDIT", show_default=False)
    ],
    dest: Annotated[Path, typer.Argument(help="Folder to write, which is not there yet.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="Model to change: a name, folder or hub id.", show_default="the edit's own")
    ] = None,
    special_tokens: Annotated[
        bool, typer.Option("--special-tokens", help="Act on BOS and other special tokens too, as weights do.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fold an edit into its model's weights, as a folder that transformers loads like any other.

    Only an edit that is the same linear map for every token can be folded, such as one that adds a direction; others
    say why. Weights act on BOS too: an edit that spares it needs --special-tokens.

    Examples:
      seesae export-model paris-is-in-italy ./edited-model --special-tokens
      seesae export-model edit.json ./edited-model
    """
    from app.artifacts import Artifacts
    from app.errors import UserError
    from app.pipeline.sources import fetch_packages, read_model
    from sae_core.interventions.folding import affine, refuse_existing, with_special_tokens
    from sae_core.interventions.folding import export_model as export

    settings = settings_with(device=device)
    refuse_existing(dest)
    loaded, source = _read(edit, settings)
    everywhere = with_special_tokens(loaded)
    for site in everywhere.sites:
        affine(site)  # refuses what cannot be folded before the model is loaded
    if not special_tokens and any(not change.special_tokens for site in loaded.sites for change in site.interventions):
        raise UserError(
            "This edit spares BOS and other special tokens, and weights cannot. Add --special-tokens if the model may "
            "act on them too, or use apply_edits."
        )
    name, cache = model or source, settings.home / "cache"
    notify(f"Loading {name}")
    fetch_packages(name, None, cache)
    whole = read_model(name, device=settings.device, cache=cache, converted=Artifacts.of(settings).models)
    export(whole, everywhere, dest)
    result = {"edit": loaded.name, "model": whole.name, "folder": str(dest)}
    answer(result, as_json=as_json, text=f"{dest} holds {whole.name} with the edit {loaded.name!r} in its weights.")


def _read(edit: str, settings: "Settings") -> "tuple[Edit, str]":
    """Return an edit, and where its model is."""
    from sae_core.interventions import load_edit

    path = Path(edit).expanduser()
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        loaded = load_edit(path)
        return loaded, loaded.model_name
    return asyncio.run(_saved(edit, settings))


async def _saved(name: str, settings: "Settings") -> "tuple[Edit, str]":
    from app.cli.local_runs import local_job_context
    from app.pipeline.identities import model_source
    from app.services.edits import edit_file, find_edit
    from sae_core.interventions.edits import edit_from_json

    async with local_job_context(settings) as ctx, ctx.sessions() as session:
        found = await find_edit(session, name)
        return edit_from_json(await edit_file(session, found), name), model_source(found.model)
