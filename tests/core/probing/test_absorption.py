"""Absorption on arrays of which the truth is known, and of which sae-bench's own code says what it is.

tests/fixtures/probing/make_absorption.py runs that code.
"""

from pathlib import Path

import numpy as np
import pytest

from sae_core.probing.absorption import absorption_fraction, letter_features, measure_absorption

SAE_BENCH = Path(__file__).parents[2] / "fixtures" / "probing" / "absorption.npz"
LETTERS = "abcdefgh"
P = np.array([1.0, 0.0, 0.0])
W_DEC = np.array(
    [
        [1.0, 0.0, 0.0],  # the letter's feature
        [0.6, 0.8, 0.0],  # of a word, and of the letter
        [0.6, 0.0, 0.8],  # another
        [0.05, 1.0, 0.0],  # hardly along the letter
        [-0.8, 0.0, 0.6],  # against it
        [0.5, 0.5, 0.5],
        [0.5, 0.5, -0.5],
    ]
)


@pytest.mark.parametrize(
    ("f", "projection", "fraction"),
    [
        ({0: 10.0}, 10.0, 0.0),  # the letter's own feature has it all
        ({1: 10.0}, 6.0, 1.0),  # another has it all
        ({0: 4.0, 1: 10.0}, 10.0, 0.6),  # 4 and 6
        ({0: 4.0, 1: 20.0}, 10.0, 0.6),  # 12, of which 6 are missing
        ({0: 8.0, 1: 2.0}, 10.0, 0.0),  # 1.2 of 10 is too little
        ({3: 1000.0}, 50.0, 0.0),  # its direction is not the letter's
        ({1: 5.0, 4: 10.0}, 6.0, 1.0),  # what is against the letter absorbs nothing, and takes nothing away
        ({0: 4.0, 1: 2.0, 2: 2.0, 5: 2.0, 6: 2.0}, 10.0, 0.0),  # the three largest have 3.4; a fourth would be enough
        ({1: 10.0}, -2.0, 0.0),  # the word does not have the letter
        ({}, 5.0, 0.0),
    ],
)
def test_the_fraction_of_one_word(f: dict[int, float], projection: float, fraction: float) -> None:
    activations = np.zeros((1, len(W_DEC)))
    for feature, value in f.items():
        activations[0, feature] = value
    found = absorption_fraction(activations, np.array([[projection, 7.0, 0.0]]), W_DEC, 3 * P, np.array([0]))
    assert found == pytest.approx([fraction])


@pytest.mark.parametrize("number", range(4))
def test_fractions_are_sae_benchs(number: int) -> None:
    """Of worked cases and words drawn at random, for letters with one to four features, one of which is against it."""
    with np.load(SAE_BENCH) as file:
        f, x, W_dec, direction, own, theirs = (
            file[f"{name}_{number}"] for name in ("f", "x", "W_dec", "direction", "own", "fraction")
        )
    assert absorption_fraction(f, x, W_dec, direction, own) == pytest.approx(theirs, abs=1e-6)
    drawn = theirs[-100:]
    assert min((drawn == 0).sum(), (drawn == 1).sum(), ((drawn > 0) & (drawn < 1)).sum()) > 4, "every kind is there"


@pytest.mark.parametrize("number", range(len(LETTERS)))
def test_the_features_of_a_letter_are_sae_benchs(number: int) -> None:
    """One, two, three, twelve; none but one that is silent on the letter and fires on all others; noisy ones; none."""
    letter = LETTERS[number]
    with np.load(SAE_BENCH) as file:
        train, test, split, f1 = (file[name] for name in ("train", "test", f"split_{letter}", f"f1_{letter}"))
    of = np.concatenate([np.repeat(np.arange(len(LETTERS)), len(part) // len(LETTERS)) for part in (train, test)])
    held_out = np.arange(len(of)) >= len(train)
    features, ours = letter_features(np.concatenate([train, test]), of == number, held_out)
    assert sorted(features) == sorted(split)
    assert ours == pytest.approx(f1, abs=1e-12)


def test_rows_of_any_length_count_by_what_they_write() -> None:
    """A decoder row twice as long, with half the activation, is the same feature."""
    f, x = np.array([[4.0, 10.0, 0, 0, 0, 0, 0]]), np.array([[10.0, 0.0, 0.0]])
    scale = np.array([2.0, 0.5, 1, 1, 1, 1, 1])
    own = absorption_fraction(f / scale, x, W_DEC * scale[:, None], P, np.array([0]))
    assert own == pytest.approx(absorption_fraction(f, x, W_DEC, P, np.array([0])))


def made_up(
    absorbed: dict[str, float], letters: str = "ABCDEF", *, words: int = 120, meanings: int = 4
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Words with a letter and a meaning, and a dictionary with a feature of each.

    On `absorbed[letter]` of a letter's words the letter's feature is silent: the feature of the meaning writes the
    letter, too, because its decoder row has both.
    """
    random = np.random.default_rng(0)
    n, size = len(letters), 64 if meanings < 10 else 512
    directions = np.linalg.qr(random.normal(size=(size, n * (1 + meanings))))[0].T
    of_letter, of_meaning = directions[:n], directions[n:].reshape(n, meanings, -1)
    W_dec = np.concatenate([of_letter, of_meaning.reshape(n * meanings, -1)])
    x, f = [], []
    for number, letter in enumerate(letters):
        silent = round(absorbed.get(letter, 0.0) * meanings)
        for meaning in range(silent):
            W_dec[n + number * meanings + meaning] = (of_letter[number] + of_meaning[number, meaning]) / np.sqrt(2)
        for word in range(words):
            meaning = word % meanings
            activations = np.zeros(len(W_dec))
            activations[n + number * meanings + meaning] = 8 * np.sqrt(2) if meaning < silent else 8.0
            activations[number] = 0.0 if meaning < silent else 8.0
            f.append(activations)
            x.append(activations @ W_dec + random.normal(size=size) * 0.1)
    return np.array(x, np.float32), np.array(f), W_dec, [letter for letter in letters for _ in range(words)]


def test_where_no_feature_absorbs_there_is_nothing() -> None:
    found = measure_absorption(*made_up({}))
    assert found is not None
    assert (found.fraction.value, found.fraction.low, found.fraction.high) == (0.0, 0.0, 0.0)
    assert (found.f1, found.told, found.features, found.letters) == (1.0, 1.0, 1.0, 6)
    assert 150 < found.words < 280, "about 0.3 of the 720"


def test_what_many_features_absorb_is_found() -> None:
    """A quarter of the words of two letters of six, each absorbed by a feature too rare to be a part of the letter."""
    found = measure_absorption(*made_up({"C": 0.25, "D": 0.25}, words=240, meanings=60))
    assert found is not None
    assert found.features == 1.0
    assert found.fraction.value == pytest.approx(2 * 0.25 / 6, abs=0.025)
    assert 0 < found.fraction.low < found.fraction.value < found.fraction.high
    assert 0.85 < found.f1 < 1.0
    every = measure_absorption(*made_up(dict.fromkeys("ABCDEF", 0.5), words=240, meanings=60))
    assert every is not None and every.fraction.value > 0.4


def test_a_split_letter_has_the_features_that_raise_f1() -> None:
    _, f, _, letters = made_up({"B": 0.5})
    held_out = np.random.default_rng(0).random(len(letters)) < 0.3
    features, f1 = letter_features(f, np.array(letters) == "A", held_out)
    assert features.tolist() == [0] and f1 == 1.0
    features, f1 = letter_features(f, np.array(letters) == "B", held_out)
    assert set(features.tolist()) == {1, 10, 11}, "its own, and the two that took its part"
    assert f1 > 0.99


def test_letters_with_too_few_words_are_left_out() -> None:
    x, f, W_dec, letters = made_up({}, "ABCD", words=40)
    few = letters[:-38]
    found = measure_absorption(x[: len(few)], f[: len(few)], W_dec, few)
    assert found is not None and found.letters == 3
    assert measure_absorption(x[:80], f[:80], W_dec, letters[:80]) is None, "two letters are too few"
