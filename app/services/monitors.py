"""Rules of monitors: their names, their choice of a candidate, what they keep, and who may change them.

`figures` of a monitor, as the run that makes it stores them:

    positive, benign, elsewhere   names of the texts, `SET` or `SET:LABEL`; of elsewhere two, or null
    hashes                        of the sets, by name
    texts                         how many of each kind were used, by part: {"train": [positive, benign], …}
    max_tokens                    tokens per text that are read
    candidates                    [{"name", "title", "features", "runs", "validation_auroc", "threshold",
                                    "calibration": {"texts", "fpr", "exceeding", "interval"}, "test": {…},
                                    "live": {"threshold", as calibration, "on_the_way", "test"} | null,
                                    "out_of_distribution": {…} | null, "cautions": […], "suspects"}], best first
    chosen_by_run, best_features, best_baseline, lead, lead_interval, shared, notes
"""

import base64
import math
import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries import monitors as queries
from app.queries.activity import ACKNOWLEDGED, Event, add_activity
from app.queries.monitors import AlertView, MonitorView
from app.queries.sql.pg_safe import is_id, storable
from app.queries.text_sets import TextItem, list_texts
from app.services.actors import Actor, Role, ensure_person
from app.services.text_comparisons import split_side
from app.services.text_sets import find_text_set
from app.services.texts import trim, unix_lines

MAX_NOTES = 4_000
MAX_NAME = 100
MAX_SIDE = 200
MAX_FEATURES = 600
MAX_NOTE = 1_000
"""Characters of what somebody says when they acknowledge an alert."""
LEAST = 10
"""Texts of each kind that training needs, and those of the test."""
_DRIFT_SCORES = 10_000
_ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class Drift:
    """New scores beside those of the calibration: Kolmogorov–Smirnov, and a binomial test of the alerts' rate."""

    texts: int
    statistic: float
    p_value: float
    alerts: int
    alert_p_value: float

    @property
    def has_drifted(self) -> bool:
        """True if either test finds a change at p < 0.01, both counted (Bonferroni)."""
        return min(self.p_value, self.alert_p_value) < _ALPHA / 2


async def find_monitor(session: AsyncSession, reference: str | int) -> MonitorView:
    """Return a monitor by its name, or by its id.

    Raises:
        NotFound: there is none.
    """
    text = str(reference)
    found = None
    if text.isascii() and text.isdecimal() and len(text) < 12:
        found = await queries.get_monitor_by_id(session, int(text)) if is_id(int(text)) else None
    elif storable(text):
        found = await queries.get_monitor(session, text)
    if found is None:
        raise NotFound(f"There is no monitor “{text[:80]}”. All monitors are at /monitors.")
    return found


async def usable_file(session: AsyncSession, monitor: MonitorView) -> Mapping[str, Any]:
    """Return the file of a monitor that may run.

    Raises:
        Conflict: it is paused, or its model was deleted.
    """
    if monitor.state == "paused":
        raise Conflict(f"The monitor {monitor.name} is paused. Whoever may change it can let it run again.")
    if monitor.model_id is None:
        raise Conflict(
            f"The model of the monitor {monitor.name}, {monitor.model}, was deleted, so it cannot read texts here. "
            "Its file still runs anywhere with that model."
        )
    file = await queries.monitor_file(session, monitor.id, monitor.candidate)
    assert file is not None  # only candidates with a file can be chosen
    return file


async def download_file(session: AsyncSession, monitor: MonitorView) -> dict[str, Any]:
    """Return the file that `sae_core.monitoring` reads."""
    file = await queries.monitor_file(session, monitor.id, monitor.candidate)
    assert file is not None
    return {**file, "name": monitor.name, "threshold": monitor.threshold}


def candidate_of(monitor: MonitorView, name: str = "") -> Mapping[str, Any]:
    """Return the figures of one candidate, by default of the one that is used.

    Raises:
        NotFound: there is none of this name.
    """
    wanted = name or monitor.candidate
    for candidate in monitor.figures["candidates"]:
        if candidate["name"] == wanted:
            found: Mapping[str, Any] = candidate
            return found
    raise NotFound(f"The monitor {monitor.name} has no candidate “{wanted[:40]}”.")


async def change_monitor(
    session: AsyncSession,
    monitor: MonitorView,
    *,
    actor: Actor,
    state: Literal["ready", "paused"] | None = None,
    keep_text: bool | None = None,
    notes: str | None = None,
    candidate: str | None = None,
) -> MonitorView:
    """Pause it or let it run, keep texts of alerts or not, say something of it, or use another candidate.

    Raises:
        Forbidden: it is somebody else's.
        NotFound: there is no such candidate.
        Conflict: the candidate does not run on a model, or texts were scored with another.
        Unprocessable: the notes cannot be stored.
    """
    actor.check_change(monitor.owner_id, "This monitor", monitor.owner)
    given = {
        "state": state,
        "keep_text": keep_text,
        "notes": None if notes is None else _tidy(notes, MAX_NOTES),
        "candidate": candidate,
    }
    changed = {name: value for name, value in given.items() if value is not None and value != getattr(monitor, name)}
    if not changed:
        return monitor
    chosen = _chosen(monitor, candidate) if "candidate" in changed and candidate is not None else {}
    await queries.change_monitor(session, monitor.id, **changed, **chosen)
    for name, value in changed.items():
        await _tell(session, monitor, actor, _ACTS.get((name, value)) or _ACTS[name, None])
    return await find_monitor(session, monitor.name)


_ACTS: Mapping[tuple[str, str | bool | None], str] = {
    ("state", "paused"): "monitor paused",
    ("state", "ready"): "monitor resumed",
    ("keep_text", True): "monitor keeps texts",
    ("keep_text", False): "monitor keeps none",
    ("notes", None): "monitor noted",
    ("candidate", None): "monitor threshold",
}
"""Acts in the feed and in webhooks, by setting and value, or None for any; another candidate has another threshold."""


async def _tell(
    session: AsyncSession, monitor: MonitorView, actor: Actor, act: str, *, alert: int | None = None
) -> None:
    person = await ensure_person(session, actor)
    event = Event(person, act, subject=alert, monitor_id=monitor.id, monitor=monitor.name)
    await add_activity(session, event)


def _chosen(monitor: MonitorView, candidate: str) -> dict[str, Any]:
    figures = candidate_of(monitor, candidate)
    if not figures["runs"]:
        raise Conflict(
            f"{figures['title']} does not read a model's activations, so it cannot be the monitor. It is there to "
            "compare with."
        )
    if monitor.checked:
        raise Conflict(
            f"The monitor {monitor.name} has scored {monitor.checked:,} texts, and their scores would mean something "
            "else from here on. Make another monitor for another candidate."
        )
    return {"threshold": figures["threshold"]}


async def delete_monitor(session: AsyncSession, monitor: MonitorView, *, actor: Actor) -> None:
    """Delete a monitor with its alerts, for good.

    Raises:
        Forbidden: it is somebody else's.
    """
    actor.check_change(monitor.owner_id, "This monitor", monitor.owner)
    await _tell(session, monitor, actor, "monitor deleted")  # before, because it loses its id with the monitor
    await queries.delete_monitor(session, monitor.id)


async def acknowledge(
    session: AsyncSession, monitor: MonitorView, alert_id: int, *, actor: Actor, note: str
) -> AlertView:
    """Note that somebody has seen an alert, and what they say of it. The first one counts.

    Raises:
        NotFound: the monitor has no such alert.
        Unprocessable: the note cannot be stored.
    """
    person, note = await ensure_person(session, actor), _tidy(note, MAX_NOTE)
    if await queries.acknowledge(session, monitor.id, alert_id, person, note):
        await _tell(session, monitor, actor, ACKNOWLEDGED, alert=alert_id)
    found = await queries.get_alert(session, monitor.id, alert_id)
    if found is None:
        raise NotFound(f"The monitor {monitor.name} has no alert {alert_id}.")
    return found


def may_acknowledge(actor: Actor) -> bool:
    """True if the actor may acknowledge alerts."""
    return actor.role >= Role.reviewer


def _tidy(text: str, most: int) -> str:
    text = trim(unix_lines(text))
    if len(text) > most or not storable(text):
        raise Unprocessable(f"Notes may have {most:,} characters, and no NUL.")
    return text


# Texts to make a monitor from


async def texts_of_side(session: AsyncSession, side: str) -> tuple[str, list[TextItem]]:
    """Return the hash of the set of a side, `SET` or `SET:LABEL`, and its texts.

    Raises:
        NotFound: there is no such set.
        Unprocessable: it has no text with this label.
    """
    name, label = split_side(side)
    view = await find_text_set(session, name)
    texts = await list_texts(session, view.id, label=label)
    if not texts:
        labels = ", ".join(sorted(view.counts.labels)[:10]) or "none"
        raise Unprocessable(f"{name} has no text with the label “{(label or '')[:80]}”. Its labels are {labels}.")
    return view.hash, texts


async def check_sides(session: AsyncSession, positive: str, benign: str, fpr: float) -> None:
    """Refuse sides that are the same or too small, before a model reads them.

    Raises:
        NotFound, Unprocessable: and why.
    """
    if split_side(positive) == split_side(benign):
        raise Unprocessable(
            f"Positive and benign texts are both {positive}: a monitor needs two kinds. Choose another."
        )
    words = {
        kind: _by_words((await texts_of_side(session, side))[1])
        for kind, side in (("positive", positive), ("benign", benign))
    }
    shared = words["positive"].keys() & words["benign"].keys()
    left_out = f" {len(shared):,} that are both positive and benign were left out." if shared else ""
    parts = {kind: _parts(own, shared) for kind, own in words.items()}
    for kind, counts in parts.items():
        for split, what in (("train", "training"), ("test", "testing")):
            if counts[split] < LEAST:
                raise Unprocessable(
                    f"{counts[split]} {kind} texts are too few for {what}: it takes {LEAST}. A set is split 60 : 20 : "
                    f"20 by hash into training, calibration and test, so give at least {5 * LEAST} {kind} texts."
                    f"{left_out}"
                )
    if not parts["positive"]["calibration"]:
        raise Unprocessable(f"There is no positive text for calibration. Give more positive texts.{left_out}")
    have, needed = parts["benign"]["calibration"], texts_needed(fpr)
    if have < needed:
        least = f" Or ask for a rate of {math.ceil(1e4 * _smallest(have)) / 1e4:.2%}." if have else ""
        raise Unprocessable(
            f"{have:,} benign texts for calibration cannot support a false-positive rate of {fpr:.2%}: it takes "
            f"{needed:,}, which a set of about {5 * needed:,} benign texts has.{least}{left_out}"
        )


def check_elsewhere(positive: str | None, benign: str | None) -> None:
    """Refuse texts from elsewhere that are of one kind.

    Raises:
        Unprocessable: both are the same.
    """
    if positive is not None and benign is not None and split_side(positive) == split_side(benign):
        raise Unprocessable(f"The positive and the benign texts from elsewhere are both {positive}. Choose another.")


def check_has_chats(side: str, texts: Sequence[TextItem], tokens: str) -> None:
    """Refuse texts without any turn of those whose tokens are watched.

    Raises:
        Unprocessable: there is none.
    """
    if tokens in ("user", "assistant") and not any(
        turn["role"] == tokens for text in texts for turn in text.chat or ()
    ):
        raise Unprocessable(
            f"{side} has no chat with words of the {tokens}. Give chats that have some, or watch all tokens."
        )


def texts_needed(fpr: float) -> int:
    """Return the fewest calibration texts that support a rate, as `sae_core.monitoring.texts_needed` does."""
    return max(math.ceil(math.log(0.05) / math.log1p(-fpr)), math.ceil(1 / fpr - 1))


def _smallest(texts: int) -> float:
    return min(max(-math.expm1(math.log(0.05) / texts), 1 / (texts + 1)), 0.9999)


def _by_words(texts: Sequence[TextItem]) -> dict[str, str]:
    """Return the part of each text by its words, as `sae_core.monitoring.shared_texts` compares them."""
    seen: dict[str, str] = {}
    for text in texts:
        seen.setdefault(" ".join(text.text.casefold().split()), text.split)
    return seen


def _parts(words: Mapping[str, str], shared: Set[str]) -> dict[str, int]:
    """Return how many texts there are in each part, without those of both sides, which a run leaves out."""
    splits = [split for text, split in words.items() if text not in shared]
    return {split: splits.count(split) for split in ("train", "calibration", "test")}


# Drift


async def drift_of(session: AsyncSession, monitor: MonitorView) -> Drift | None:
    """Compare the newest scores of scans and live answers with those of the calibration; None where there are none.

    It takes some milliseconds for ten thousand scores, and imports scipy when it is first called.
    """
    scores = await queries.recent_scores(session, monitor.id, limit=_DRIFT_SCORES)
    file = await queries.monitor_file(session, monitor.id, monitor.candidate)
    if not scores or file is None or file["calibration"] is None:
        return None
    return drift(_floats(file["calibration"]["scores"]), scores, monitor.threshold, monitor.fpr)


def drift(calibration: Sequence[float], scores: Sequence[float], threshold: float, fpr: float) -> Drift:
    """Compare new scores with those of the calibration, as `sae_core.monitoring.drift` does."""
    from scipy.stats import binomtest, ks_2samp

    found = ks_2samp(calibration, scores)
    above = sum(score > threshold for score in scores)
    return Drift(
        texts=len(scores),
        statistic=float(found.statistic),
        p_value=float(found.pvalue),
        alerts=above,
        alert_p_value=float(binomtest(above, len(scores), fpr).pvalue),
    )


def _floats(packed: str) -> tuple[float, ...]:
    raw = base64.b64decode(packed)
    return struct.unpack(f"<{len(raw) // 8}d", raw)
