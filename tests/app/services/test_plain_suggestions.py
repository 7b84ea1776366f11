from typing import Any

import pytest

from app.queries.features import FeatureDetail, Histogram, OutputToken, TopicShare, TopToken
from app.services.plain_suggestions import plain_suggestion


def top(text: bytes, share: float, *, special: bool = False) -> TopToken:
    return TopToken(0, text, special, 10, share, 1.0)


def detail(**changes: Any) -> FeatureDetail:
    """Return a feature with these statistics."""
    own: dict[str, Any] = {
        "index": 3, "tokens": 1000, "density": 0.01, "count": 10, "max": 8.0, "mean": 2.0,
        "histogram": Histogram((), ()), "band_edges": (), "top_tokens": (), "promoted": (), "suppressed": (),
        "coactive": (), "near": (), "topics": (), "health": (), "labels": (), "label": None, "extra": {},
    }  # fmt: skip
    return FeatureDetail(**{**own, **changes})


def test_a_sentence_names_tokens_topics_and_what_is_promoted() -> None:
    own = detail(
        top_tokens=(top(b" her", 0.4), top(b"her", 0.3), top(b"<s>", 0.2, special=True), top(b" she", 0.05)),
        promoted=(
            OutputToken(1, b" mother", False, 2.0),
            OutputToken(2, b"\xff", False, 2.0),
            OutputToken(3, b"\n", False, 1.0),
        ),
        topics=(TopicShare("people", 8, 0.8, 3.0), TopicShare("war", 8, 0.3, 1.1)),
    )
    assert plain_suggestion(own) == (
        "Mostly “her” (70% of its activation); above all in texts on people (80%); "
        "raises “mother” and line breaks as the next token"
    )


def test_a_feature_of_many_tokens_is_said_to_be_one() -> None:
    own = detail(top_tokens=(top(b"a", 0.1), top(b"b", 0.2), top(b"c", 0.1), top(b"d", 0.1), top(b"e", 0.01)))
    assert plain_suggestion(own) == "Many different tokens, most of all “b”, “a” and “c” (40% of its activation)"
    dense = plain_suggestion(detail(top_tokens=(top(b"the", 0.01),)))
    assert dense == "Very many different tokens, of which none has 2% of its activation"


@pytest.mark.parametrize(
    "own", [detail(), detail(count=0, top_tokens=(top(b"a", 0.9),)), detail(top_tokens=(top(b"\xff", 0.9),))]
)
def test_there_is_no_sentence_where_nothing_can_be_named(own: FeatureDetail) -> None:
    assert plain_suggestion(own) is None
