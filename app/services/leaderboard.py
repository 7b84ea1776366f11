"""The SAEs of one model beside each other: what was measured of each, and which no other one dominates.

Figures of two SAEs say which is better only where both reconstruct the same activations on the same held-out tokens. So
SAEs are grouped by hook points and by the text that they were measured on, and a frontier is of one group.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries.comparisons import best_cosines
from app.queries.saes import SaeDetail, list_saes
from app.services.probing import Comparison, Probing, compare_with, read_probing
from sae_core.statistics.spec import PARTNER

Sort = Literal[
    "name",
    "l0",
    "explained_variance",
    "ce_recovered",
    "dead",
    "probing",
    "stability",
    "d_sae",
    "samples",
    "architecture",
]
Order = Literal["asc", "desc"]
Fidelity = Literal["explained_variance", "ce_recovered"]

_METRICS = {
    "l0": "l0",
    "explained_variance": "explained_variance",
    "ce_recovered": "ce_recovered_mean",
    "dead": "dead_fraction",
}
_SMALL_FIRST: tuple[Sort, ...] = ("name", "architecture", "d_sae", "samples", "l0", "dead")
"""Orders that begin with the smallest unless the reader asks otherwise; of the others, the largest is the best."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with the ends of its 95 % interval, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Stability:
    """Share of an SAE's features that have a partner in an SAE that differs in nothing but its seed."""

    share: float
    features: int
    other: str
    """Slug of that SAE."""


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """Text that SAEs were measured on: tokens for reconstruction and features, predictions for the model's loss."""

    sequences: str
    """Hash of the set of sequences, of which the same are held out for every SAE."""
    corpus: str
    tokens: int
    predictions: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One SAE with what was measured of it; what was not is absent."""

    sae: SaeDetail
    figures: Mapping[str, Measured]
    probing: Probing | None
    stability: Stability | None
    frontier: frozenset[Fidelity] = frozenset()
    """Measures by which no SAE of its group is as good or better at as low an L0."""

    @property
    def samples(self) -> int | None:
        """Activations that it was trained on; None if it was trained elsewhere."""
        samples = self.sae.config.get("samples")
        return samples if isinstance(samples, int) else None

    @property
    def against_random(self) -> Comparison | None:
        """Text sets by whether its features tell more than random directions; None if nobody probed it."""
        return compare_with(self.probing, "random") if self.probing else None

    @property
    def is_measured(self) -> bool:
        """True if an evaluation of it is stored."""
        return bool(self.figures)


@dataclass(frozen=True, slots=True)
class Group:
    """SAEs of one pair of hook points whose figures compare; `text` is None for those of which it is not known."""

    hook: str
    hook_out: str | None
    text: HeldOutText | None
    entries: Sequence[Entry]

    @property
    def is_measured(self) -> bool:
        """False for the group of SAEs that nobody has measured."""
        return any(entry.is_measured for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All SAEs of one model, in groups that compare."""

    model: str
    models: Mapping[str, int]
    """All models by name, with the number of their SAEs; the one of the newest SAE is first."""
    sort: Sort
    order: Order
    groups: Sequence[Group]


def default_order(sort: Sort) -> Order:
    """Return the order in which the best, or the first by name, leads."""
    return "asc" if sort in _SMALL_FIRST else "desc"


async def get_leaderboard(
    session: AsyncSession, *, model: str = "", sort: str = "", order: str = "", saes: Sequence[SaeDetail] | None = None
) -> Leaderboard | None:
    """Return the SAEs of a model, by default of the newest SAE's; None where there is no SAE.

    Args:
        session: of the database.
        model: name of the model.
        sort: one of `Sort`, by default explained variance.
        order: by default that of `default_order`.
        saes: all SAEs, where the caller has them.

    Raises:
        NotFound: no SAE is of this model.
        Unprocessable: there is no such sort or order.
    """
    chosen: Sort = _choice(sort or "explained_variance", get_args(Sort), "order")
    direction: Order = _choice(order or default_order(chosen), get_args(Order), "direction")
    known = await list_saes(session) if saes is None else saes
    models: dict[str, int] = defaultdict(int)
    for sae in known:
        models[sae.model.name] += 1
    if not models:
        return None
    name = model or next(iter(models))
    if name not in models:
        raise NotFound(f"No SAE is of a model named “{name[:80]}”. There are SAEs of: {', '.join(list(models)[:20])}.")
    own = [sae for sae in known if sae.model.name == name]
    stable = await _stabilities(session, own)
    groups = [
        Group(hook, hook_out, text, _sorted(mark_frontiers(entries) if text else entries, chosen, direction))
        for (hook, hook_out, text, _), entries in _grouped(_entry(sae, stable.get(sae.id)) for sae in own).items()
    ]
    return Leaderboard(name, models, chosen, direction, sorted(groups, key=_place))


Name = TypeVar("Name", bound=str)


def _choice(given: str, names: tuple[Name, ...], what: str) -> Name:
    found = next((name for name in names if name == given), None)
    if found is None:
        raise Unprocessable(f"A leaderboard has no {what} “{given[:40]}”: use one of {', '.join(names)}.")
    return found


def _entry(sae: SaeDetail, stability: Stability | None) -> Entry:
    intervals = sae.metrics.get("intervals") or {}
    figures = {
        name: Measured(float(sae.metrics[metric]), *intervals.get(metric, ()))
        for name, metric in _METRICS.items()
        if sae.metrics.get(metric) is not None
    }
    return Entry(sae, figures, read_probing(sae.metrics), stability)


def _text(entry: Entry) -> HeldOutText | None:
    metrics = entry.sae.metrics
    held_out = metrics.get("held_out")
    if held_out is None or not entry.is_measured:
        return None
    return HeldOutText(
        held_out["sequences"], held_out["corpus"], int(metrics.get("tokens") or 0), int(metrics.get("ce_tokens") or 0)
    )


def _grouped(entries: Iterable[Entry]) -> dict[tuple[str, str | None, HeldOutText | None, bool], list[Entry]]:
    """Return entries by hook points, text, and whether they were measured."""
    groups = defaultdict(list)
    for entry in entries:
        groups[entry.sae.hook, entry.sae.hook_out, _text(entry), entry.is_measured].append(entry)
    return groups


def _place(group: Group) -> tuple[str, str, bool, bool, int]:
    """Return what groups are sorted by: within a hook point, the text of most SAEs is first, the unmeasured last."""
    return group.hook, group.hook_out or "", not group.is_measured, group.text is None, -len(group.entries)


# --- the frontier


def mark_frontiers(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, each with the measures by which it is not dominated.

    SAE j dominates i if L0_j ≤ L0_i and fidelity_j ≥ fidelity_i, and one of the two is strict: the Pareto frontier of
    sparsity and fidelity, by values without their intervals.
    """
    on = {measure: _undominated(entries, measure) for measure in get_args(Fidelity)}
    return [
        replace(entry, frontier=frozenset(measure for measure, slugs in on.items() if entry.sae.slug in slugs))
        for entry in entries
    ]


def _undominated(entries: Iterable[Entry], measure: Fidelity) -> set[str]:
    points = [
        (entry.figures["l0"].value, -entry.figures[measure].value, entry.sae.slug)
        for entry in entries
        if "l0" in entry.figures and measure in entry.figures
    ]
    found: set[str] = set()
    best: tuple[float, float] | None = None
    for l0, loss, slug in sorted(points):
        if best is None or loss < best[1] or (l0, loss) == best:
            found.add(slug)
            best = (l0, loss)
    return found


# --- stability


async def _stabilities(session: AsyncSession, saes: Sequence[SaeDetail]) -> dict[int, Stability]:
    """Return the stability of each SAE that was compared with one of another seed, the newest of them."""
    alike: dict[object, list[SaeDetail]] = defaultdict(list)
    for sae in saes:
        if "seed" in sae.config:
            alike[_without_seed(sae)].append(sae)
    by_id = {sae.id: sae for twins in alike.values() if len(twins) > 1 for sae in twins}
    found: dict[int, Stability] = {}
    if not by_id:
        return found
    for this, other, counts in await best_cosines(session, by_id):
        a, b = by_id[this], by_id[other]
        if _without_seed(a) == _without_seed(b) and a.config["seed"] != b.config["seed"]:
            first = round(PARTNER * len(counts))
            found.setdefault(a.id, Stability(sum(counts[first:]) / sum(counts), sum(counts), b.slug))
    return found


def _without_seed(sae: SaeDetail) -> tuple[object, ...]:
    """Return what an SAE of another seed shares with this one."""
    config = sae.config
    return sae.hook, sae.hook_out, sae.architecture, sae.d_sae, sae.k or config.get("k"), config.get("samples")


# --- the order


def _sorted(entries: Iterable[Entry], sort: Sort, order: Order) -> list[Entry]:
    """Return the entries in order; those without the figure are last, by name."""
    by_name = sorted(entries, key=lambda entry: entry.sae.slug)
    with_key = [(key, entry) for entry in by_name if (key := _sort_key(entry, sort)) is not None]
    without = [entry for entry in by_name if _sort_key(entry, sort) is None]
    ordered = sorted(with_key, key=lambda pair: pair[0], reverse=order == "desc")
    return [*(entry for _, entry in ordered), *without]


def _sort_key(entry: Entry, sort: Sort) -> tuple[float | str, ...] | None:
    """Return what to sort by; None where it was not measured."""
    if sort == "name":
        return (entry.sae.slug,)
    if sort == "architecture":
        return (entry.sae.architecture,)
    if sort == "d_sae":
        return (float(entry.sae.d_sae),)
    if sort == "samples":
        return None if entry.samples is None else (float(entry.samples),)
    if sort == "probing":
        against = entry.against_random
        return (
            None if against is None else (float(len(against.better) - len(against.worse)), float(len(against.better)))
        )
    if sort == "stability":
        return None if entry.stability is None else (entry.stability.share,)
    return None if sort not in entry.figures else (entry.figures[sort].value,)
