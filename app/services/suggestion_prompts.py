"""Prompts for suggestions, from the templates in `templates/prompts`, and what may be taken from an answer.

Text of corpora is hostile: each example is one line of JSON without control characters, so that none can end the
evidence. An answer is a short text of one line, or a stated failure; pages show it as text alone.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.paths import TEMPLATES
from app.queries.examples import ExampleToken, ExampleView
from app.queries.features import FeatureDetail, OutputToken
from app.services.llm import Message
from app.services.texts import one_line, trim
from app.services.tokens import api_texts

MAX_SUGGESTION = 300
"""Characters of a suggestion; a label may be longer."""
SCALE = 10
"""The strongest activation of a feature, as prompts give it."""
_AROUND = 32
"""Tokens on each side of an example's own token."""
_STRONGEST = 6
"""Tokens of an example whose activation is listed."""
_OUTPUT_TOKENS = 10
_TOP, _PER_BAND = 8, 2
"""Top examples of a prompt, and examples from each band."""
_BANDS = ("top", "weakest fifth", "second fifth", "middle fifth", "fourth fifth", "strongest fifth")

_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode categories whose characters can hide text or change its direction."""
_JOINERS = "\u200c\u200d"
"""Invisible, but some scripts and emoji are wrong without them."""
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL | re.IGNORECASE)
_EXPLANATION = re.compile(r"^[\s>*_#\[\"]*explanation[\]*_\"]*\s*:[\s*_]*(.*)$", re.IGNORECASE | re.MULTILINE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_NO_PATTERN = re.compile(r"(no (clear |specific |consistent )?pattern|none|n/?a|unknown|unclear)\W*", re.IGNORECASE)


class BadAnswer(Exception):
    """An answer that cannot be used. The message is a sentence for people, and quotes nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A feature's own statistics, and examples from its whole range."""

    detail: FeatureDetail
    examples: Sequence[ExampleView]


@cache
def _environment() -> Environment:
    """Templates of plain text: nothing is escaped, because the values are lines of JSON."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES / "prompts"),
        autoescape=False,  # noqa: S701 - no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def template_hash(name: str) -> str:
    """Return the version of a prompt: the beginning of its template's hash."""
    return hashlib.sha256((TEMPLATES / "prompts" / f"{name}.txt").read_bytes()).hexdigest()[:12]


def render_prompt(name: str, **values: object) -> list[Message]:
    """Return the messages of a template: above its first line of ===== the system's, below it the user's."""
    system, _, user = _environment().get_template(f"{name}.txt").render(values).partition("\n=====\n")
    return [Message("system", system), Message("user", user)]


def explain_prompt(evidence: Evidence) -> list[Message]:
    """Return the request to say what a feature responds to, from its input and its output together."""
    detail = evidence.detail
    return render_prompt(
        "explain",
        examples=[json_line(_shown(example, detail.max)) for example in _chosen(evidence.examples)],
        promoted=json_line(_output_texts(detail.promoted)),
        suppressed=json_line(_output_texts(detail.suppressed)),
    )


def parse_explanation(text: str, *, finished: bool) -> str:
    """Return the explanation in an answer, as one line of visible text.

    Raises:
        BadAnswer: there is none, or it is no label.
    """
    found = _EXPLANATION.findall(_THOUGHTS.sub("", text))
    if not finished:
        raise BadAnswer("The answer was cut off at its limit of tokens.")
    if not found:
        raise BadAnswer("The answer does not have the form that was asked for." if text.strip() else "Empty answer.")
    explanation = visible_line(found[-1]).strip('*_`"“” ')
    if not re.search(r"\w", explanation):
        raise BadAnswer("The answer has no words.")
    if _NO_PATTERN.fullmatch(explanation):
        raise BadAnswer("The model sees no pattern.")
    if len(explanation) > MAX_SUGGESTION:
        raise BadAnswer(f"The answer is longer than {MAX_SUGGESTION} characters.")
    return explanation


def rating_prompt(kind: Literal["detection", "fuzzing"], label: str, texts: Sequence[str]) -> list[Message]:
    """Return the request to rate, from a label alone, in which texts its feature is active; see `mark` for fuzzing."""
    numbered = [json_line({"number": number, "text": text}) for number, text in enumerate(texts, 1)]
    return render_prompt(kind, label=json_line(label), texts=numbered)


def parse_ratings(text: str, count: int, *, finished: bool) -> list[float]:
    """Return the ratings of all texts, from 0 to 1.

    Raises:
        BadAnswer: one is missing, or is no number from 0 to 10.
    """
    if not finished:
        raise BadAnswer("The answer was cut off at its limit of tokens.")
    found = _OBJECT.findall(_THOUGHTS.sub("", text))
    try:
        ratings = json.loads(found[-1])
    except (IndexError, ValueError):
        raise BadAnswer("The answer does not have the form that was asked for.") from None
    values = [ratings.get(str(number)) for number in range(1, count + 1)]
    known = [value for value in values if type(value) in (int, float) and 0 <= value <= SCALE]
    if len(known) < count:
        raise BadAnswer(f"The answer rates {len(known)} of {count} texts.")
    return [value / SCALE for value in known]


def visible_line(text: str) -> str:
    """Return text as one line, without characters that are invisible or change the direction of others."""
    kept = (" " if c in "\n\r\t\u2028\u2029" else c for c in text if c in "\n\r\t\u2028\u2029" or is_visible(c))
    return trim(one_line("".join(kept)))


def is_visible(character: str) -> bool:
    """False for controls, marks of direction and the like, which can hide text."""
    return character in _JOINERS or unicodedata.category(character) not in _INVISIBLE


def json_line(value: object) -> str:
    """Return JSON on one line, with escapes for all characters that are invisible."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if is_visible(c) else json.dumps(c)[1:-1] for c in text)


def _output_texts(tokens: Sequence[OutputToken]) -> list[str]:
    return [api_texts([token.bytes])[0] for token in tokens[:_OUTPUT_TOKENS] if not token.special]


def _chosen(examples: Sequence[ExampleView]) -> list[ExampleView]:
    """Return the top examples and some of each band, no sequence twice."""
    seen: set[int] = set()
    chosen = []
    for band, group in groupby(sorted(examples, key=lambda e: (e.band, e.rank)), key=lambda example: example.band):
        fresh = [example for example in group if example.sequence not in seen][: _PER_BAND if band else _TOP]
        seen |= {example.sequence for example in fresh}
        chosen += fresh
    return chosen


def _shown(example: ExampleView, maximum: float) -> dict[str, object]:
    here = example.position - example.start
    tokens = list(example.tokens[max(0, here - _AROUND) : here + _AROUND + 1])
    return {"band": _BANDS[example.band], **marked_text(tokens, maximum)}


def marked_text(tokens: Sequence[ExampleToken], maximum: float) -> dict[str, object]:
    """Return a text with its active parts between << and >>, and the strongest tokens with activations up to 10."""
    texts = [
        "" if token.special else text for token, text in zip(tokens, api_texts([t.bytes for t in tokens]), strict=True)
    ]
    active = [token.activation > 0 for token in tokens]
    by_activation = sorted(
        (place for place in range(len(tokens)) if active[place]), key=lambda p: -tokens[p].activation
    )
    return {
        "text": mark(texts, active),
        "activations": [
            [texts[place], max(1, min(SCALE, round(SCALE * tokens[place].activation / maximum)))]
            for place in sorted(by_activation[:_STRONGEST])
        ],
    }


def mark(texts: Sequence[str], marked: Sequence[bool]) -> str:
    """Return the joined texts with << and >> around the marked ones; the text's own << and >> are pulled apart."""
    parts = []
    for is_marked, group in groupby(zip(marked, texts, strict=True), key=lambda pair: pair[0]):
        part = "".join(text for _, text in group).replace("<<", "< <").replace(">>", "> >")
        parts.append(f"<<{part}>>" if is_marked and part else part)
    return "".join(parts)
