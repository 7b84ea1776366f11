"""Corpora: named text, and the sequences of tokens that it is packed into."""

from sae_core.corpora.packing import pack
from sae_core.corpora.reading import Corpus, corpus_slug, load_corpus
from sae_core.corpora.sequences import CorpusInfo, DocumentInfo, Sequences

__all__ = ["Corpus", "CorpusInfo", "DocumentInfo", "Sequences", "corpus_slug", "load_corpus", "pack"]
