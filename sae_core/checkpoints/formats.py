"""The registry of formats, and detection of the format of a folder."""

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from sae_core.checkpoints import dictionary_learning, gemma_scope, gemma_scope_2, llama_scope, openai, saelens, sparsify
from sae_core.checkpoints.base import Format
from sae_core.checkpoints.reading import listed, read_json
from sae_core.errors import CheckpointError
from sae_core.files import first_missing

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    # OpenAI's files may have any name, so it comes last.
    for module in (saelens, dictionary_learning, sparsify, gemma_scope, gemma_scope_2, llama_scope, openai)
}
SHOWN = 20
"""Most SAEs of a folder that an error names."""


def detect(path: Path) -> str:
    """Return the name of the format of the SAE in a folder, or of a file.

    Raises:
        CheckpointError: it looks like none; the message says what was looked for, or which subfolders hold SAEs.
    """
    for name, candidate in FORMATS.items():
        if candidate.recognises(path):
            return name
    if path.is_dir():
        raise none_here(str(path), _places_in(path), _is_model(path))
    raise none_here(str(path), {}, is_model=False)


def _places_in(folder: Path) -> dict[str, tuple[Format, str]]:
    inside = (file for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for file in folder.glob(depth))
    return sae_places(file.relative_to(folder).as_posix() for file in inside)


def missing(path: Path) -> CheckpointError:
    """Return the error for a path that does not exist: which part of it is missing, and which SAEs are there."""
    parent, name = first_missing(path)
    places = {} if parent == Path(parent.anchor) else _places_in(parent)  # not the whole disk
    return not_in(str(parent), name, places, "Check the path; hf: begins one of the hub.")


def not_in(where: str, name: str, places: Iterable[str], advice: str) -> CheckpointError:
    """Return the error for a folder, or repository, that does not hold `name`, but SAEs in `places`."""
    found = list(places)
    holds = f". It holds {listed(found, SHOWN)}" if found else ", and no SAE"
    return CheckpointError(f"{where} holds no {name}{holds}. {advice}")


def folder_of(path: Path) -> Path:
    """Return the folder of an SAE if `path` is one of its files; else `path` itself."""
    if path.is_file():
        for candidate in FORMATS.values():
            if path.absolute().as_posix().endswith(f"/{candidate.weights}"):
                return path.absolute().parents[candidate.weights.count("/")]
            if candidate.config and path.name == candidate.config:
                return path.parent
    return path


def sae_places(files: Iterable[str]) -> dict[str, tuple[Format, str]]:
    """Return the places of SAEs among `files`, each with its format and file of weights.

    A place is the SAE's folder, or the file for a format of one file of any name.

    Args:
        files: paths with `/` between folders, all relative to the same folder, whose name is `""`.
    """
    places, single_files = {}, {}
    for file in sorted(files):
        for candidate in FORMATS.values():
            if candidate is openai.FORMAT and fnmatch.fnmatchcase(file, candidate.weights):
                single_files[file] = (candidate, file)
            elif f"/{file}".endswith(f"/{candidate.weights}"):
                places[file.removesuffix(candidate.weights).rstrip("/")] = (candidate, file)
    # Beside SAEs of other formats, such files are mostly states of their training.
    return places or single_files


def none_here(where: str, places: Iterable[str], is_model: bool) -> CheckpointError:
    """Return the error for a folder that is not an SAE.

    Args:
        where: the folder, for the message.
        places: subfolders (or files) that are SAEs.
        is_model: True if the folder is that of a language model.
    """
    found = list(places)
    if found:
        return CheckpointError(
            f"{where} is not an SAE itself, but holds {len(found)}: {listed(found, SHOWN)}. Give the path of one."
        )
    if is_model:
        return CheckpointError(f"{where} holds a language model, not an SAE. Give the folder of an SAE.")
    looked_for = ", ".join(f"{candidate.weights} ({candidate.name})" for candidate in FORMATS.values())
    return CheckpointError(f"{where} holds no SAE. The files that were looked for: {looked_for}. Check the path.")


def _is_model(path: Path) -> bool:
    try:
        return not {"model_type", "architectures"}.isdisjoint(read_json(path / "config.json"))
    except CheckpointError:
        return False
