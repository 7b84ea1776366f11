"""Labels that several features share."""

import pytest

from app.services import collisions
from app.services.collisions import Collision, find_collisions, normalise


def test_the_same_words_and_nearly_the_same_words_collide() -> None:
    found = find_collisions(
        [
            (1, "Names of months"),
            (2, "names of months."),
            (2, "a label of its own"),
            (3, "names of months"),
            (4, "names of month"),
            (5, "months' names, of"),
            (6, "head injuries in sport"),
            (7, "head injury"),
            (8, "→"),
            (9, "→"),
            (9, "→"),
        ]
    )
    assert (found.labelled, found.sharing, found.near_compared) == (9, 7, True)
    months, arrows = found.groups
    assert (months.features, months.exact) == ((1, 2, 3, 4, 5), False)
    assert set(months.explanations) == {
        "Names of months", "names of months.", "names of months", "names of month", "months' names, of",
    }  # fmt: skip
    assert arrows == Collision(("→",), (8, 9), exact=True)


def test_several_labels_of_one_feature_are_no_collision() -> None:
    assert find_collisions([(1, "dates"), (1, "Dates"), (2, "names")]).groups == ()
    assert find_collisions([]).labelled == 0


def test_of_very_many_texts_only_equal_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collisions, "MAX_COMPARED", 2)
    found = find_collisions([(1, "dates"), (2, "dates"), (3, "date"), (4, "names")])
    assert not found.near_compared
    assert [group.features for group in found.groups] == [(1, 2)]


@pytest.mark.parametrize("blocks", [1, 2])
def test_near_texts_are_found_across_blocks(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collisions, "_AT_ONCE", 3 // blocks)
    found = find_collisions([(1, "capital letters"), (2, "numbers"), (3, "capital letter")])
    assert [group.features for group in found.groups] == [(1, 3)]


def test_words_are_compared_without_case_width_and_punctuation() -> None:
    assert normalise("  The “Ｍonth’s” NAMES_ ") == "the month s names"
    assert normalise("???") == "???"
