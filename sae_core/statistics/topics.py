"""Topics of the corpus in which a feature is active more than their size would suggest."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.corpora import Sequences
from sae_core.statistics.spec import TOP_TOPICS, TOPIC_MIN_DOCUMENTS, TOPIC_MIN_TOKENS
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices

MAX_TOPICS = 32_767
"""Topics are numbered in 16 bits; of a corpus with more, the most frequent are kept."""


@dataclass(frozen=True)
class CorpusTopics:
    """The topics of a corpus, and the tokens that they cover."""

    names: list[str]
    """Sorted. Topics of fewer than `TOPIC_MIN_DOCUMENTS` documents are left out: they could never be chosen."""
    of_document: NDArray[np.int16]
    """[documents] number of the topic; -1 = none."""
    document: NDArray[np.int32]
    """[positions] number of the document; -1 = none."""
    tokens: Indices
    """[topics] counted tokens."""
    all_tokens: int
    """Counted tokens, with or without a topic."""


@dataclass(frozen=True)
class TopTopics:
    """[features, 3] each; topic -1 = none."""

    topic: NDArray[np.int16]
    count: NDArray[np.int64]
    share: NDArray[np.float32]
    lift: NDArray[np.float32]


def corpus_topics(sequences: Sequences) -> CorpusTopics:
    """Number the topics and count their tokens."""
    documents = Counter(document.topic for document in sequences.documents if document.topic is not None)
    names = sorted(name for name, count in documents.most_common(MAX_TOPICS) if count >= TOPIC_MIN_DOCUMENTS)
    number = {name: i for i, name in enumerate(names)}
    topic_of = [number.get(document.topic, -1) if document.topic else -1 for document in sequences.documents]
    of_document = np.array([*topic_of, -1], np.int16)  # the last entry is for document -1
    counted = of_document[sequences.document_of[sequences.counted]]
    tokens = np.bincount(counted[counted >= 0], minlength=len(names))
    return CorpusTopics(names, of_document, sequences.document_of.reshape(-1), tokens, sequences.n_counted)


def top_topics(block: FeatureBlock, topics: CorpusTopics) -> TopTopics:
    """Find the three topics with the highest P(topic | active) · log lift.

    The lift, P(topic | active) / P(topic), must be above 1. The score is the topic's term in the divergence of the
    feature's topics from the corpus' (Kullback and Leibler 1951): high for a topic that is both enriched and a good
    part of what the feature does. Probabilities are over all counted tokens, with or without a topic. Ties go to the
    topic that sorts first.
    """
    shape = (block.n_features, len(topics.names))
    document = topics.document[block.position]
    count = _count(block.row, topics.of_document[document], shape)
    share = count / np.maximum(block.count, 1)[:, None]
    lift = share * topics.all_tokens / np.maximum(topics.tokens, 1)
    eligible = (
        (count >= TOPIC_MIN_TOKENS) & (lift > 1) & (_documents(block, document, topics, shape) >= TOPIC_MIN_DOCUMENTS)
    )
    score = np.where(eligible, share * np.log(lift, where=eligible, out=np.zeros(shape)), -np.inf)
    topic, _ = segments.top_k(torch.from_numpy(score), TOP_TOPICS)
    found = topic >= 0
    row = np.arange(block.n_features)[:, None]
    return TopTopics(
        topic.astype(np.int16),
        _pick(count, row, topic, found),
        _pick(share, row, topic, found).astype(np.float32),
        _pick(lift, row, topic, found).astype(np.float32),
    )


def _pick(table: NDArray[Any], row: Indices, topic: NDArray[np.int32], found: NDArray[np.bool_]) -> NDArray[Any]:
    if table.shape[1] == 0:
        return np.zeros(topic.shape, table.dtype)
    return np.where(found, table[row, topic], 0)


def _documents(
    block: FeatureBlock, document: NDArray[np.int32], topics: CorpusTopics, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """[features, topics] documents of the topic in which the feature is active."""
    starts = segments.run_starts(block.row, document)
    pairs = np.sort(block.row[starts].astype(np.int64) * len(topics.of_document) + document[starts] + 1)
    row, document = np.divmod(pairs[segments.run_starts(pairs)], len(topics.of_document))
    return _count(row, topics.of_document[document - 1], shape)


def _count(row: NDArray[Any], topic: NDArray[np.int16], shape: tuple[int, int]) -> NDArray[np.int64]:
    known = topic >= 0
    flat = np.bincount(row[known].astype(np.int64) * shape[1] + topic[known], minlength=shape[0] * shape[1])
    return flat.reshape(shape)
