"""All SAEs of one model beside each other."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.errors import NotFound
from app.problems import documented
from app.services.evaluation import evaluate_command
from app.services.leaderboard import Entry, Fidelity, Group, Order, Sort, get_leaderboard
from app.services.probing import Difference
from app.web.dependencies import Session

router = APIRouter(prefix="/api/v1", tags=["Comparisons"])


class MeasuredOut(BaseModel):
    """A figure with the ends of its 95 % interval; null where there is none."""

    value: float
    low: float | None
    high: float | None


class DifferenceOut(BaseModel):
    """Accuracy of an SAE's features on a text set less that of a random dictionary, with an interval.

    The intervals of an SAE's sets hold together with 95 %.
    """

    set: str
    value: float
    low: float
    high: float
    verdict: Annotated[str, Field(description="better, worse, or open.")]


class StabilityOut(BaseModel):
    """Share of the features that have a partner in an SAE that differs in its seed alone."""

    share: float
    features: int
    other: Annotated[str, Field(description="That SAE.")]


class HeldOutTextOut(BaseModel):
    """The text that the SAEs of a group were measured on."""

    sequences: Annotated[str, Field(description="Hash of the sequences.")]
    corpus: str
    tokens: Annotated[int, Field(description="Held-out tokens behind reconstruction, L0 and dead features.")]
    predictions: Annotated[int, Field(description="Held-out predictions behind the loss.")]


class EntryOut(BaseModel):
    """One SAE; what was not measured is null."""

    sae: str
    architecture: str
    d_sae: int
    samples: Annotated[int | None, Field(description="Activations of its training; null if it was trained elsewhere.")]
    l0: MeasuredOut | None
    explained_variance: MeasuredOut | None
    ce_recovered: Annotated[MeasuredOut | None, Field(description="Loss recovered, against mean ablation.")]
    dead: Annotated[MeasuredOut | None, Field(description="Share of the features never active on the held-out tokens.")]
    probing: list[DifferenceOut] | None
    stability: StabilityOut | None
    frontier: Annotated[
        list[Fidelity], Field(description="Measures by which no SAE of the group is as good at as low an L0.")
    ]
    evaluate: Annotated[
        str | None, Field(description="The command that measures it; null if it is measured, or cannot.")
    ]


class GroupOut(BaseModel):
    """SAEs whose figures compare: of the same hook points, measured on the same text."""

    hook: str
    hook_out: str | None
    text: Annotated[HeldOutTextOut | None, Field(description="Null where it is not known, or nothing was measured.")]
    saes: list[EntryOut]


class LeaderboardOut(BaseModel):
    """The SAEs of one model."""

    model: str
    sort: Sort
    order: Order
    groups: list[GroupOut]


@router.get("/leaderboard", summary="All SAEs of a model", responses=documented(404))
async def leaderboard(
    session: Session,
    model: Annotated[str, Query(max_length=200, description="By default that of the newest SAE.")] = "",
    sort: Sort = "explained_variance",
    order: Annotated[Order | None, Query(description="By default the best first.")] = None,
) -> LeaderboardOut:
    """Return the SAEs of a model with what was measured of each, in groups whose figures compare."""
    board = await get_leaderboard(session, model=model, sort=sort, order=order or "")
    if board is None:
        raise NotFound("There is no SAE yet.")
    return LeaderboardOut(
        model=board.model, sort=board.sort, order=board.order, groups=[_group(group) for group in board.groups]
    )


def _group(group: Group) -> GroupOut:
    return GroupOut(
        hook=group.hook,
        hook_out=group.hook_out,
        text=HeldOutTextOut.model_validate(group.text, from_attributes=True) if group.text else None,
        saes=[_entry(entry) for entry in group.entries],
    )


def _entry(entry: Entry) -> EntryOut:
    figures = {name: MeasuredOut.model_validate(figure, from_attributes=True) for name, figure in entry.figures.items()}
    stability = entry.stability
    return EntryOut(
        sae=entry.sae.slug,
        architecture=entry.sae.architecture,
        d_sae=entry.sae.d_sae,
        samples=entry.samples,
        l0=figures.get("l0"),
        explained_variance=figures.get("explained_variance"),
        ce_recovered=figures.get("ce_recovered"),
        dead=figures.get("dead"),
        probing=_probing(entry),
        stability=StabilityOut.model_validate(stability, from_attributes=True) if stability else None,
        frontier=sorted(entry.frontier),
        evaluate=None if entry.is_measured or not entry.sae.has_weights else evaluate_command(entry.sae),
    )


def _probing(entry: Entry) -> list[DifferenceOut] | None:
    against = entry.against_random
    if against is None or entry.probing is None:
        return None
    sides = (("better", against.better), ("worse", against.worse), ("open", against.open))
    verdicts = {one.name: verdict for verdict, sets in sides for one in sets}
    return [_difference(one.name, one.difference("random"), verdicts[one.name]) for one in entry.probing.sets]


def _difference(name: str, found: Difference, verdict: str) -> DifferenceOut:
    return DifferenceOut(set=name, value=found.value, low=found.low, high=found.high, verdict=verdict)
