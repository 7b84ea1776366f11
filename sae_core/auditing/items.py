"""From the texts of a set to what is compared: items, each with candidates that the model finds more or less likely.

The texts of an item share `pair`; `label` is their side and `group` the attribute. `fields` has what else a set knows:

    crows-pairs  2 texts, "stereotype" and "anti-stereotype"
    stereoset    3 texts, "unrelated" too; `context` is the sentence before them ("intersentence")
    winobias     2 texts, "pro-stereotype" and "anti-stereotype", which differ in the pronoun; `referent` is whom it
                 means, unless that stands in brackets
    bbq          1 text, the passage; `question`, `options`, `answer` (one of the options), and where known `unknown`
                 and `biased` (the options that say neither, and what the stereotype says)
    pairs        2 texts of any two labels
    groups       texts of two groups, without pairs
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sae_core.auditing.config import SetText
from sae_core.errors import AuditError


@dataclass(frozen=True)
class Candidate:
    """A text whose likelihood is computed, and the words before it that are given."""

    name: str
    text: str
    given: str = ""

    @property
    def whole(self) -> str:
        """Return what the model reads."""
        return join_words(self.given, self.text)


@dataclass(frozen=True)
class Item:
    """One thing that a measure asks."""

    key: str
    attribute: str
    candidates: tuple[Candidate, ...]
    sides: tuple[str, str] | None = None
    """Whole texts of the two sides between which features are compared, in the order of the contrast."""
    answers: Mapping[str, Any] = field(default_factory=dict)
    """What the measure needs to know besides."""

    @property
    def words(self) -> str:
        """The words of the item; the same words are always in the same half."""
        return "\n".join(" ".join(candidate.whole.casefold().split()) for candidate in self.candidates)


def join_words(before: str, after: str) -> str:
    """Return two texts as one, with a space between words."""
    space = before and not before[-1:].isspace() and not after[:1].isspace()
    return f"{before} {after}" if space else before + after


def is_chosen_half(item: Item) -> bool:
    """Return True if features are chosen on the item, False if they are tested on it: by a hash of its words."""
    return bool(_hash("half", item.words) & 1)


def draw(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` items in their order, drawn by a hash of their words."""
    if limit is None or len(items) <= limit:
        return list(items)
    drawn = sorted(range(len(items)), key=lambda number: (_hash("draw", items[number].words), number))[:limit]
    return [items[number] for number in sorted(drawn)]


def _hash(purpose: str, words: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}\n{words}".encode()).digest()[:8])


def differing_words(first: str, second: str) -> tuple[str, str] | None:
    """Return both texts without the words in which they differ: what is between their common start and end.

    None if nothing would be left of one, or if the texts differ at more than a third of their words: these are other
    sentences, not the same one with another word.
    """
    one, other = first.split(), second.split()
    start = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rest_one, rest_other = one[start:][::-1], other[start:][::-1]
    end = next(
        (n for n, (a, b) in enumerate(zip(rest_one, rest_other, strict=False)) if a != b),
        min(len(rest_one), len(rest_other)),
    )
    left = [[*words[:start], *words[len(words) - end :]] for words in (one, other)]
    if not all(left) or max(len(one), len(other)) - len(left[0]) > max(len(one), len(other)) / 3:
        return None
    return " ".join(left[0]), " ".join(left[1])


# Texts to items


@dataclass(frozen=True)
class ReadItems:
    """Items of a set, and the keys of what cannot be asked, by reason."""

    items: list[Item]
    left_out: dict[str, list[str]]


def by_pair(texts: Iterable[SetText]) -> dict[str, list[SetText]]:
    """Return the texts of each pair, in order. Texts without a pair are left out."""
    pairs: dict[str, list[SetText]] = defaultdict(list)
    for text in texts:
        if text.pair is not None:
            pairs[text.pair].append(text)
    return dict(pairs)


def read_pairs(texts: Sequence[SetText], first: str, second: str, *others: str) -> tuple[dict[str, Any], list[str]]:
    """Return for each pair its texts by side, and the pairs that do not have exactly one text of each side."""
    found, broken = {}, []
    for key, members in by_pair(texts).items():
        sides = {member.label: member for member in members}
        if len(members) != len(sides) or set(sides) != {first, second, *others}:
            broken.append(key)
        else:
            found[key] = sides
    return found, broken


def crows_pairs_items(texts: Sequence[SetText]) -> ReadItems:
    """Return the items of CrowS-Pairs, whose first candidate is the stereotype."""
    return _pair_items(texts, "stereotype", "anti-stereotype")


def pair_items(texts: Sequence[SetText]) -> ReadItems:
    """Return the items of a set of pairs; the first side is the label that comes first in the alphabet.

    Raises:
        AuditError: the texts of pairs do not have two labels.
    """
    labels = Counter(text.label for text in texts if text.pair is not None)
    if None in labels or len(labels) != 2:
        said = ", ".join(sorted(str(label) for label in labels if label is not None)[:5]) or "none"
        raise AuditError(
            f"The texts of pairs need one of two labels each, their side; these have: {said}. Make the set again, "
            "with a column `label` of sides and a column `pair`."
        )
    first, second = sorted(str(label) for label in labels)
    return _pair_items(texts, first, second)


def _pair_items(texts: Sequence[SetText], first: str, second: str) -> ReadItems:
    pairs, broken = read_pairs(texts, first, second)
    items, same = [], []
    for key, sides in pairs.items():
        one, other = sides[first], sides[second]
        if one.text == other.text:
            same.append(key)
            continue
        candidates = Candidate(first, one.text), Candidate(second, other.text)
        items.append(Item(key, one.group or "all", candidates, (one.text, other.text)))
    reasons = {f"not one text labelled {first} and one labelled {second}": broken, "both sides are the same text": same}
    return ReadItems(items, {reason: keys for reason, keys in reasons.items() if keys})


def stereoset_items(texts: Sequence[SetText]) -> ReadItems:
    """Return the items of StereoSet: stereotype, anti-stereotype and unrelated; the context is given, not scored."""
    labels = "stereotype", "anti-stereotype", "unrelated"
    pairs, broken = read_pairs(texts, *labels)
    items = []
    for key, sides in pairs.items():
        candidates = tuple(Candidate(label, *_without_context(sides[label])) for label in labels)
        items.append(Item(key, sides[labels[0]].group or "all", candidates, (candidates[0].whole, candidates[1].whole)))
    return ReadItems(items, {"not one text each labelled " + ", ".join(labels): broken} if broken else {})


def _without_context(text: SetText) -> tuple[str, str]:
    """Return the sentence that is scored, and the one before it."""
    context = str(text.fields.get("context") or "").strip()
    if text.fields.get("type") == "intrasentence" or not context or "BLANK" in context:
        return text.text, ""
    return text.text.removeprefix(context).strip(), context


_PRONOUNS = {"he": "male", "him": "male", "his": "male", "she": "female", "her": "female", "hers": "female"}


def winobias_items(texts: Sequence[SetText]) -> ReadItems:
    """Return the items of WinoBias: the sentence with either pronoun, and whom each pronoun refers to.

    The four other candidates ask `"She" refers to …` after the sentence with the pronoun of the stereotype and with the
    other one: the person it means, and the other occupation of the sentence.
    """
    pairs, broken = read_pairs(texts, "pro-stereotype", "anti-stereotype")
    referents = {key: _referent(sides["pro-stereotype"]) for key, sides in pairs.items()}
    occupations = sorted({_bare(name) for name in referents.values() if name}, key=len, reverse=True)
    items, unclear = [], []
    for key, sides in pairs.items():
        pro, anti = (
            sides[label].text.replace("[", "").replace("]", "").strip()
            for label in ("pro-stereotype", "anti-stereotype")
        )
        pronouns = _pronouns(pro, anti)
        other = _other_occupation(pro, referents[key], occupations)
        if pronouns is None or other is None:
            unclear.append(key)
            continue
        asked = [
            Candidate(f"{side}: {who}", answer, f'{sentence} "{pronoun.capitalize()}" refers to')
            for side, sentence, pronoun in (("pro", pro, pronouns[0]), ("anti", anti, pronouns[1]))
            for who, answer in (("right", f"the {_bare(referents[key])}"), ("wrong", f"the {other}"))
        ]
        candidates = Candidate("pro-stereotype", pro), Candidate("anti-stereotype", anti), *asked
        by_gender = (pro, anti) if _PRONOUNS[pronouns[0]] == "female" else (anti, pro)
        group = sides["pro-stereotype"].group or _bare(referents[key])
        items.append(Item(key, group, candidates, by_gender, {"pronouns": pronouns}))
    reasons = {
        "not one text labelled pro-stereotype and one labelled anti-stereotype": broken,
        "its pronoun, or whom it could mean, is not clear": unclear,
    }
    return ReadItems(items, {reason: keys for reason, keys in reasons.items() if keys})


def _referent(text: SetText) -> str:
    """Return the person that the pronoun means: a field, or what stands in brackets."""
    bracketed = re.search(r"\[([^\]]+)\]", text.text)
    return str(text.fields.get("referent") or (bracketed[1] if bracketed else ""))


def _bare(person: str) -> str:
    return re.sub(r"^(the|a|an)\s+", "", person.strip().casefold())


def _pronouns(pro: str, anti: str) -> tuple[str, str] | None:
    """Return the pronouns in which two sentences differ."""
    different = [(a, b) for a, b in zip(_words(pro), _words(anti), strict=False) if a != b]
    known = [pair for pair in different if pair[0] in _PRONOUNS and pair[1] in _PRONOUNS]
    return known[0] if len(different) == len(known) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.casefold())


def _other_occupation(sentence: str, referent: str, occupations: Sequence[str]) -> str | None:
    """Return the occupation in a sentence that its pronoun does not mean."""
    rest = " ".join(_words(sentence)).replace(_bare(referent), " ") if referent else ""
    return next((name for name in occupations if re.search(rf"\b(the|a|an)\s+{re.escape(name)}\b", rest)), None)


_UNKNOWN = re.compile(
    r"\b(can not|cannot|can't|not (enough|known|answerable|sure|determined)|unknown|undetermined|unanswerable|"
    r"no answer|insufficient)",
    re.IGNORECASE,
)


def bbq_items(texts: Sequence[SetText]) -> ReadItems:
    """Return the questions of BBQ; the candidates are the options, after passage and question."""
    items, broken = [], []
    for number, text in enumerate(texts):
        options = [str(option) for option in text.fields.get("options") or ()]
        answer = text.fields.get("answer")
        answer = answer[0] if isinstance(answer, list) and answer else answer
        key = text.pair or str(number)
        if len(options) < 2 or answer not in options:
            broken.append(key)
            continue
        unknown = text.fields.get("unknown") or next((one for one in options if _UNKNOWN.search(one)), None)
        question = str(text.fields.get("question") or "")
        given = f"{text.text}\n{question}\nAnswer:" if question else f"{text.text}\nAnswer:"
        biased = text.fields.get("biased")
        answers = {
            "correct": options.index(answer),
            "unknown": options.index(unknown) if unknown in options else None,
            "biased": options.index(biased) if biased in options else None,
        }
        items.append(
            Item(key, text.group or "all", tuple(Candidate(one, one, given) for one in options), None, answers)
        )
    return ReadItems(items, {"no list of options with the answer among them": broken} if broken else {})


def group_items(texts: Sequence[SetText]) -> ReadItems:
    """Return texts of two groups, each alone.

    Raises:
        AuditError: there are not exactly two groups.
    """
    groups = sorted({text.group for text in texts if text.group is not None})
    if len(groups) != 2:
        said = ", ".join(groups[:5]) or "none"
        raise AuditError(
            f"Texts without pairs are compared by group, and need exactly two groups; these have: {said}. "
            "Make the set again with a column `group` of two, or with pairs."
        )
    items = [
        Item(str(number), text.group, (Candidate(text.group, text.text),), answers={"groups": groups})
        for number, text in enumerate(texts)
        if text.group is not None and text.text.strip()
    ]
    return ReadItems(items, {})
