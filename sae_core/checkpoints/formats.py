"""The registry of formats, and detection of the format of a folder."""

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from sae_core.checkpoints import dictionary_learning, gemma_scope, gemma_scope_2, llama_scope, openai, saelens, sparsify
from sae_core.checkpoints.base import Format
from sae_core.checkpoints.reading import read_json
from sae_core.errors import CheckpointError

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
        inside = (file for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for file in path.glob(depth))
        raise none_here(str(path), sae_places(file.relative_to(path).as_posix() for file in inside), _is_model(path))
    raise none_here(str(path), {}, is_model=False)


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
        shown = ", ".join(found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return CheckpointError(
            f"{where} is not an SAE itself, but holds {len(found)}: {shown}{more}. Give the path of one."
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
