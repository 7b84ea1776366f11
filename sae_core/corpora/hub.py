"""Find the files of a dataset: a repository of the hub, or a folder that is laid out like one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from sae_core.corpora.files import ENDINGS, ending
from sae_core.errors import CorpusError, first_line

_MOST_NAMED = 5
"""Files that a message names."""
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def dataset_files(source: str, config: str | None, split: str, cache: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and name of each file of a split; a file of the hub is downloaded when it is asked for.

    Raises:
        CorpusError: there is no such dataset, it cannot be read, or has no such configuration or split, several of
            them, or no files.
    """
    with _explain_failure(source):
        builder = _builder(source, config, cache)
    splits = {str(name): files for name, files in (builder.config.data_files or {}).items()}  # not always text
    if not splits:
        raise CorpusError(f"{source} has no data files. Give a dataset of .parquet, .jsonl, .csv or .txt files.")
    _refuse_mixed(Path(source))
    if split not in splits:
        raise CorpusError(f"{source} has no split '{split}'. Its splits are {', '.join(splits)}: name one as `split`.")
    download = datasets.DownloadManager(
        dataset_name=builder.dataset_name, download_config=datasets.DownloadConfig(cache_dir=str(cache / "downloads"))
    )
    for address in splits[split]:
        with _explain_failure(source):
            path = Path(download.download(address))
        yield path, PurePosixPath(address).name


def _refuse_mixed(folder: Path) -> None:
    """Refuse a folder of several formats, of which `datasets` would read the most frequent and leave out the others."""
    if not folder.is_dir() or (folder / "README.md").exists():  # whose configurations choose the files
        return
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in _DESCRIPTIONS)
    endings = sorted({ending(path.name) for path in paths}.intersection(ENDINGS))
    if len(endings) > 1:
        raise CorpusError(f"{folder.name} holds {' and '.join(endings)} files. Give a folder with files of one format.")


def _builder(source: str, config: str | None, cache: Path) -> Any:
    try:
        return datasets.load_dataset_builder(source, config, cache_dir=str(cache))
    except ValueError:
        names = datasets.get_dataset_config_names(source)
        if config in names or len(names) < 2:
            raise
        problem = "several subsets" if config is None else f"no subset '{config}'"
        raise CorpusError(f"{source} has {problem}. It has {', '.join(names)}: name one as `subset`.") from None


@contextmanager
def _explain_failure(source: str) -> Iterator[None]:
    """Turn the errors of `datasets` into one line; a damaged description of the data raises nearly any kind."""
    try:
        yield
    except CorpusError:
        raise
    except Exception as error:
        folder = Path(source)
        name, advice = source, "Check the name and the network, or give a local file."
        if folder.is_dir():
            others = (
                path for path in folder.iterdir() if ending(path.name) not in ENDINGS or path.name in _DESCRIPTIONS
            )
            described = sorted(path.name for path in others if path.is_file())[:_MOST_NAMED]
            name = folder.name
            advice = f"Correct or remove {', '.join(described)}." if described else f"Give {', '.join(ENDINGS)} files."
        # A parser of YAML says in its first line what it was doing, and the problem in another.
        problem = first_line(getattr(error, "problem", None) or error)
        raise CorpusError(f"{name} cannot be read: {problem}. {advice}") from error
