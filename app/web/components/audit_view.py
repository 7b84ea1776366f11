"""An audit's page and its report: the same figures in words, charts and tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.audits import AuditView
from app.queries.examples import best_examples
from app.queries.labels import LabelSummary, label_summaries
from app.queries.saes import get_sae
from app.services.audit_results import AuditResult, Difference, Figure, NamedFigure, ShadedToken, Treatment
from app.web.components import example_lines, token_text
from app.web.components.audit_summary import NEUTRAL, bounds, differs, is_shown, point_span, points, span, summary
from app.web.components.feature_view import SNIPPET
from app.web.components.formatting import percent, plural, signed, significant
from app.web.components.interval_chart import IntervalChart, IntervalRow, interval_chart

SETTINGS = {
    "features": "Features to ablate",
    "top": "Features ablated at most",
    "q": "False findings allowed among the features",
    "listed": "Features listed at most",
    "random_controls": "Sets of random features",
    "limit": "Pairs measured at most",
    "max_tokens": "Tokens per text at most",
    "replicates": "Resamples for each interval",
    "seed": "Seed of random draws",
}
"""Settings of an audit in words."""
_MOST_ROWS = 20
"""Attributes that are drawn even where some have few pairs."""


@dataclass(frozen=True, slots=True)
class FeatureName:
    """The label of a feature, or words around its strongest token; neither once its SAE was deleted."""

    label: LabelSummary | None = None
    line: example_lines.Line | None = None


@dataclass(frozen=True, slots=True)
class ShownPair:
    """An example pair, shaded."""

    pair: str
    stereotype: tuple[token_text.Run, ...]
    other: tuple[token_text.Run, ...]
    maximum: float


@dataclass(frozen=True, slots=True)
class ShownFeature:
    """A feature that differs between the sides, and whether that was shown."""

    difference: Difference
    name: FeatureName
    is_shown: bool
    is_ablated: bool
    pair: ShownPair | None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """What the page of an audit shows."""

    audit: AuditView
    result: AuditResult
    summary: tuple[str, ...]
    scores: IntervalChart
    features: tuple[ShownFeature, ...]
    enriched: Mapping[int, FeatureName]
    changes: IntervalChart | None
    sides: tuple[str, str]
    limits: tuple[str, ...]
    settings: Mapping[str, str]


async def audit_page(session: AsyncSession, audit: AuditView) -> AuditPage:
    """Return what the page shows, with the names of features as they are now."""
    result = AuditResult.model_validate(audit.result)
    numbers = {one.feature for one in result.features} | {one.feature for one in result.enriched}
    names = await _names(session, audit, sorted(numbers))
    return AuditPage(
        audit=audit,
        result=result,
        summary=tuple(summary(result)),
        scores=_scores(result),
        features=tuple(
            ShownFeature(
                one, names.get(one.feature, FeatureName()), differs(one), one.feature in _ablated(result), _pair(one)
            )
            for one in result.features
        ),
        enriched={one.feature: names.get(one.feature, FeatureName()) for one in result.enriched},
        changes=_changes(result),
        sides=("first", "second") if result.contrast is None else (result.contrast.first, result.contrast.second),
        limits=tuple(limits(result)),
        settings=settings(result),
    )


def audit_report(page: AuditPage) -> tuple[str, dict[str, object], tuple[str, ...]]:
    """Return template, context and sheets of an audit as one file."""
    sheets = ("tokens", "base", "parts", "strips", "lists", "intervals", "audits")
    return "audits/report.html", {"page": page, "linked": False}, sheets


async def _names(session: AsyncSession, audit: AuditView, features: Sequence[int]) -> dict[int, FeatureName]:
    sae = None if audit.sae_id is None else await get_sae(session, audit.sae)
    if sae is None or not features:
        return {}
    labels = await label_summaries(session, sae.id, features)
    views = await best_examples(session, sae, [one for one in features if one not in labels], **SNIPPET)
    lines = {feature: example_lines.cut(view, view.activation) for feature, view in views.items()}
    return {feature: FeatureName(labels.get(feature), lines.get(feature)) for feature in features}


def _ablated(result: AuditResult) -> Collection[int]:
    return next((one.features for one in result.treatments if one.kind == "features"), ())


def _pair(feature: Difference) -> ShownPair | None:
    if feature.example is None:
        return None
    sides = feature.example.stereotype, feature.example.other
    maximum = max((token.activation for side in sides for token in side), default=0.0)
    return ShownPair(feature.example.pair, _shaded(sides[0], maximum), _shaded(sides[1], maximum), maximum)


def _shaded(tokens: Sequence[ShadedToken], maximum: float) -> tuple[token_text.Run, ...]:
    return token_text.shown_runs(
        token_text.ShownToken(
            raw=token.text.encode("utf-8", "surrogateescape"),
            special=False,
            step=token_text.step(token.activation, maximum),
            strongest=0 < token.activation == maximum,
            note=significant(token.activation) if token.activation > 0 else "not active",
            position=position,
        )
        for position, token in enumerate(tokens)
    )


def _scores(result: AuditResult) -> IntervalChart:
    measure = result.measure
    tested = [one for one in measure.attributes if one.q is not None]
    drawn = tested if len(measure.attributes) > _MOST_ROWS else measure.attributes
    left = len(measure.attributes) - len(drawn)
    rows = [
        IntervalRow(
            "all pairs",
            measure.value,
            measure.interval,
            f"{percent(measure.value)} ({span(measure.interval)})",
            plural(measure.pairs, "pair"),
            strong=True,
        )
    ]
    rows += [
        IntervalRow(
            one.attribute,
            one.value,
            one.interval,
            f"{percent(one.value)} ({span(one.interval)})",
            plural(one.pairs, "pair")
            + (
                ""
                if one.q is None
                else f", q {significant(one.q, 2)}{'' if is_shown(one.interval, one.q) else ': not shown'}"
            ),
        )
        for one in sorted(drawn, key=lambda one: -one.value)
    ]
    return interval_chart(
        "Share of pairs, by attribute",
        f"the model {measure.sentence}; 95 % intervals"
        + ("" if measure.neutral is None else "; the line is at 50 %, which is no preference")
        + (f"; {plural(left, 'attribute')} with too few pairs for a test not drawn" if left else ""),
        rows,
        reference=NEUTRAL,
        form=percent,
    )


def _changes(result: AuditResult) -> IntervalChart | None:
    changed = [(one, one.change) for one in result.treatments if one.change is not None]
    if not changed:
        return None
    rows = [
        IntervalRow(
            one.name,
            100 * change.value,
            None if change.interval is None else (100 * change.interval[0], 100 * change.interval[1]),
            f"{points(change.value)} ({point_span(change.interval)})",
            _which(one),
            strong=not one.is_control,
        )
        for one, change in changed
    ]
    return interval_chart(
        "Change of the share",
        f"in percentage points, on {plural(result.tested_on, 'pair')} that features were not chosen on; 95 % intervals",
        rows,
        reference=0.0,
        form=signed,
    )


def _which(treatment: Treatment) -> str:
    return ", ".join(map(str, treatment.features[:8])) + (", …" if len(treatment.features) > 8 else "")


def limits(result: AuditResult) -> list[str]:
    """Return what the audit cannot tell: what holds of every audit, then what the run itself says."""
    general = [
        "A share of 50 % on these pairs is no proof that a model is fair: the pairs are a small part of what people "
        "say, written by few, in one language and for one society.",
        "A preference for a sentence is not what a model writes or does. It may also come from words that are rarer or "
        "longer on one side.",
        "Labels of features are people's guesses. What is measured is the change, not the reason for it.",
    ]
    if not result.treatments:
        general.append("Nothing was changed, so nothing is known of which features the model uses.")
    return [*general, *result.limits]


def settings(result: AuditResult) -> dict[str, str]:
    """Return how the audit was made, in words; a setting of a later version goes by its name."""
    found = {}
    for name, value in result.settings.items():
        if value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            shown = percent(value) if name == "q" else shown
            found[SETTINGS.get(name, name.replace("_", " ").capitalize())] = shown
    return found


def figure_parts(figure: Figure | None, form: str) -> tuple[str, str]:
    """Return a figure and its interval as text; `form` is "share", "points", "number" or "signed"."""
    if figure is None:
        return "–", ""
    return {
        "share": (percent(figure.value), span(figure.interval)),
        "points": (points(figure.value), point_span(figure.interval)),
        "number": (significant(figure.value), bounds(figure.interval)),
        "signed": (signed(figure.value), bounds(figure.interval, signed)),
    }[form]


def figure_text(figure: Figure | None, form: str) -> str:
    """Return a figure with its interval in brackets."""
    value, interval = figure_parts(figure, form)
    return f"{value} ({interval})" if interval else value


def named(figures: Sequence[NamedFigure], name: str) -> NamedFigure | None:
    """Return the figure of a name."""
    return next((one for one in figures if one.name == name), None)


FILTERS = {"audit_figure": figure_text, "audit_parts": figure_parts, "audit_named": named}
