"""Features that are more active in documents of a protected attribute, by the metadata of the index' corpus.

A corpus has titles and topics, and seldom anything on people. A topic counts as an attribute if its name says one; it
is about documents on a subject then, not about people. What there is and is not is said in a note.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import sparse, stats

from sae_core.auditing.config import MIN_PAIRS
from sae_core.auditing.intervals import benjamini_hochberg, bootstrap_weights, figure
from sae_core.auditing.results import Enriched
from sae_core.corpora import Sequences
from sae_core.store.activation_store import ActivationStore

_WORDS: Mapping[str, str] = {
    "gender": r"gender|wom[ae]n|m[ae]n|females?|males?|feminism",
    "race": r"race|racial|ethnic\w*|black|asian|african",
    "nationality": r"nationalit\w+|countr(y|ies)|nations?|immigra\w+",
    "religion": r"religio\w+|islam\w*|christian\w*|juda\w+|hindu\w*|buddh\w+",
    "age": r"age|elderly|youth|children",
    "sexual-orientation": r"lgbt\w*|gay|lesbian|homosexual\w*|sexuality",
    "disability": r"disab\w+",
}
_BLOCK = 256
"""Features tested at once: their rates by document are dense."""
_Rates = Float64[np.ndarray, "document feature"]


@dataclass(frozen=True)
class IndexedCorpus:
    """A corpus with all activations of the SAE on it."""

    store: ActivationStore
    sequences: Sequences


def attribute_topics(topics: Iterable[str], attributes: Iterable[str]) -> dict[str, list[str]]:
    """Return the topics whose name says an attribute, by attribute; all known attributes if none of these is one."""
    asked = {name for name in _WORDS for attribute in attributes if name in attribute.casefold()}
    found = {
        name: [topic for topic in sorted(set(topics)) if re.search(rf"\b({_WORDS[name]})\b", topic.casefold())]
        for name in sorted(asked or _WORDS)
    }
    return {name: own for name, own in found.items() if own}


def enriched_features(
    corpus: IndexedCorpus, attributes: Iterable[str], *, listed: int, replicates: int, seed: int
) -> tuple[list[Enriched], str]:
    """Return the features that are most enriched on attributes, and what metadata there is.

    The rate of a feature is the share of a document's counted tokens on which it is active. Rates are compared between
    documents by the Mann–Whitney test, because the tokens of a document resemble each other. Lift is the rate over all
    tokens of the attribute's documents by that over all tokens.
    """
    documents = corpus.sequences.documents
    topics = sorted({document.topic for document in documents if document.topic is not None})
    by_attribute = attribute_topics(topics, attributes)
    note = _note(topics, by_attribute)
    document_of = corpus.sequences.document_of.reshape(-1)
    counted = document_of[corpus.sequences.counted.reshape(-1)]
    tokens = np.bincount(counted[counted >= 0], minlength=len(documents)).astype(float)
    found: list[Enriched] = []
    for attribute, own in by_attribute.items():
        members = np.array([document.topic in own for document in documents])
        if members[tokens > 0].sum() < MIN_PAIRS:
            note += f" {attribute}: fewer than {MIN_PAIRS} documents."
            continue
        found += _enriched(corpus.store, document_of, tokens, members, attribute, listed, replicates, seed)
    return found, note


def _note(topics: list[str], by_attribute: Mapping[str, list[str]]) -> str:
    if not topics:
        return "The corpus has no topics, and no metadata on protected attributes."
    said = "; ".join(f"{attribute}: {', '.join(own)}" for attribute, own in by_attribute.items())
    which = f"Topics that name one, as a subject: {said}." if said else "No topic names one that this audit is about."
    return f"The corpus has {len(topics)} topics as metadata and nothing on the protected attributes of people. {which}"


def _enriched(
    store: ActivationStore,
    document_of: np.ndarray,
    tokens: Float64[np.ndarray, " document"],
    members: Bool[np.ndarray, " document"],
    attribute: str,
    listed: int,
    replicates: int,
    seed: int,
) -> list[Enriched]:
    there = tokens > 0
    own = members[there]
    p = np.ones(store.d_sae)
    for start in range(0, store.d_sae, _BLOCK):
        counts = _active_tokens(store, start, min(start + _BLOCK, store.d_sae), document_of, len(tokens))[there]
        rates = counts / tokens[there, None]
        active = counts.any(axis=0)
        test = stats.mannwhitneyu(rates[own][:, active], rates[~own][:, active], alternative="greater", axis=0)
        p[start : start + _BLOCK][active] = test.pvalue
    tested = np.flatnonzero(store.count > 0)
    q = np.array(benjamini_hochberg(p[tested].tolist()))
    best = tested[np.lexsort((p[tested], q))[:listed]]
    q_of = dict(zip(tested.tolist(), q.tolist(), strict=True))
    weights = bootstrap_weights(int(there.sum()), replicates, seed)
    size, whole = weights[:, own] @ tokens[there][own], weights @ tokens[there]
    found = []
    for feature in best.tolist():
        if q_of[feature] > 0.05:
            continue
        active = _active_tokens(store, feature, feature + 1, document_of, len(tokens))[there, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            lift = figure((weights[:, own] @ active[own] / size) / (weights @ active / whole))
        if lift is not None:
            found.append(Enriched(feature, attribute, lift, q_of[feature]))
    return sorted(found, key=lambda one: -one.lift.value)


def _active_tokens(store: ActivationStore, start: int, stop: int, document_of: np.ndarray, documents: int) -> _Rates:
    """Return on how many tokens of each document features `start` to `stop - 1` are active."""
    block = store.block(start, stop)
    document = document_of[block.position]
    known = document >= 0
    ones = np.ones(int(known.sum()))
    counts = sparse.coo_array((ones, (document[known], block.row[known])), shape=(documents, stop - start))
    dense: _Rates = counts.toarray()
    return dense
