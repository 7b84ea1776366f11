"""Sides of a comparison of texts: what they are, and what forbids it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries import text_comparisons as queries
from app.queries.text_comparisons import TextComparisonView
from app.queries.text_sets import TextItem, TextSetView, list_texts
from app.services.text_sets import find_text_set

LEAST_TEXTS = 10
"""Texts that each side needs."""


@dataclass(frozen=True, slots=True)
class Side:
    """A text set, or the texts of one label of it, without texts that count for nothing."""

    view: TextSetView
    label: str | None
    texts: tuple[TextItem, ...]
    repeated: int
    """Texts that were left out because an earlier one of this side has the same words."""

    @property
    def name(self) -> str:
        """Its name, as a parameter has it."""
        return side_name(self.view.name, self.label)


@dataclass(frozen=True, slots=True)
class Sides:
    """Two sides; `shared` texts were left out because both have them."""

    a: Side
    b: Side
    shared: int


def side_name(set_name: str, label: str | None) -> str:
    """Return a side as parameters and pages name it."""
    return set_name if label is None else f"{set_name}:{label}"


def split_side(name: str) -> tuple[str, str | None]:
    """Return the set and the label of a side, `NAME` or `NAME:LABEL`."""
    set_name, colon, label = name.partition(":")
    return set_name.strip(), label if colon else None


async def find_sides(session: AsyncSession, a: str, b: str) -> Sides:
    """Return the texts of both sides. Of texts with the same words one counts, and none that both sides have.

    Raises:
        NotFound: there is no such set.
        Unprocessable: a set has no such label, both sides are the same, or one has fewer than `LEAST_TEXTS` texts.
    """
    if split_side(a) == split_side(b):
        raise Unprocessable(f"Both sides are {a}: nothing can distinguish a side from itself. Choose another side.")
    sides = [await _find_side(session, name) for name in (a, b)]
    words = [{_words(text.text) for text in side.texts} for side in sides]
    shared = words[0] & words[1]
    kept = [_without(side, shared) for side in sides]
    for side, left, own in zip(sides, kept, words, strict=True):
        if len(left.texts) < LEAST_TEXTS:
            raise Unprocessable(_too_few(side, len(own), len(own & shared), left))
    return Sides(kept[0], kept[1], len(shared))


def _too_few(side: Side, different: int, shared: int, left: Side) -> str:
    has = f"{side.name} has {different} {'text' if different == 1 else 'texts'}"
    if shared:
        has += f", of which {shared} {'is' if shared == 1 else 'are'} on the other side too and cannot count"
    return (
        f"{has}. A comparison needs at least {LEAST_TEXTS} different texts on each side; {len(left.texts)} "
        "are left. Choose another side, or add texts."
    )


async def _find_side(session: AsyncSession, name: str) -> Side:
    set_name, label = split_side(name)
    view = await find_text_set(session, set_name)
    if label is not None and label not in view.counts.labels:
        raise Unprocessable(f"{set_name} has no text with the label “{label[:80]}”. {_labels_of(view)}")
    found: dict[str, TextItem] = {}
    texts = await list_texts(session, view.id, label=label)
    for text in texts:
        found.setdefault(_words(text.text), text)
    return Side(view, label, tuple(found.values()), len(texts) - len(found))


def _labels_of(view: TextSetView) -> str:
    labels: Sequence[str] = sorted(view.counts.labels)
    if not labels:
        return "It has no labels: compare it with another set."
    return f"Its labels are {', '.join(labels[:8])}{', …' if len(labels) > 8 else ''}."


def _without(side: Side, shared: set[str]) -> Side:
    texts = tuple(text for text in side.texts if _words(text.text) not in shared)
    return Side(side.view, side.label, texts, side.repeated)


def _words(text: str) -> str:
    """Return the words of a text without case and white space, as `split_of` reads them."""
    return " ".join(text.casefold().split())


async def find_text_comparison(
    session: AsyncSession, comparison_id: int, *, sae: str | None = None
) -> TextComparisonView:
    """Return a comparison of texts, of the SAE `sae` if that is given.

    Raises:
        NotFound: there is none.
    """
    found = await queries.get_text_comparison(session, comparison_id)
    if found is None or (sae is not None and found.sae != sae):
        raise NotFound("There is no such comparison of texts. It may have gone with a text set or an SAE.")
    return found
