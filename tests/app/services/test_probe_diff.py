from app.services.probe import ProbeFeature, ProbeResult, ProbeToken
from app.services.probe_diff import align, diff


def result(ids: list[int], activations: dict[int, list[float]]) -> ProbeResult:
    tokens = tuple(ProbeToken(number, b"x", "x", False) for number in ids)
    features = tuple(
        ProbeFeature(index, None, max(row), row.index(max(row)), None, tuple(row), scale=10.0)
        for index, row in activations.items()
    )
    return ProbeResult(tokens, features, ((),) * len(ids), len(features))


def test_equal_tokens_stand_for_each_other_and_a_longer_part_for_nothing() -> None:
    assert align([1, 2, 3], [1, 9, 3]) == ((0, 0), (1, 1), (2, 2))
    assert align([1, 2, 3, 4], [1, 9, 4]) == ((0, 0), (1, 1), (2, None), (3, 2))
    assert align([1, 2], [1, 5, 6, 2]) == ((0, 0), (None, 1), (None, 2), (1, 3))


def test_features_are_ordered_by_their_difference_between_aligned_tokens() -> None:
    a = result([1, 2, 3], {7: [0, 4, 0], 8: [5, 0, 0], 9: [0, 0, 2]})
    b = result([1, 9, 3], {8: [5, 0, 0], 9: [0, 0, 3], 5: [0, 6, 0]})
    found = diff(a, b, 10)

    assert [feature.index for feature in found.features] == [5, 7, 9, 8]
    assert [feature.active_in for feature in found.features] == ["b", "a", "both", "both"]
    assert [round(feature.difference, 6) for feature in found.features] == [0.6, 0.4, 0.1, 0.0]
    assert [feature.pair for feature in found.features[:3]] == [1, 1, 2]
    assert found.differing == 3
    assert [feature.index for feature in diff(a, b, 1).features] == [5]


def test_a_feature_that_moves_by_a_token_differs_although_its_maximum_does_not() -> None:
    a, b = result([1, 2], {3: [4, 0]}), result([1, 2], {3: [0, 4]})
    assert diff(a, b, 1).features[0].difference == 0.4
