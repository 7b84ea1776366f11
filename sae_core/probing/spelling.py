"""First letters of words, asked in context: whether a model spells, and its activations at the word.

The task is that of Chanin et al. 2024 ("A is for Absorption", arXiv:2409.14507), as sae-bench 0.6.0 asks it: lines such
as ` tartan has the first letter: T`, ten with their answer and one without.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from scipy.stats import binomtest

from sae_core.errors import ModelError
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent

SPELLS = 0.8
"""Least share of words whose first letter a model has to tell, so that absorption is measured: one that does not know
the letters has no features of them that others could absorb."""
EXAMPLES = 10
"""Lines with their answer before the one that is asked."""
_ASK = " has the first letter:"
_WORD = re.compile(rb" [a-z]{3,}")
_BATCH = 16


@dataclass(frozen=True)
class SpellingTask:
    """Prompts that ask for the first letter of a word; all have the same number of tokens."""

    words: Sequence[str]
    letters: Sequence[str]
    """The right answers, in capitals."""
    token_ids: Int64[np.ndarray, "word position"]
    place: int
    """Position of the asked word, which is one token."""


@dataclass(frozen=True)
class Spelling:
    """Share of words whose first letter a model tells, with its 95 % interval (Wilson)."""

    accuracy: float
    low: float
    high: float
    words: int

    @property
    def spells(self) -> bool:
        """True if that is enough to ask about absorption."""
        return self.accuracy >= SPELLS


def spelling_task(model: LanguageModel, count: int, seed: int, *, prepend_bos: bool = True) -> SpellingTask:
    """Return prompts for words drawn from the model's vocabulary: tokens of a blank and three small letters or more.

    Args:
        model: the model.
        count: of the words; all where there are fewer.
        seed: of the draw, and of the examples.
        prepend_bos: True if the model's BOS token comes first.

    Raises:
        ModelError: the vocabulary has no token for a letter, or too few words.
    """
    vocabulary = model.token_bytes()
    numbers = [number for number, token in enumerate(vocabulary) if _WORD.fullmatch(token)]
    answers = {chr(token[1]): number for number, token in enumerate(vocabulary) if re.fullmatch(rb" [A-Z]", token)}
    if len(answers) < len(ascii_uppercase) or len(numbers) <= EXAMPLES:
        raise ModelError(
            f"The vocabulary of {model.name} has {len(answers)} of 26 letters and {len(numbers)} words as single "
            "tokens: too few to ask for first letters."
        )
    random = np.random.default_rng(seed)
    asked = random.permutation(numbers)[:count]
    ask = model.tokenize(_ASK, prepend_bos=False)
    line_end = model.tokenize("\n", prepend_bos=False)
    prefix = model.prefix(prepend_bos=prepend_bos)
    rows = []
    for number in asked:
        others = random.choice(numbers, EXAMPLES + 1, replace=False)
        row = [*prefix]
        for other in [other for other in others if other != number][:EXAMPLES]:
            row += [other, *ask, answers[_letter(vocabulary[other])], *line_end]
        rows.append([*row, number, *ask])
    words = [vocabulary[number].decode() for number in asked]
    letters = [_letter(vocabulary[number]) for number in asked]
    return SpellingTask(words, letters, np.array(rows, np.int64), len(rows[0]) - len(ask) - 1)


def _letter(token: bytes) -> str:
    return chr(token[1]).upper()


def measure_spelling(model: LanguageModel, task: SpellingTask, progress: Progress = silent) -> Spelling:
    """Return how often the likeliest next token is the right letter, alone and in either case."""
    right = np.concatenate(list(_right(model, task, progress)))
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Spelling(float(right.mean()), float(interval.low), float(interval.high), len(right))


def _right(model: LanguageModel, task: SpellingTask, progress: Progress) -> Iterator[Bool[np.ndarray, " word"]]:
    vocabulary = model.token_bytes()
    progress(0, len(task.words))
    for start in range(0, len(task.words), _BATCH):
        ids = torch.from_numpy(task.token_ids[start : start + _BATCH])
        with torch.no_grad():
            likeliest = model.last_logits(ids, {}).argmax(dim=1).tolist()
        said = [vocabulary[number].strip().upper().decode(errors="replace") for number in likeliest]
        yield np.array([one == letter for one, letter in zip(said, task.letters[start:], strict=False)])
        progress(start + len(ids), len(task.words))


def word_activations(
    model: LanguageModel, task: SpellingTask, hook: HookPoint, progress: Progress = silent
) -> Float32[np.ndarray, "word d_in"]:
    """Return the activations at the asked words, each within its prompt.

    Raises:
        ModelError: the model has no such hook point.
    """
    rows = []
    progress(0, len(task.words))
    for start in range(0, len(task.words), _BATCH):
        ids = torch.from_numpy(task.token_ids[start : start + _BATCH, : task.place + 1])
        rows.append(model.activations(ids, hook)[:, task.place].cpu().numpy())
        progress(start + len(ids), len(task.words))
    return np.concatenate(rows)
