"""All statistics of all features, exactly, in one pass over an activation store.

`spec` declares the statistics. Each group has a file with its definitions: `moments`, `examples`, `tokens`, `topics`,
`coactivation`, `coherence`, `decoders`, `health`. This module runs them over blocks of features and joins the results.
They depend on the store's contents and the seed alone: not on how features or sequences are cut into blocks and shards.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError
from sae_core.models import InputTokens, OutputDirections
from sae_core.progress import Progress, rescaled, silent
from sae_core.saes.base import SAE
from sae_core.statistics import spec
from sae_core.statistics.coactivation import Coactive, coactive_features
from sae_core.statistics.coherence import coherence
from sae_core.statistics.decoders import NearDecoders, OutputTokens, near_decoders, output_tokens
from sae_core.statistics.examples import choose_examples, concatenate_examples
from sae_core.statistics.health import Placement, follows_uncounted, health_flags, placement
from sae_core.statistics.map import NEIGHBOURS
from sae_core.statistics.moments import MOMENTS, order_by_strength
from sae_core.statistics.tokens import TopTokens, top_tokens
from sae_core.statistics.topics import CorpusTopics, TopTopics, corpus_topics, top_topics
from sae_core.statistics.types import Examples, FeatureStatistics
from sae_core.store.activation_store import ActivationStore, weights_sha256
from sae_core.store.segments import concatenate

STATISTICS_VERSION = 3
"""Raise it when a definition changes."""

OUTPUT_SCORE = "(logit effect - its mean over features) / its standard deviation over features"

BLOCK_NONZEROS = 1 << 20
"""Non-zeros held at once; a single feature may have more."""
BLOCK_FEATURES = 1024
"""Features held at once."""

SHARES = (0.0, 0.4, 0.5, 0.75, 1.0)
"""Progress at the ends of the parts: the features' own activations, near decoders, pairs, output tokens."""


@dataclass(frozen=True)
class _OwnStatistics:
    """Statistics of each feature's own activations, for all features."""

    moments: dict[str, NDArray[Any]]
    examples: Examples
    tokens: TopTokens
    topics: TopTopics
    placement: Placement


def compute_statistics(
    store: ActivationStore,
    sequences: Sequences,
    sae: SAE,
    output: OutputDirections | str,
    input_tokens: InputTokens,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> FeatureStatistics:
    """Compute the statistics of every feature.

    Args:
        store: activations of `sae` on `sequences`.
        sequences: token ids, documents, and what is counted.
        sae: gives the decoder directions.
        output: `LanguageModel.output_directions()`, or the reason why there are no output tokens, as a clause.
        input_tokens: `LanguageModel.input_tokens()`.
        seed: of the examples drawn from the bands.
        progress: in features.

    Raises:
        ArtifactError: if the store is of another SAE or of other sequences.
    """
    _check(store, sequences, sae)
    tokens = sequences.n_counted
    steps = [rescaled(progress, store.d_sae, SHARES[i], SHARES[i + 1]) for i in range(4)]
    corpus = corpus_topics(sequences)
    own = _own_activations(store, sequences, corpus, seed, steps[0])
    neighbours = near_decoders(sae.W_dec, NEIGHBOURS - 1, steps[1])
    near = neighbours.nearest(spec.NEAR)
    coactive, joint_near = coactive_features(store, tokens, near.ids, steps[2])
    output_lists = output_tokens(sae.W_dec, None if isinstance(output, str) else output, steps[3])
    flags = health_flags(store.count, tokens, own.placement, own.tokens, near, joint_near)
    progress(store.d_sae, store.d_sae)
    return FeatureStatistics(
        tokens=tokens,
        arrays={
            **own.moments,
            "density": store.count / max(tokens, 1),
            "coherence": coherence(own.examples, sequences, input_tokens, store.d_sae),
            **_lists(own.tokens, own.topics, output_lists, coactive, near),
        },
        health=flags,
        examples=own.examples,
        topic_names=corpus.names,
        provenance=_provenance(store, seed, output),
        neighbours=neighbours,
    )


def _lists(
    tokens: TopTokens, topics: TopTopics, output: OutputTokens, coactive: Coactive, near: NearDecoders
) -> dict[str, NDArray[Any]]:
    """Return the arrays of the ranked lists by the names that `spec` declares."""
    return {
        "top_token_ids": tokens.ids,
        "top_token_counts": tokens.counts,
        "top_token_shares": tokens.shares,
        "top_token_means": tokens.means,
        "promoted_ids": output.promoted_ids,
        "promoted_logits": output.promoted_logits,
        "suppressed_ids": output.suppressed_ids,
        "suppressed_logits": output.suppressed_logits,
        "coactive": coactive.ids,
        "coactive_pmi": coactive.pmi,
        "coactive_joint": coactive.joint,
        "coactive_given_this": coactive.given_this,
        "coactive_given_other": coactive.given_other,
        "near": near.ids,
        "near_cosine": near.cosine,
        "topics": topics.topic,
        "topic_counts": topics.count,
        "topic_shares": topics.share,
        "topic_lifts": topics.lift,
    }


def _check(store: ActivationStore, sequences: Sequences, sae: SAE) -> None:
    same = (weights_sha256(sae), sequences.sha256) == (store.plan["sae_sha256"], store.plan["sequences_sha256"])
    if not same:
        raise ArtifactError(
            f"The activation store at {store.folder} was made from another SAE or other sequences. "
            "Delete it and run the index again."
        )


def _own_activations(
    store: ActivationStore, sequences: Sequences, corpus: CorpusTopics, seed: int, progress: Progress
) -> _OwnStatistics:
    token_ids = sequences.token_ids.reshape(-1)
    follows = follows_uncounted(sequences)
    parts = []
    for start, stop in store.feature_blocks(BLOCK_NONZEROS, BLOCK_FEATURES):
        block = store.block(start, stop)
        strongest_first = order_by_strength(block)
        parts.append(
            _OwnStatistics(
                {name: moment(block, strongest_first) for name, moment in MOMENTS.items()},
                choose_examples(block, strongest_first, sequences.length, seed),
                top_tokens(block, token_ids),
                top_topics(block, corpus),
                placement(block, sequences.length, follows),
            )
        )
        progress(stop, store.d_sae)
    return _OwnStatistics(
        {name: np.concatenate([part.moments[name] for part in parts]) for name in MOMENTS},
        concatenate_examples([part.examples for part in parts]),
        concatenate([part.tokens for part in parts]),
        concatenate([part.topics for part in parts]),
        concatenate([part.placement for part in parts]),
    )


def _provenance(store: ActivationStore, seed: int, output: OutputDirections | str) -> dict[str, Any]:
    """Return the inputs of the statistics and every choice in their definitions, as JSON."""
    return {
        "store": store.plan,
        "statistics_version": STATISTICS_VERSION,
        "statistics": sorted(declared.name for declared in spec.STATISTICS),
        "torch_version": str(torch.__version__),
        "seed": seed,
        "not_counted": "padding, BOS, separators of documents and every other special token of the tokenizer",
        "output_tokens": {"absent": output}
        if isinstance(output, str)
        else {"score": OUTPUT_SCORE, "tokens": len(output.token_ids)},
        "coactive": {
            "min_joint": spec.COACTIVE_MIN_JOINT,
            "min_given_this": spec.COACTIVE_MIN_GIVEN_THIS,
            "pmi": "nats",
        },
        "coherence": {"min_examples": spec.MIN_EXAMPLES, "words": "equal but for case and white space"},
        "topics": {"min_tokens": spec.TOPIC_MIN_TOKENS, "min_documents": spec.TOPIC_MIN_DOCUMENTS},
        "health": spec.HEALTH_THRESHOLDS,
    }
