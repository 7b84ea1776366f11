"""One feature on a text set: the share of texts on which it is active, by label and by group."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries.saes import SaeDetail
from app.queries.text_readings import ReadingView, feature_on_texts, readings_of_sae
from app.queries.text_sets import TextItem, TextSetView, list_texts
from app.services.blind_scores import wilson
from app.services.text_sets import find_text_set

MOST_GROUPS = 200
"""Groups that are returned, those with most texts."""


@dataclass(frozen=True, slots=True)
class GroupRate:
    """The texts of one label or group; `name` is None for those that have none."""

    name: str | None
    texts: int
    active: int
    rate: float
    interval: tuple[float, float]
    """Wilson's, 95 %."""
    mean: float
    """Of the largest activation per text, 0 where the feature is not active."""


@dataclass(frozen=True, slots=True)
class FeatureOnSet:
    """A feature on the texts of a set."""

    view: TextSetView
    reading: ReadingView
    all: GroupRate
    labels: tuple[GroupRate, ...]
    groups: tuple[GroupRate, ...]
    values: tuple[tuple[TextItem, float], ...]
    """Every text with the feature's largest activation on it."""


async def feature_on_set(session: AsyncSession, sae: SaeDetail, feature: int, name: str) -> FeatureOnSet:
    """Return a feature's rates on a text set that was read.

    Raises:
        NotFound: there is no such set, or this SAE has not read it.
    """
    view = await find_text_set(session, name)
    reading = next((own for own in await readings_of_sae(session, sae.id) if own.set_name == name), None)
    if reading is None:
        raise NotFound(f"{sae.slug} has not read the text set {name}. Run: seesae read-texts {sae.slug} {name}")
    active = await feature_on_texts(session, reading.id, feature)
    values = [(text, active.get(text.number, 0.0)) for text in await list_texts(session, view.id)]
    return FeatureOnSet(
        view=view,
        reading=reading,
        all=_rate(None, [value for _, value in values]),
        labels=_rates(values, lambda text: text.label) if view.counts.labels else (),
        groups=_rates(values, lambda text: text.group) if view.counts.groups else (),
        values=tuple(values),
    )


def _rates(
    values: Iterable[tuple[TextItem, float]], group_of: Callable[[TextItem], str | None]
) -> tuple[GroupRate, ...]:
    named = sorted(
        ((group_of(text), value) for text, value in values), key=lambda pair: (pair[0] is None, pair[0] or "")
    )
    rates = [_rate(name, [value for _, value in own]) for name, own in groupby(named, key=lambda pair: pair[0])]
    return tuple(sorted(rates, key=lambda rate: (rate.name is None, -rate.texts))[:MOST_GROUPS])


def _rate(name: str | None, values: Sequence[float]) -> GroupRate:
    active = sum(value > 0 for value in values)
    n = len(values)
    return GroupRate(name, n, active, active / n if n else 0.0, wilson(active, n), sum(values) / n if n else 0.0)
