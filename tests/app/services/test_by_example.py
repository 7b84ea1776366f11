"""Ranking of features by chosen tokens; tests/web/api/test_by_example.py tests it from text to answer."""

from hypothesis import given
from hypothesis import strategies as st

from app.services.by_example import ranked
from app.services.inference_messages import ProbeAnswer

Entries = dict[tuple[int, int], tuple[float, float]]
"""Activation and percentile by feature and position."""


def answer(entries: Entries, tokens: int) -> ProbeAnswer:
    """As the inference process gives it: by feature and then by position."""
    ordered = sorted(entries)
    return ProbeAnswer(
        token_ids=[0] * tokens,
        ends=list(range(1, tokens + 1)),
        counted=[True] * tokens,
        features=[feature for feature, _ in ordered],
        positions=[position for _, position in ordered],
        activations=[entries[key][0] for key in ordered],
        percentiles=[entries[key][1] for key in ordered],
        ranked=[],
        maxima=[],
    )


def test_a_feature_active_on_all_chosen_tokens_ranks_above_one_strong_on_one() -> None:
    entries = {(3, 1): (9.0, 99.0), (5, 1): (2.0, 60.0), (5, 4): (1.0, 50.0), (7, 2): (8.0, 100.0)}
    found = ranked(answer(entries, tokens=5), (1, 4))
    assert [(feature.index, feature.percentile, feature.activations) for feature in found] == [
        (5, 55.0, (2.0, 1.0)),
        (3, 49.5, (9.0, 0.0)),
    ]


def test_equal_percentiles_are_ordered_by_feature_number() -> None:
    entries = {(feature, 0): (1.0, 40.0) for feature in (9, 2, 4)}
    assert [feature.index for feature in ranked(answer(entries, tokens=1), (0,))] == [2, 4, 9]


def test_no_chosen_token_gives_no_features() -> None:
    assert ranked(answer({(1, 0): (1.0, 40.0)}, tokens=1), ()) == []


_values = st.tuples(st.floats(0.01, 100), st.integers(0, 100).map(float))


@given(
    entries=st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 5)), _values),
    chosen=st.sets(st.integers(0, 5), min_size=1).map(sorted),
)
def test_the_percentile_is_the_mean_over_the_chosen_tokens(entries: Entries, chosen: list[int]) -> None:
    found = {feature.index: feature for feature in ranked(answer(entries, tokens=6), chosen)}
    assert set(found) == {feature for feature, position in entries if position in chosen}
    for number, feature in found.items():
        own = [entries.get((number, position), (0.0, 0.0)) for position in chosen]
        assert list(feature.activations) == [activation for activation, _ in own]
        assert feature.percentile == sum(percentile for _, percentile in own) / len(chosen)
    percentiles = [feature.percentile for feature in found.values()]
    assert percentiles == sorted(percentiles, reverse=True)
