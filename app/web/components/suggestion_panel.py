"""Suggestions as the page of a feature shows them, beside its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.queries.saes import SaeDetail
from app.queries.suggestions import SuggestionView

_TESTS = {
    "detection": "Detection: in which held-out texts is the feature active?",
    "fuzzing": "Fuzzing: are the marked parts those on which it is active?",
}
_MEASURES = {"balanced_accuracy": "balanced accuracy", "f1": "F1", "auprc": "AUPRC"}


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One measure of one test: what the suggestion scores, its interval, and the floor."""

    measure: str
    value: str
    interval: str
    floor: str


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One test of a suggestion; without rows, `error` says why there is none."""

    title: str
    items: int
    rows: Sequence[ScoreRow]
    error: str


@dataclass(frozen=True, slots=True)
class ShownSuggestion:
    """One suggestion with its scores."""

    view: SuggestionView
    is_current: bool
    brief: str
    """Its scores in one line; empty if it was not tested."""
    tables: Sequence[ScoreTable]
    tester: str

    @property
    def name(self) -> str:
        """Return what names it in an address."""
        return str(self.view.id or self.view.source)

    @property
    def origin(self) -> str:
        """Return who made it."""
        return self.view.model or "from statistics"


def suggestion_panel(sae: SaeDetail, suggestions: Sequence[SuggestionView]) -> list[ShownSuggestion]:
    """Return the suggestions of a feature with their scores."""
    return [_shown(sae, view) for view in suggestions]


def _shown(sae: SaeDetail, view: SuggestionView) -> ShownSuggestion:
    scores = view.scores or {}
    tested = {kind: scores[kind] for kind in _TESTS if kind in scores}
    return ShownSuggestion(
        view=view,
        is_current=sae.index is not None and view.index_id == sae.index.id,
        brief=" · ".join(_brief(kind, score) for kind, score in tested.items() if "error" not in score),
        tables=[_table(kind, score) for kind, score in tested.items()],
        tester=str(scores.get("tester", "")),
    )


def _brief(kind: str, score: Mapping[str, Any]) -> str:
    own, floor = score["balanced_accuracy"]["value"], score["floor"]
    beside = f" (another feature’s: {floor['balanced_accuracy']['value']:.2f})" if floor else ""
    return f"{kind} {own:.2f}{beside}"


def _table(kind: str, score: Mapping[str, Any]) -> ScoreTable:
    if "error" in score:
        return ScoreTable(_TESTS[kind], 0, (), str(score["error"]))
    rows = [
        ScoreRow(name, f"{own['value']:.2f}", f"{own['low']:.2f}–{own['high']:.2f}", _floor(score["floor"], measure))
        for measure, name in _MEASURES.items()
        if (own := score[measure])
    ]
    return ScoreTable(_TESTS[kind], score["items"], rows, "")


def _floor(floor: Mapping[str, Any] | None, measure: str) -> str:
    return f"{floor[measure]['value']:.2f}" if floor and floor[measure] else "–"


def suggested_by(view: SuggestionView) -> str:
    """Return who suggests, after "suggested"."""
    return f"by {view.model}" if view.model else "from statistics"


FILTERS = {"suggested_by": suggested_by}
