"""The statistics of a feature, declared once: names, SQL types, sizes, thresholds and flags.

The computation, the table `feature`, its COPY, the API and the exports follow these declarations. This module imports
neither torch nor numpy, because the web process and the tables read it too.
"""

from dataclasses import dataclass
from typing import Literal, get_args

# --- sizes

HISTOGRAM_BINS = 50
"""Equal bins over (0, max]; bin b holds b/50 < value/max <= (b + 1)/50."""
BANDS = 5
"""Quantile bands of a feature's non-zero activations, 1 the weakest; band 0 holds the top examples."""
TOP_EXAMPLES = 20
EXAMPLES_PER_BAND = 5
TOP_TOKENS = 10
OUTPUT_TOKENS = 15
COACTIVE = 10
NEAR = 10
TOP_TOPICS = 3

DENSITY_BINS = 40
"""Features of an index by the logarithm of their density."""
REDUNDANCY_BINS = 40
"""Features of an index by the cosine of the nearest decoder direction, from 0 to 1."""

# --- floors

COACTIVE_MIN_JOINT = 5
"""A co-active pair needs this many tokens on which both are active …"""
COACTIVE_MIN_GIVEN_THIS = 0.01
"""… and this share of the tokens on which this feature is: rarer pairs say little of it, however exclusive."""
TOPIC_MIN_TOKENS = 10
"""A topic needs this many of the feature's tokens."""
TOPIC_MIN_DOCUMENTS = 3
"""A topic needs this many documents in which the feature is active: one long document is no pattern."""
MIN_EXAMPLES = 20
"""Coherence needs this many examples: fewer may be alike by chance."""

# --- health flags

HealthFlag = Literal[
    "dead", "dense", "duplicate", "positional", "special_token", "single_token", "splitting", "absorption"
]
HEALTH_FLAGS: tuple[HealthFlag, ...] = get_args(HealthFlag)
"""Flags for features that are not what they seem, in the order in which they are shown."""

PARTNER = 0.7
"""Least cosine, or correlation, of a feature's partner in another SAE."""
DENSE_DENSITY = 0.1
"""dense: active on more than this share of the counted tokens."""
DUPLICATE_COSINE = 0.95
"""duplicate: one of the near decoders has a cosine above this …"""
DUPLICATE_GIVEN = 0.5
"""… and is active on at least this share of the rarer one's tokens. (Alike but never together is splitting.)"""
SPLITTING_COSINE = 0.3
"""splitting, absorption: one of the near decoders, called the parent, has a cosine of at least this …"""
SPLITTING_TIMES = 2
"""… is active on at least this many times as many tokens, though it is not dense …"""
SPLITTING_GIVEN = 0.5
"""… and splitting: on at least this share of the feature's own tokens …"""
SPLITTING_COUNT = 10
"""… of which there are at least so many: fewer may be among another's by chance."""
ABSORPTION_GIVEN = 0.05
"""absorption: the parent is active on less than this share of the feature's tokens …"""
ABSORPTION_TOKENS = 3
"""… though one of the feature's first three top tokens is among the parent's ten."""
MIN_COUNT = 20
"""positional, special_token, single_token and absorption need this many activations: fewer may agree by chance."""
POSITIONAL_WINDOW = 16
"""positional: a window of sequence length / 16 positions …"""
POSITIONAL_SHARE = 0.9
"""… holds at least this share of the activations."""
SPECIAL_TOKEN_SHARE = 0.9
"""special_token: at least this share of the activations is on the first token after one that is not counted (BOS, the
separator of documents, any special token). Special tokens themselves are not counted, so nothing is known of them."""
SINGLE_TOKEN_SHARE = 0.95
"""single_token: one token id holds at least this share of the activation mass."""

HEALTH_THRESHOLDS: dict[str, float] = {
    "dense_density": DENSE_DENSITY,
    "duplicate_cosine": DUPLICATE_COSINE,
    "duplicate_given": DUPLICATE_GIVEN,
    "splitting_cosine": SPLITTING_COSINE,
    "splitting_times": SPLITTING_TIMES,
    "splitting_given": SPLITTING_GIVEN,
    "splitting_count": SPLITTING_COUNT,
    "absorption_given": ABSORPTION_GIVEN,
    "absorption_tokens": ABSORPTION_TOKENS,
    "min_count": MIN_COUNT,
    "positional_window": POSITIONAL_WINDOW,
    "positional_share": POSITIONAL_SHARE,
    "special_token_share": SPECIAL_TOKEN_SHARE,
    "single_token_share": SINGLE_TOKEN_SHARE,
}
"""As an index' provenance records them."""

# --- declarations

SqlType = Literal["bigint", "double precision", "real", "integer[]", "smallint[]", "real[]", "text[]"]


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic of a feature."""

    name: str
    """Of the array, of the column of the table `feature`, and of the API's field where it stands alone."""
    sql_type: SqlType
    description: str
    """In the API's reference."""
    required: bool = False
    """True if every index has it. Indexes published before a statistic was added lack it: there it is null."""


@dataclass(frozen=True, slots=True)
class RankedList:
    """Arrays of one row per feature that belong together: best first, and of `length` columns.

    Absent entries are -1 in the array of ids and 0 in the others; the database has rows cut to what is there.
    """

    name: str
    """Of the API's field."""
    length: int
    ids: Statistic
    beside: tuple[Statistic, ...]
    """What is known of each entry."""

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The ids and what stands beside them."""
        return self.ids, *self.beside


def _first(name: str, sql_type: SqlType, description: str) -> Statistic:
    """A statistic that every index has, because the first version computed it."""
    return Statistic(name, sql_type, description, required=True)


PLAIN: tuple[Statistic, ...] = (
    _first("count", "bigint", "Counted tokens on which it is active."),
    _first("density", "double precision", "Share of the counted tokens on which it is active."),
    _first("max", "real", "The highest activation."),
    _first("mean", "real", "Of the non-zero activations."),
    _first("histogram", "integer[]", "Non-zero activations in equal bins over (0, max]."),
    _first("band_edges", "real[]", "Quantile edges of the non-zero activations."),
    _first("health", "text[]", "Flags that ask for care, such as dead or dense."),
    Statistic(
        "coherence",
        "real",
        "How alike the tokens are on which its examples peak, times how much they say, in bits: features that can be "
        "named are often high. Null below 20 examples, and in indexes that were made without it.",
    ),
)
"""Statistics that stand alone. Band b lies between the edges b - 1 and b; edge 0 is the lowest activation."""

OUTPUT_LOGIT = (
    "Change of logit per unit of activation, before the final norm's division, less its mean over the SAE's features. "
    "Lists are in order of that difference in standard deviations over the features."
)

RANKED_LISTS: tuple[RankedList, ...] = (
    RankedList(
        "top_tokens",
        TOP_TOKENS,
        _first("top_token_ids", "integer[]", "Tokens by share of the feature's activation mass."),
        (
            _first("top_token_counts", "integer[]", "Counted tokens of this id on which the feature is active."),
            _first("top_token_shares", "real[]", "Share of the feature's activation mass."),
            _first("top_token_means", "real[]", "Mean activation on those tokens."),
        ),
    ),
    RankedList(
        "promoted",
        OUTPUT_TOKENS,
        _first(
            "promoted_ids",
            "integer[]",
            "Output tokens whose logits the decoder direction raises most, directly, for that token.",
        ),
        (_first("promoted_logits", "real[]", OUTPUT_LOGIT),),
    ),
    RankedList(
        "suppressed",
        OUTPUT_TOKENS,
        _first(
            "suppressed_ids",
            "integer[]",
            "Output tokens whose logits the decoder direction lowers most, directly, for that token.",
        ),
        (_first("suppressed_logits", "real[]", OUTPUT_LOGIT),),
    ),
    RankedList(
        "coactive",
        COACTIVE,
        _first("coactive", "integer[]", "Features active on the same tokens, by pointwise mutual information."),
        (
            _first("coactive_pmi", "real[]", "Pointwise mutual information, in nats."),
            _first("coactive_joint", "integer[]", "Tokens on which both are active."),
            _first("coactive_given_this", "real[]", "P(other active | this active)."),
            _first("coactive_given_other", "real[]", "P(this active | other active)."),
        ),
    ),
    RankedList(
        "near",
        NEAR,
        _first("near", "integer[]", "Other features of the SAE by cosine of the decoder directions."),
        (_first("near_cosine", "real[]", "Cosine of both decoder directions."),),
    ),
    RankedList(
        "topics",
        TOP_TOPICS,
        _first("topics", "smallint[]", "Over-represented topics, as places in the index' list of topic names."),
        (
            _first("topic_counts", "integer[]", "Counted tokens of the topic on which the feature is active."),
            _first("topic_shares", "real[]", "P(topic | active)."),
            _first("topic_lifts", "real[]", "P(topic | active) / P(topic)."),
        ),
    ),
)

STATISTICS: tuple[Statistic, ...] = (
    *PLAIN,
    *(statistic for ranked in RANKED_LISTS for statistic in ranked.statistics),
)
BY_NAME: dict[str, Statistic] = {statistic.name: statistic for statistic in STATISTICS}
