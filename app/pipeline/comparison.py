"""Compare SAEs of one model feature by feature, two at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.artifacts import store_key
from app.errors import Unprocessable
from app.pipeline.db_rows import match_rows
from app.pipeline.registered import load_registered, registered_sae
from app.queries import comparisons, runs, saes
from app.queries.comparisons import FeatureMatchRow
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.saes import check_comparable
from sae_core.errors import SAEError
from sae_core.matching import Counterparts, Matching, PartnerShare, chance_cosines, match_features, provenance
from sae_core.progress import Progress, rescaled, subprogress
from sae_core.store.activation_store import ActivationStore

log = structlog.get_logger("worker")

MOST_OTHERS = 8
"""Other SAEs, newest first, that an SAE is compared with automatically."""

BINS = 20
"""Equal bins of the histograms of cosine and correlation, from 0 to 1."""

_REPORT_ROWS = 4096


async def compare_saes(run: RunContext, ctx: JobContext, a: str, b: str) -> dict[str, Any]:
    """Compare two SAEs and return what each has in the other.

    Raises:
        NotFound, NoWeights: one of them is not there, or was imported without weights.
        Unprocessable: they cannot be compared.
        ArtifactError: an activation store is damaged.
    """
    this, other = await registered_sae(ctx, a), await registered_sae(ctx, b)
    check_comparable(this, other)
    async with ctx.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, this.id)
    async with run.stage("compare") as progress:
        compared = await _compare(run, ctx, this, other, progress)
    sides = compared.summary["a"], compared.summary["b"]
    ours, theirs = sides if this.id < other.id else sides[::-1]
    return {
        "sae": this.slug,
        "other": other.slug,
        "features": this.d_sae,
        "features_of_other": other.d_sae,
        "tokens": compared.tokens,
        **{f"matched_by_{name}": ours[f"matched_by_{name}"] for name in ("direction", "activity")},
        "partners_by_direction": ours["partners"]["direction"]["found"],
        "without_partner": ours["unmatched"],
        "without_partner_in_other": theirs["unmatched"],
        "split_by_other": ours["split"],
        "other_split_by_this": theirs["split"],
        "page": f"/compare?a={this.slug}&b={other.slug}",
        "notes": compared.notes,
    }


async def compare_with_others(run: RunContext, ctx: JobContext, detail: SaeDetail) -> None:
    """The last stage of a run that indexed an SAE: compare it with the others indexed on the same sequences.

    A fault in another SAE's files does not fail this run; `seesae compare` reports it.
    """
    async with run.stage("compare") as progress:
        this = await registered_sae(ctx, detail.slug)  # with the index that was just published
        async with ctx.sessions() as session:
            known = await saes.list_saes(session)
        others = [other for other in known if _comparable(this, other) and _store(ctx, other).exists()][:MOST_OTHERS]
        async with ctx.sessions.begin() as session:
            await runs.note_use(session, run.run_id, *(f"sae {other.id}" for other in others))
        for number, other in enumerate(others):
            try:
                await _compare(run, ctx, this, other, subprogress(progress, number, len(others)))
            except SAEError as error:
                log.warning("not_compared", sae=this.slug, other=other.slug, reason=str(error))
        progress(len(others) * this.d_sae, len(others) * this.d_sae)


def _comparable(this: SaeDetail, other: SaeDetail) -> bool:
    """True for two different SAEs that can be compared by direction and by activity."""
    if this.index is None or other.index is None or this.id == other.id:
        return False
    return (this.model.id, this.d_in, this.hook_out, this.index.sequence_set.id) == (
        other.model.id,
        other.d_in,
        other.hook_out,
        other.index.sequence_set.id,
    )


@dataclass(frozen=True, slots=True)
class _Compared:
    """A comparison that was published."""

    tokens: int
    summary: Mapping[str, Any]
    notes: list[str]


async def _compare(
    run: RunContext, ctx: JobContext, this: SaeDetail, other: SaeDetail, progress: Progress
) -> _Compared:
    """Compare two SAEs and publish the result; an equal comparison that is there already is kept.

    Raises:
        Unprocessable: their decoders write to spaces of different dimension.
        ArtifactError: an activation store is damaged.
    """
    a, b = sorted((this, other), key=lambda sae: sae.id)
    stores, notes = await run.in_thread(_stores, ctx, a, b)
    text = a.index.sequence_set if a.index and stores else None
    made_of = {"saes": [a.weights_sha256, b.weights_sha256], **provenance(stores)}
    async with ctx.sessions() as session:
        known = await comparisons.get_comparison(session, a, b)
    if known is not None and known.provenance == made_of:
        progress(this.d_sae, this.d_sae)
        return _Compared(known.tokens, {"a": known.this, "b": known.other}, notes)
    matching, chance = await run.in_thread(_match, ctx, a, b, stores, rescaled(progress, this.d_sae))
    summary = {
        side: summary_of(own, matching.tokens, by_chance)
        for side, own, by_chance in zip("ab", (matching.a, matching.b), chance, strict=True)
    }
    async with ctx.sessions.begin() as session:
        await comparisons.publish_comparison(
            session,
            a=a,
            b=b,
            sequence_set_id=text.id if text else None,
            tokens=matching.tokens,
            provenance=made_of,
            summary=summary,
            rows=[_interruptible(match_rows(side), progress, this.d_sae) for side in (matching.a, matching.b)],
        )
    return _Compared(matching.tokens, summary, notes)


def _match(
    ctx: JobContext,
    a: SaeDetail,
    b: SaeDetail,
    stores: tuple[ActivationStore, ActivationStore] | None,
    progress: Progress,
) -> tuple[Matching, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Match the features of two SAEs by their decoder directions, and by activity if there are stores.

    The cosines that some features of each have to their best partners in a random dictionary come with it.
    """
    W_dec_a, W_dec_b = (load_registered(ctx, sae).W_dec.detach() for sae in (a, b))
    if W_dec_a.shape[1] != W_dec_b.shape[1]:
        raise Unprocessable(
            f"{a.slug} writes to {W_dec_a.shape[1]} dimensions, {b.slug} to {W_dec_b.shape[1]}: "
            "their directions cannot be compared."
        )
    chance = chance_cosines(W_dec_a, W_dec_b), chance_cosines(W_dec_b, W_dec_a)
    return match_features(W_dec_a, W_dec_b, stores, progress=progress), chance


def _interruptible(rows: Iterable[FeatureMatchRow], progress: Progress, total: int) -> Iterator[FeatureMatchRow]:
    """Yield the rows, reporting now and then: reporting is what raises when the run is to stop."""
    for row in rows:
        if row.feature % _REPORT_ROWS == 0:
            progress(total, total)
        yield row


def _store(ctx: JobContext, sae: SaeDetail) -> Path:
    """Return the folder of the activations of an indexed SAE, on the text of its index."""
    assert sae.index is not None
    return ctx.artifacts.index(store_key(sae, sae.index.sequence_set.sha256))


def _stores(
    ctx: JobContext, a: SaeDetail, b: SaeDetail
) -> tuple[tuple[ActivationStore, ActivationStore] | None, list[str]]:
    """Return the activations of both on the same text, or None and a sentence that says why and what to do."""
    if a.index is None or b.index is None:
        sae = a if a.index is None else b
        return None, [_directions_only(f"{sae.slug} has no index", sae)]
    if a.index.sequence_set.id != b.index.sequence_set.id:
        return None, [_directions_only("the two are indexed on different text", b)]
    for sae in (a, b):
        if not ctx.artifacts.pull(_store(ctx, sae)).exists():
            return None, [_directions_only(f"the activations of {sae.slug} are not on this machine", sae)]
    return (ActivationStore.open(_store(ctx, a)), ActivationStore.open(_store(ctx, b))), []


def _directions_only(why: str, sae: SaeDetail) -> str:
    return (
        f"Only directions were compared, not activity: {why}. "
        f"Index {sae.slug} on the text of the other, and compare again."
    )


def summary_of(own: Counterparts, tokens: int, chance: NDArray[np.float32]) -> dict[str, Any]:
    """Return counts and histograms of the counterparts that one SAE's features have in the other.

    Args:
        own: counterparts of each feature.
        tokens: tokens on which activity was compared; 0 if only directions were.
        chance: cosines of some features to their best partners in a random dictionary.
    """
    either = own.near_matched | own.coactive_matched
    alive = own.count > 0 if tokens else np.ones(len(either), bool)
    both = own.near_matched & own.coactive_matched & (own.near.ids == own.coactive.ids)
    correlated = own.coactive.ids >= 0
    return {
        "features": len(either),
        "matched_by_direction": int(own.near_matched.sum()),
        "matched_by_activity": int(own.coactive_matched.sum()),
        "matched_by_both": int(both.sum()),
        "unmatched": int((alive & ~either).sum()),
        "dead": int((~alive).sum()),
        "parts": int((own.parent.ids >= 0).sum()),
        "split": int((own.parts > 1).sum()),
        "cosine": _histogram(own.near.cosine, own.near_matched),
        "correlation": _histogram(own.coactive.correlation[correlated], own.coactive_matched[correlated]),
        "uncorrelated": int((~correlated).sum()),
        "partners": {
            "direction": asdict(PartnerShare.of(own.near.cosine)),
            "activity": asdict(PartnerShare.of(own.coactive.correlation[alive])) if tokens else None,
            "chance": asdict(PartnerShare.of(chance)),
            "chance_cosine": float(chance.mean()),
        },
    }


def _histogram(values: NDArray[np.float32], matched: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Count features by the value of their best partner, one-to-one matches apart; below 0 counts as 0."""
    bins = np.minimum((values.clip(0, 1) * BINS).astype(np.int64), BINS - 1)
    return {
        "matched": np.bincount(bins[matched], minlength=BINS).tolist(),
        "others": np.bincount(bins[~matched], minlength=BINS).tolist(),
    }
