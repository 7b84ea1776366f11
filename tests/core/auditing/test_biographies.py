"""Templated biographies are the same in both versions but for gender, and never name a profession."""

from sae_core.auditing import last_names, make_biographies

NAMES = ["Baker", "Okafor", "Lindgren", "Tanaka"]


def test_biographies_come_in_two_versions_by_seed() -> None:
    texts = make_biographies(NAMES, train=40, test=20, seed=3)
    assert len(texts) == 120 and texts == make_biographies(NAMES, train=40, test=20, seed=3)
    assert texts != make_biographies(NAMES, train=40, test=20, seed=4)
    assert not any(word in text.text.casefold() for text in texts for word in ("nurse", "professor", "{", "}"))
    for woman, man in zip(texts[::2], texts[1::2], strict=True):
        assert (woman.group, man.group) == ("female", "male") and woman.pair == man.pair and woman.label == man.label
        pairs = zip(woman.text.split(), man.text.split(), strict=True)
        changed = {(a.casefold(), b.casefold()) for a, b in pairs if a != b}
        assert ("ms", "mr") in changed and changed <= {("ms", "mr"), ("she", "he"), ("her", "his"), ("her", "him")}


def test_activities_of_test_texts_are_not_in_training() -> None:
    texts = make_biographies(NAMES, train=200, test=100)
    activity = {
        part: {text.text.split("For many years")[1].split(".")[0] for text in texts if text.fields["part"] == part}
        for part in ("train", "test")
    }
    assert len(activity["train"]) == 2 * 16 and not activity["train"] & activity["test"]


def test_last_names_are_plain_and_each_is_there_once() -> None:
    names = {
        "a": {"first_names": ["Sara"], "last_names": ["Teal", "Nutter", "Ō"]},
        "b": {"last_names": ["Teal", "MC", "de la"]},
        "religion": ["Amish"],
    }
    assert last_names(names) == ["Nutter", "Teal"]
