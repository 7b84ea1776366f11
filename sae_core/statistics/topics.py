"""Topics of the corpus in which a feature is active more than their size would suggest."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
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
    n_topics = len(topics.names)
    document = topics.document[block.position]
    row, topic, count = _count_pairs(block.row, topics.of_document[document], n_topics)
    in_row, documents = _distinct_documents(block, document, len(topics.of_document))
    _, _, n_documents = _count_pairs(in_row, topics.of_document[documents], n_topics)  # of the same pairs
    share = count / block.count[row]
    lift = share * topics.all_tokens / topics.tokens[topic]
    eligible = (count >= TOPIC_MIN_TOKENS) & (lift > 1) & (n_documents >= TOPIC_MIN_DOCUMENTS)
    row, topic, count, share, lift = row[eligible], topic[eligible], count[eligible], share[eligible], lift[eligible]
    best = np.lexsort((topic, -share * np.log(lift), row))
    within = segments.rank_in_row(row, block.n_features)
    kept = best[within < TOP_TOPICS]
    place = row[kept], within[within < TOP_TOPICS]
    shape = (block.n_features, TOP_TOPICS)
    result = TopTopics(
        np.full(shape, -1, np.int16),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )
    result.topic[place] = topic[kept]
    result.count[place] = count[kept]
    result.share[place] = share[kept]
    result.lift[place] = lift[kept]
    return result


def _count_pairs(row: NDArray[Any], topic: NDArray[np.int16], n_topics: int) -> tuple[Indices, Indices, Indices]:
    """Return each (row, topic) that occurs, in order, and how often; -1 is not a topic.

    A table of all rows and topics would take 1 GB for the most topics that there may be.
    """
    known = topic >= 0
    pairs, counts = np.unique(row[known].astype(np.int64) * n_topics + topic[known], return_counts=True)
    rows, topics = np.divmod(pairs, max(n_topics, 1))
    return rows, topics, counts


def _distinct_documents(block: FeatureBlock, document: NDArray[np.int32], n_documents: int) -> tuple[Indices, Indices]:
    """Return the rows and documents (-1 = none) of which at least one token is active, each pair once."""
    starts = segments.run_starts(block.row, document)
    pairs = segments.distinct(block.row[starts].astype(np.int64) * n_documents + document[starts] + 1)
    row, document_and_one = np.divmod(pairs, n_documents)
    return row, document_and_one - 1
