"""All statistics of all features, exactly, in one pass over an activation store.

`spec` declares the statistics. Each group has a file with its definitions: `moments`, `examples`, `tokens`, `topics`,
`coactivation`, `coherence`, `decoders`, `health`. `ranges` runs those of activations over ranges of features; this
module joins them, and adds those of the decoder.
They depend on the store's contents and the seed alone: not on how features or sequences are cut into blocks and shards.
"""

from typing import Any

import torch
from numpy.typing import NDArray

from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError
from sae_core.models import InputTokens, OutputDirections
from sae_core.progress import Progress, rescaled, silent
from sae_core.saes.base import SAE
from sae_core.shards import MakeShards, make_shards
from sae_core.statistics import spec
from sae_core.statistics.coactivation import Coactive
from sae_core.statistics.coherence import coherence
from sae_core.statistics.decoders import NearDecoders, OutputTokens, near_decoders, output_tokens
from sae_core.statistics.health import health_flags
from sae_core.statistics.map import NEIGHBOURS
from sae_core.statistics.ranges import RangeShards
from sae_core.statistics.tokens import TopTokens
from sae_core.statistics.topics import TopTopics, corpus_topics
from sae_core.statistics.types import FeatureStatistics
from sae_core.store.activation_store import ActivationStore, weights_sha256

STATISTICS_VERSION = 3
"""Raise it when a definition changes."""

OUTPUT_SCORE = "(logit effect - its mean over features) / its standard deviation over features"

SHARES = (0.0, 0.1, 0.75, 1.0)
"""Progress at the ends of the parts: near decoders, the ranges of features, their output tokens; as measured."""


def compute_statistics(
    store: ActivationStore,
    sequences: Sequences,
    sae: SAE,
    output: OutputDirections | str,
    input_tokens: InputTokens,
    *,
    seed: int = 0,
    make: MakeShards = make_shards,
    progress: Progress = silent,
) -> FeatureStatistics:
    """Compute the statistics of every feature. If it is killed, the same call continues after the last whole range.

    Processes that may do so for one store hold its folder's `sae_core.locks.folder_lock` meanwhile, except those that
    help one of them by `RangeShards.join`.

    Args:
        store: activations of `sae` on `sequences`.
        sequences: token ids, documents, and what is counted.
        sae: gives the decoder directions.
        output: `LanguageModel.output_directions()`, or the reason why there are no output tokens, as a clause.
        input_tokens: `LanguageModel.input_tokens()`.
        seed: of the examples drawn from the bands.
        make: computes the ranges of features, with other processes or alone.
        progress: in features.

    Raises:
        ArtifactError: if the store is of another SAE or of other sequences.
    """
    _check(store, sequences, sae)
    tokens = sequences.n_counted
    steps = [rescaled(progress, store.d_sae, SHARES[i], SHARES[i + 1]) for i in range(3)]
    neighbours = near_decoders(sae.W_dec, NEIGHBOURS - 1, steps[0])
    near = neighbours.nearest(spec.NEAR)
    ranges = RangeShards(store, sequences, near.ids, seed)
    ranges.prepare()
    make(ranges, progress=steps[1])
    found = ranges.merged()
    output_lists = output_tokens(sae.W_dec, None if isinstance(output, str) else output, steps[2])
    flags = health_flags(store.count, tokens, found.placement, found.tokens, near, found.joint_near)
    ranges.remove()
    progress(store.d_sae, store.d_sae)
    return FeatureStatistics(
        tokens=tokens,
        arrays={
            **found.moments,
            "density": store.count / max(tokens, 1),
            "coherence": coherence(found.examples, sequences, input_tokens, store.d_sae),
            **_lists(found.tokens, found.topics, output_lists, found.coactive, near),
        },
        health=flags,
        examples=found.examples,
        topic_names=corpus_topics(sequences).names,
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
