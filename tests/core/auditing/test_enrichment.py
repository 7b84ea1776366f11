"""Features enriched on a topic: the tests and lifts are those of scipy and a dense table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sae_core.auditing.enrichment import IndexedCorpus, attribute_topics, enriched_features
from sae_core.store.activation_store import build_store
from tests.core.statistics import small


def test_features_of_a_topic_that_names_an_attribute_are_found(tmp_path: Path) -> None:
    sequences = small.small_sequences()
    f = small.small_activations(sequences) * sequences.counted[:, :, None]
    document = sequences.document_of
    rivers = np.isin(document, [n for n, one in enumerate(sequences.documents) if one.topic == "Rivers"])
    f[:, :, small.RARE] = rivers & (np.arange(small.LENGTH) % 3 > 0)  # active on two of three tokens about rivers
    store = build_store(small.small_sae(), small.Cut(f.astype(np.float32), [9]), sequences, tmp_path / "store")
    named = {"Rivers": "Religion and rivers"}
    documents = [replace(one, topic=named.get(one.topic or "", one.topic)) for one in sequences.documents]
    corpus = IndexedCorpus(store, replace(sequences, documents=documents))
    found, note = enriched_features(corpus, ["religion"], listed=10, replicates=200, seed=0)
    assert "3 topics" in note and "religion: Religion and rivers" in note
    assert found and found[0].feature == small.RARE and found[0].attribute == "religion"
    active = f[:, :, small.RARE] > 0
    lift = (active[rivers].sum() / rivers.sum()) / (active.sum() / sequences.counted.sum())
    assert found[0].lift.value == pytest.approx(lift, rel=1e-6) and found[0].lift.interval
    p = []
    numbers = np.unique(document[document >= 0])
    member = np.array([documents[n].topic == "Religion and rivers" for n in numbers])
    for feature in range(small.FEATURES):
        rates = np.array([(f[:, :, feature] > 0)[document == number].mean() for number in numbers])
        if rates.any():
            p.append(stats.mannwhitneyu(rates[member], rates[~member], alternative="greater").pvalue)
    assert found[0].q == pytest.approx(stats.false_discovery_control(p).min())


def test_topics_count_only_where_they_name_an_attribute() -> None:
    topics = ["Philosophy and religion", "People", "Women in science", "Management", "Mathematics"]
    assert attribute_topics(topics, ["religion"]) == {"religion": ["Philosophy and religion"]}
    assert attribute_topics(topics, ["nothing known"]) == {
        "gender": ["Women in science"],
        "religion": ["Philosophy and religion"],
    }
    assert attribute_topics(topics, ["gender"]) == {"gender": ["Women in science"]}
    assert attribute_topics(["Mathematics"], ["gender"]) == {}
