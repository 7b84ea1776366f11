"""Which texts are probed, and that a verdict says no more than the intervals do."""

from collections import Counter
from typing import Any

import pytest

from app.errors import Unprocessable
from app.queries.text_sets import Split, TextItem
from app.services.probing import (
    MOST_TEST,
    MOST_TRAIN,
    PROBE_SETS,
    Probing,
    draw_texts,
    named_sets,
    read_probing,
    span,
    verdict,
)
from tests.probing import difference, probing


def items(labels: dict[str, int], splits: tuple[Split, ...] = ("train", "calibration", "test")) -> list[TextItem]:
    return [
        TextItem(number, f"{label} {number}", splits[number % len(splits)], label)
        for label, size in labels.items()
        for number in range(size)
    ]


def test_the_word_for_the_built_in_sets_stands_for_all_of_them() -> None:
    assert named_sets(["builtin"]) == list(PROBE_SETS)
    assert named_sets(["moods", "imdb", "builtin"])[:3] == ["moods", "imdb", "wikipedia-topics"]
    assert len(named_sets(["imdb", "builtin"])) == len(PROBE_SETS)


def test_classes_have_equal_numbers_of_texts_as_far_as_there_are() -> None:
    drawn = draw_texts("moods", items({"glad": 3000, "sad": 3000, "rare": 60, "odd": 9}))
    counts = Counter((item.label, item.split == "test") for item in drawn)
    assert counts == {
        ("glad", False): MOST_TRAIN // 3, ("sad", False): MOST_TRAIN // 3, ("rare", False): 40,
        ("glad", True): MOST_TEST // 3, ("sad", True): MOST_TEST // 3, ("rare", True): 20,
    }  # fmt: skip
    backwards = draw_texts("moods", items({"glad": 3000, "sad": 3000, "rare": 60, "odd": 9})[::-1])
    assert {item.text for item in backwards} == {item.text for item in drawn}


@pytest.mark.parametrize(
    "texts",
    [
        items({"only": 100}),
        items({"glad": 100, "few": 20}),
        items({"glad": 100, "sad": 100}, splits=("train",)),
        items({f"class {number}": 24 for number in range(21)}),
        [TextItem(number, "words", "test") for number in range(100)],
        [],
    ],
)
def test_a_set_that_cannot_be_probed_is_refused(texts: list[TextItem]) -> None:
    with pytest.raises(Unprocessable, match="moods has"):
        draw_texts("moods", texts)


def said(**sets: dict[str, tuple[float, float, float]]) -> list[str]:
    return verdict(Probing.model_validate(probing(**sets)))


def test_better_is_said_only_where_the_whole_interval_is_above_zero() -> None:
    found = said(
        imdb={"random": (0.12, 0.08, 0.16)}, moods={"random": (0.05, -0.01, 0.11)}, odd={"random": (0.05, 0.0, 0.1)}
    )
    assert found[0] == (
        "Compared with a random dictionary, its features are better at sentiment (+0.12, 0.08 to 0.16); not shown to "
        "be better or worse at moods (+0.05, −0.01 to 0.11), odd (+0.05, 0.00 to 0.10)."
    )


def test_a_difference_that_is_nothing_in_the_digits_shown_is_not_claimed() -> None:
    assert said(moods={"random": (0.03, 0.004, 0.06)})[0].startswith(
        "Compared with a random dictionary, its features are not shown"
    )
    assert said(moods={"random": (-0.03, -0.06, -0.004)})[0].startswith(
        "Compared with a random dictionary, its features are not shown"
    )


def test_worse_is_said_only_where_the_whole_interval_is_below_zero() -> None:
    found = said(moods={"channels": (-0.12, -0.2, -0.03)}, odd={"channels": (-0.1, -0.2, 0.0)})
    assert found[1] == (
        "Compared with as many single channels of the activations, its features are worse at moods (−0.12, −0.20 to "
        "−0.03); not shown to be better or worse at odd (−0.10, −0.20 to 0.00)."
    )


def test_the_activations_are_better_everywhere_only_where_they_are_on_every_set() -> None:
    worse, open_ = (-0.1, -0.2, -0.05), (-0.1, -0.2, 0.01)
    everywhere = "The plain activations are better everywhere: use features to see, not to classify."
    assert everywhere in said(moods={"activations": worse}, odd={"activations": worse})
    assert everywhere not in said(moods={"activations": worse}, odd={"activations": open_})


def test_an_sae_that_was_not_probed_has_no_probing() -> None:
    assert read_probing({"l0": 32.0}) is None
    stored: dict[str, Any] = {"probing": {**probing(imdb={}), "of a later version": 1}}
    found = read_probing(stored)
    assert found is not None and found.sets[0].subject == "sentiment"


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert span(
        Probing.model_validate(probing(imdb={"random": (0.001, -0.002, 0.004)})).sets[0].difference("random")
    ) == ("0.00, 0.00 to 0.00")
    assert difference("random", 0.1, 0.0, 0.2)["against"] == "random"
