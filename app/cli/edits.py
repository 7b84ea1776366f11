"""seesae export-model: a model that does what an edit does."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Device, Json
from app.cli.outcome import answer, notify, report_user_errors
from app.cli.processes import settings_with


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Work")(export_model)


@report_user_errors
def export_model(
    edit: Annotated[Path, typer.Argument(help="File of the edit.", show_default=False)],
    dest: Annotated[Path, typer.Argument(help="Folder to write, which is not there yet.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="Model to change: a name, folder or hub id.", show_default="the edit's own")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fold an edit into its model's weights, as a folder that transformers loads like any other.

    Only an edit that adds or scales directions for every token, BOS included, can be folded; others say why.

    Example: seesae export-model edit.json ./edited-model
    """
    from app.artifacts import Artifacts
    from app.pipeline.sources import fetch_packages, read_model
    from sae_core.interventions import load_edit
    from sae_core.interventions.folding import affine
    from sae_core.interventions.folding import export_model as export

    settings = settings_with(device=device)
    loaded = load_edit(edit)
    for site in loaded.sites:
        affine(site)  # refuses what cannot be folded before the model is loaded
    name, cache = model or loaded.model_name, settings.home / "cache"
    notify(f"Loading {name}")
    fetch_packages(name, None, cache)
    source = read_model(name, device=settings.device, cache=cache, converted=Artifacts(settings.artifacts).models)
    export(source, loaded, dest)
    result = {"edit": loaded.name, "model": source.name, "folder": str(dest)}
    answer(result, as_json=as_json, text=f"{dest} holds {source.name} with the edit {loaded.name!r} in its weights.")
