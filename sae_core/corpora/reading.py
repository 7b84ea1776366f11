"""Read text through `datasets`: local files, or a data set of the hub."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from sae_core.corpora.sequences import CorpusInfo


@dataclass(frozen=True, eq=False)
class Corpus:
    """Named documents with their source and licence."""

    slug: str
    title: str
    source: str
    licence: str | None
    attribution: str | None
    documents: Dataset
    """Columns text, title, topic (None where unknown), and whatever else the source has."""
    sha256: str

    @property
    def info(self) -> CorpusInfo:
        """The corpus without its documents."""
        return CorpusInfo(self.slug, self.title, self.source, self.licence, self.attribution, self.sha256)


def load_corpus(
    source: str | Path,
    *,
    slug: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    attribution: str | None = None,
    text_column: str = "text",
    config: str | None = None,
    split: str = "train",
    max_documents: int | None = None,
    cache: Path | None = None,
) -> Corpus:
    """Read a corpus."""
    raise NotImplementedError
