"""Blind tests as pages and the API show them: questions without the truth, and answers beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.blind_tests import LabelScore, ResultView
from app.queries.models import TokenInfo, get_tokens
from app.services.blind_scores import CHANCE, INTRUDER_CHANCE
from app.services.blind_tests import OpenTest
from app.web.components import token_text
from app.web.components.formatting import significant

KINDS = {
    "detection": "Detection",
    "fuzzing": "Fuzzing",
    "intruder": "Intruder",
}
ASKED = {
    "detection": "Does this text contain what the label says?",
    "fuzzing": "Are the marked tokens the ones that the label is about?",
    "intruder": "Which text does not belong with the others?",
}
"""What is asked of every item."""
WHY = {
    **{f"band_{band}": f"active, band {band}" for band in range(1, 6)},
    "random": "random text",
    "near_miss": "the same token in another context",
    "neighbour": "a neighbouring feature's text",
    "random_marks": "active, but other tokens are marked",
}
"""Where a snippet, or an intruder, is from."""
_MARK = 3
"""Shade of a marked token: the same for all, whatever the activation."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """The text of a snippet, marked or shaded."""

    runs: tuple[token_text.Run, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One item as a tester sees it; `said` is what they have answered in a form that comes back."""

    number: int
    snippets: list[Snippet]
    said: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """One item beside the truth, its snippets shaded by activation."""

    number: int
    snippets: list[Snippet]
    truth: int
    why: str
    said: int | None
    """None for the label's author, who does not answer."""

    @property
    def is_right(self) -> bool:
        """True if the answer was right."""
        return self.said == self.truth


@dataclass(frozen=True, slots=True)
class ShownScore:
    """The main figure of a score, as one line shows it: balanced accuracy, or the share of intruders found."""

    kind: str
    value: float
    low: float
    high: float
    f1: dict[str, float] | None
    auprc: dict[str, float] | None
    """Value, low and high."""
    chance: float
    floor: float | None
    """What the tester scores with the label of a random other feature; None of people, who are not asked."""
    items: int
    by_kind: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, kind: str, score: dict[str, Any]) -> "ShownScore":
        """Return what a stored score shows."""
        is_intruder = kind == "intruder"
        main = score["accuracy" if is_intruder else "balanced_accuracy"]
        return cls(
            kind=kind,
            value=main["value"],
            low=main["low"],
            high=main["high"],
            f1=None if is_intruder else score["f1"],
            auprc=score.get("auprc"),
            chance=INTRUDER_CHANCE if is_intruder else CHANCE,
            floor=score["floor"]["value"] if score.get("floor") else None,
            items=score["items"],
            by_kind=score["by_kind"],
        )


@dataclass(frozen=True, slots=True)
class ResultLine:
    """What one person scored."""

    test_id: int
    tester: str
    score: ShownScore
    is_current: bool = True
    """False if the label has another text by now."""

    @classmethod
    def of_label(cls, score: LabelScore) -> "ResultLine":
        """Return the line beside a label."""
        return cls(score.test_id, score.tester, ShownScore.of(score.kind, score.score), score.is_current)

    @classmethod
    def of_test(cls, kind: str, result: ResultView) -> "ResultLine":
        """Return the line on a test's page."""
        return cls(result.test_id, result.tester, ShownScore.of(kind, result.score))


async def questions(
    session: AsyncSession, model_id: int, opened: OpenTest, said: Sequence[int | None] = ()
) -> list[Question]:
    """Return the items of a test as a tester sees them."""
    tokens = await _tokens(session, model_id, opened)
    given = [*said, *[None] * (len(opened.questions) - len(said))]
    return [
        Question(number, [_marked(snippet, tokens) for snippet in shown], given[number])
        for number, shown in enumerate(opened.questions)
    ]


async def answered(session: AsyncSession, model_id: int, opened: OpenTest) -> list[Answered]:
    """Return the items of a test beside the truth; none before it may be told."""
    tokens = await _tokens(session, model_id, opened)
    peak = max((value for item in opened.items for hidden in item.hidden for value in hidden["values"]), default=0.0)
    return [
        Answered(
            number=number,
            snippets=[
                _shaded(shown, hidden, tokens, peak) for shown, hidden in zip(item.shown, item.hidden, strict=True)
            ],
            truth=item.truth,
            why=item.why,
            said=opened.own.answers[number] if opened.own else None,
        )
        for number, item in enumerate(opened.items)
    ]


async def _tokens(session: AsyncSession, model_id: int, opened: OpenTest) -> Mapping[int, TokenInfo]:
    ids = {token for shown in opened.questions for snippet in shown for token in snippet["token_ids"]}
    return await get_tokens(session, model_id, ids)


def _marked(shown: dict[str, Any], tokens: Mapping[int, TokenInfo]) -> Snippet:
    """Return a snippet with its marked tokens in one shade."""
    marked = set(shown["marked"])
    return Snippet(
        token_text.shown_runs(
            _shown(place, tokens[token], _MARK if place in marked else 0, "")
            for place, token in enumerate(shown["token_ids"])
        )
    )


def _shaded(shown: dict[str, Any], hidden: dict[str, Any], tokens: Mapping[int, TokenInfo], peak: float) -> Snippet:
    """Return a snippet shaded by activation, the tokens that were marked underlined."""
    values = dict(zip(hidden["active"], hidden["values"], strict=True))
    marked = set(shown["marked"])
    return Snippet(
        token_text.shown_runs(
            _shown(
                place,
                tokens[token],
                token_text.step(values.get(place, 0.0), peak),
                significant(values[place]) if place in values else "",
                is_marked=place in marked,
            )
            for place, token in enumerate(shown["token_ids"])
        )
    )


def _shown(place: int, token: TokenInfo, step: int, note: str, *, is_marked: bool = False) -> token_text.ShownToken:
    return token_text.ShownToken(token.bytes, token.special, step, is_marked, note, place)
