"""Pack documents into sequences."""

from sae_core.corpora.reading import Corpus
from sae_core.corpora.sequences import Sequences
from sae_core.models import LanguageModel
from sae_core.progress import Progress, silent


def pack(
    corpus: Corpus,
    model: LanguageModel,
    *,
    length: int = 128,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Sequences:
    """Pack shuffled documents into sequences of `length` tokens."""
    raise NotImplementedError
