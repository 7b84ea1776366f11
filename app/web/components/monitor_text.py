"""Monitors in words, their tokens shaded, and their charts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.queries.monitors import AlertView, DayRate, MonitorView
from app.services.monitor_checks import CheckedText
from app.services.monitors import Drift, candidate_of
from app.web.components.figures import Chart, Series, figure
from app.web.components.formatting import percent, plural, round_percent, significant
from app.web.components.token_text import Run, plain_runs, step

TOKENS = {
    "all": "every token",
    "user": "the tokens of the user’s turns",
    "assistant": "the tokens of the assistant’s turns",
    "last": "the last token",
}
POOLS = {
    "max": "the largest value counts",
    "mean": "the mean counts",
    "top": "the mean of the five largest values counts",
    "ema": "the largest moving average counts",
}
_OWN_POOLS = {"probe-mean": "mean", "probe-max": "max", "diffmean": "mean"}
"""Of candidates that pool as they are named, whatever is asked for."""
_LINES = (("accent", "solid"), ("positive", "dash"), ("negative", "dot"), ("ink-soft", "dashdot"))
_SMALLEST = 1e-3
LOW_RATES = (0.01, 0.001)
"""False-positive rates at which candidates are compared beside their own."""


def watches(monitor: MonitorView) -> str:
    """Return what a monitor watches, as one sentence."""
    used = candidate_of(monitor)
    features = [str(pair["feature"]) for pair in used["features"]]
    given = monitor.candidate == "direction-given"
    what = {
        "features": f"feature {features[0]}" if len(features) == 1 else f"{len(features)} features with weights",
        "direction": f"the projection on {'a given direction' if given else 'the difference of means'}",
        "probe": "a linear probe on raw activations",
    }[monitor.on]
    pool = _OWN_POOLS.get(monitor.candidate, monitor.pool)
    how = "" if monitor.tokens == "last" else f", of which {POOLS[pool]}"
    whole, live = significant(monitor.threshold), live_threshold(monitor)
    alerts = f"alerts above {whole}" + (f", or {live} while a text grows" if live not in (None, whole) else "")
    return f"It watches {what} on {TOKENS[monitor.tokens]}{how}, and {alerts}."


def live_threshold(monitor: MonitorView) -> str | None:
    """Return the threshold of a text that grows; None of a monitor from before there was one."""
    live = candidate_of(monitor).get("live")
    return significant(live["threshold"]) if live else None


def share(value: Mapping[str, Any]) -> str:
    """12 of 100 (12 %, 6.4 % to 20 %)."""
    low, high = value["interval"]
    return f"{percent(value['value'])} {_interval(percent(low), percent(high))}"


def recall(found: Mapping[str, Any], fpr: float) -> str:
    """Return the recall at a rate with its interval; a rate that the benign texts cannot show is marked."""
    one = next((own for own in found["recall_at_fpr"] if own["fpr"] == fpr), None)
    if one is None or not one["resolved"]:
        return "too few texts"
    low, high = one["interval"]
    return f"{percent(one['recall'])} {_interval(percent(low), percent(high))}"


def _interval(low: str, high: str) -> str:
    """(0.88 to 0.94), which no line breaks."""
    return f"({low}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high})"


def resolved_rates(candidates: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the low rates at which at least one candidate has benign texts enough to show its recall."""
    shown = {own["fpr"] for one in candidates for own in one["test"]["recall_at_fpr"] if own["resolved"]}
    return [rate for rate in LOW_RATES if rate in shown]


def cautions(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what to know before one of the candidates is chosen: whom it concerns, empty for all, and the caution."""
    concerned: dict[str, list[str]] = {}
    for one in candidates:
        for caution in one["cautions"]:
            concerned.setdefault(caution, []).append(one["title"])
    return [
        ("" if len(titles) == len(candidates) else ", ".join(titles), caution) for caution, titles in concerned.items()
    ]


def auroc(found: Mapping[str, Any] | None) -> str:
    """0.912 (0.88 to 0.94)."""
    if found is None:
        return ""
    low, high = found["auroc_interval"]
    return f"{found['auroc']:.3f} {_interval(f'{low:.3f}', f'{high:.3f}')}"


def drift_words(drift: Drift | None, monitor: MonitorView) -> str:
    """Return what the newest scores say beside those of the calibration."""
    if drift is None:
        return (
            "No text of a scan or a live answer was scored yet, so there is nothing to compare with the calibration. "
            "Texts that people check do not count."
        )
    least = _least_distance(drift.texts, candidate_of(monitor)["calibration"]["texts"])
    if drift.has_drifted:
        verdict = (
            "The scores have changed since the calibration, so the threshold may no longer give the rate it was set for"
        )
    elif least > _TOO_COARSE:
        verdict = "There are not enough texts to tell whether the scores have drifted"
    else:
        verdict = "No drift is shown"
    return (
        f"{verdict}: on the newest {plural(drift.texts, 'text')} of scans and live answers the largest distance of the "
        f"distributions is {drift.statistic:.3f}, where {least:.2f} or more would show (two-sample Kolmogorov–Smirnov, "
        f"p = {drift.p_value:.2g}), and {drift.alerts:,} alerted where {round_percent(monitor.fpr)} was set (binomial "
        f"test, p = {drift.alert_p_value:.2g}). A change is called one at p < 0.005. If the texts hold positive ones, "
        "these are a part of it. Texts that people check do not count."
    )


_TOO_COARSE = 0.5
"""A distance of the distributions; where only a larger one would show, there are too few texts."""


def _least_distance(texts: int, calibration: int) -> float:
    """Return the distance that is called a change: Kolmogorov–Smirnov's asymptotic critical value at p = 0.005."""
    critical = math.sqrt(-math.log(0.005 / 2) / 2 * (texts + calibration) / (texts * calibration))
    return min(critical, 1.0)


def roc_chart(candidates: Sequence[Mapping[str, Any]], key: str = "test") -> Chart:
    """Chart recall over the false-positive rate, whose low corner is drawn large: the axis is logarithmic."""
    shown = [one for one in candidates if one[key] is not None][: len(_LINES)]
    traces, series, rows = [], [], []
    for one, (colour, dash) in zip(shown, _LINES, strict=False):
        points = [(max(fpr, _SMALLEST), value) for fpr, value in one[key]["roc"]]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": one["title"],
                "x": [fpr for fpr, _ in points],
                "y": [value for _, value in points],
                "line": {"color": f"var(--{colour})", "width": 2, "dash": dash, "shape": "hv"},
                "hovertemplate": "%{y:.1%} at %{x:.2%}<extra>%{fullData.name}</extra>",
            }
        )
        series.append(Series(one["title"], f"var(--{colour})", dash))
        rows += [(one["title"], percent(fpr), percent(value)) for fpr, value in one[key]["roc"][:12]]
    ticks = [0.001, 0.01, 0.1, 1]
    x = {
        "title": "false-positive rate (log)",
        "type": "log",
        "range": [-3, 0],
        "tickvals": ticks,
        "ticktext": [round_percent(tick) for tick in ticks],
    }
    y = {"title": "recall", "range": [0, 1.02], "tickformat": ".0%"}
    return Chart(
        title="Recall at each false-positive rate",
        note="on held-out test texts; rates below 0.1 % are drawn at the left edge",
        figure=figure(traces, x, y),
        columns=("candidate", "false positives", "recall"),
        rows=tuple(rows),
        series=tuple(series),
    )


def rate_chart(days: Sequence[DayRate], monitor: MonitorView) -> Chart:
    """Chart the share of texts that alerted, day by day, with the rate that the threshold was set for."""
    bars = {
        "type": "bar",
        "x": [day.day.date().isoformat() for day in days],
        "y": [day.alerts / day.texts for day in days],
        "customdata": [[day.alerts, day.texts] for day in days],
        "marker": {"color": "var(--accent)"},
        "hovertemplate": "%{customdata[0]:,} of %{customdata[1]:,} texts<extra></extra>",
    }
    line = {"color": "var(--ink-faint)", "width": 1, "dash": "dot"}
    rule = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": monitor.fpr, "y1": monitor.fpr, "line": line}
    y = {"title": "share of texts", "tickformat": ".1~%", "rangemode": "tozero"}
    fpr = round_percent(monitor.fpr)
    return Chart(
        title="Alerts by day",
        note=f"the dotted line is the share of benign texts that the threshold was set for, {fpr}",
        figure=figure([bars], {"title": "day (UTC)", "type": "category"}, y, shapes=[rule]),
        columns=("day", "texts", "alerts"),
        rows=tuple((day.day.date().isoformat(), f"{day.texts:,}", f"{day.alerts:,}") for day in days),
    )


def checked_runs(text: CheckedText) -> tuple[Run, ...]:
    """Return the tokens of a checked text, shaded by the score of each alone."""
    return _shaded(text.token_infos, dict(enumerate(text.values)))


def alert_runs(alert: AlertView) -> tuple[Run, ...]:
    """Return the tokens of an alert whose text was kept, shaded by the score of each alone; else nothing."""
    if alert.text is None:
        return ()
    tokens = [(0, str(token.get("text", "")).encode(), False) for token in alert.tokens]
    return _shaded(tokens, {place: token["value"] for place, token in enumerate(alert.tokens)})


def _shaded(tokens: Sequence[tuple[int, bytes, bool]], values: Mapping[int, float | None]) -> tuple[Run, ...]:
    known = [value for value in values.values() if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def step_of(place: int) -> int:
        value = values.get(place)
        return 0 if value is None else step(value - low, high - low)

    def note_of(place: int) -> str:
        value = values.get(place)
        return "not watched" if value is None else f"score {significant(value)}"

    strongest = max(
        (place for place in values if values[place] is not None), key=lambda place: values[place] or 0.0, default=-1
    )
    return plain_runs(tokens, note_of, step_of, strongest if high > low else -1)


def brief_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run that made a monitor says on its page: what was chosen, and what that does on held-out texts."""
    features = [str(feature) for feature in result.get("features", ())]
    numbers = ", ".join(features[:10]) + (f" and {len(features) - 10} more" if len(features) > 10 else "")
    shown = {name: result[name] for name in ("monitor", "sae") if name in result}
    shown["candidate chosen"] = result.get("title") or result.get("candidate")
    shown["feature" if len(features) == 1 else "feature numbers"] = numbers
    shown["threshold"] = result.get("threshold")
    for where, name in (("", "test"), (" elsewhere", "out_of_distribution")):
        if found := result.get(name):
            shown[f"AUROC{where}"] = auroc(found)
            shown[f"recall at the threshold{where}"] = share(found["recall"])
            shown[f"benign that alert{where}"] = share(found["false_positives"])
    return {name: value for name, value in shown.items() if value}


FILTERS = {
    "monitor_watches": watches,
    "monitor_live_threshold": live_threshold,
    "monitor_share": share,
    "monitor_recall": recall,
    "monitor_auroc": auroc,
    "monitor_alert_runs": alert_runs,
    "monitor_checked_runs": checked_runs,
}
