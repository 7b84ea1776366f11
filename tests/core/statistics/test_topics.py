"""Topics of a feature: that memory follows the activations, not features times topics."""

import tracemalloc

import numpy as np

from sae_core.statistics.ranges import BLOCK_FEATURES
from sae_core.statistics.topics import MAX_TOPICS, CorpusTopics, top_topics
from sae_core.store.activation_store import FeatureBlock

PER_DOCUMENT, DOCUMENTS_PER_TOPIC = 4, 3


def corpus_of_the_most_topics() -> CorpusTopics:
    """Three documents of four tokens on each of 32,767 topics."""
    of_document = np.append(np.repeat(np.arange(MAX_TOPICS, dtype=np.int16), DOCUMENTS_PER_TOPIC), np.int16(-1))
    document = np.repeat(np.arange(len(of_document) - 1, dtype=np.int32), PER_DOCUMENT)
    tokens = np.full(MAX_TOPICS, DOCUMENTS_PER_TOPIC * PER_DOCUMENT)
    return CorpusTopics([f"{i:05}" for i in range(MAX_TOPICS)], of_document, document, tokens, len(document))


def test_memory_does_not_grow_with_features_times_topics() -> None:
    topics = corpus_of_the_most_topics()
    per_topic = DOCUMENTS_PER_TOPIC * PER_DOCUMENT
    # Feature i is active on topic 31 i, on topic 31 i + 1 but for one token, and on a few tokens elsewhere.
    own = [np.arange(2 * per_topic - 1) + 31 * i * per_topic for i in range(BLOCK_FEATURES)]
    positions = [np.unique(np.append(of_feature, [0, 40_000, 80_000])) for of_feature in own]
    indptr = np.append(0, np.cumsum([len(of_feature) for of_feature in positions]))
    position = np.concatenate(positions).astype(np.int32)
    block = FeatureBlock(0, indptr, position, np.ones(len(position), np.float32))
    tracemalloc.start()
    found = top_topics(block, topics)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * len(position) + 64 * BLOCK_FEATURES * 3  # a table would be 268 MB
    far = np.arange(2, BLOCK_FEATURES)  # the first two are active near position 0 anyway
    np.testing.assert_array_equal(found.topic[far, 0], 31 * far)
    np.testing.assert_array_equal(found.topic[far, 1], 31 * far + 1)
    np.testing.assert_array_equal(found.topic[far, 2], -1)
    np.testing.assert_array_equal(found.count[far, :2], np.broadcast_to([per_topic, per_topic - 1], (len(far), 2)))
