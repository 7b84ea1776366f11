"""Saved edits in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.queries.edits import EditView
from app.web.components.effect_text import times
from app.web.components.formatting import percent, plural, significant

_WHERE = {
    "all": "on every token",
    "prompt": "on the prompt",
    "generated": "on new text",
}


@dataclass(frozen=True, slots=True)
class ChangeText:
    """One intervention as a sentence: `before` what it is about, and `after`."""

    before: str
    sae: str | None
    """Slug of an SAE that there is; None where the feature has no page."""
    feature: int | None
    name: str
    after: str


def change_texts(edit: EditView, labels: Mapping[tuple[str, int], str]) -> list[ChangeText]:
    """Return what an edit does, one sentence for each intervention.

    Args:
        edit: the edit.
        labels: of features, by SAE and number, as far as they have one.
    """
    there = {sae.slug for sae in edit.saes if sae.id is not None}
    several = len(edit.saes) > 1
    return [_change(change, there, several, labels) for change in edit.interventions]


def _change(
    change: Mapping[str, Any], there: set[str], several: bool, labels: Mapping[tuple[str, int], str]
) -> ChangeText:
    slug, feature, value = change["sae"], change["feature"], significant(change["value"])
    of_sae = f" of {slug}" if several or slug not in there else ""
    name = _direction(change["direction"]) if feature is None else f"feature {feature}{of_sae}"
    if feature is not None and (label := labels.get((slug, feature))):
        name = f"{label} (feature {feature}{of_sae})"
    before, after = {
        "clamp": ("Sets", f"to {value}"),
        "scale": ("Multiplies", f"by {value}"),
        "add": (f"Adds {value} ×", ""),
        "ablate": ("Takes out", ""),
    }[change["op"]]
    if change["random_direction"] is not None:
        after += " along a random direction (a control)"
    where = _positions(change["positions"]) + (", BOS included" if change["special_tokens"] else " but BOS")
    if not change["special_tokens"] and change["positions"] != "all":
        where = _positions(change["positions"])
    return ChangeText(before, slug if slug in there else None, feature, name, f"{after} {where}".strip())


def _direction(direction: Mapping[str, Any]) -> str:
    if direction["feature"] is not None:
        return f"the direction of feature {direction['feature']}"
    if direction["vector"] is not None:
        return f"a vector of {plural(len(direction['vector']), 'number')}"
    texts = [plural(len(direction[side] or ()), "text") for side in ("positive", "negative")]
    return f"the mean difference between {texts[0]} and {texts[1]}"


def _positions(positions: Any) -> str:
    if isinstance(positions, str):
        return _WHERE[positions]
    if isinstance(positions, Sequence):
        return f"on tokens {positions[0]} to {positions[1] - 1}"
    tokens = positions["tokens"]
    return f"on token{'s' if len(tokens) > 1 else ''} {', '.join(map(str, tokens))}"


def finding(measured: Mapping[str, Any]) -> str:
    """Return what a measurement found on text, in one sentence."""
    text = measured["text"]
    kl, ratio = text["kl"], text["kl"]["ratio"]
    start = f"On held-out text it changes predictions by {figure(kl['edit'])} nats per token (KL)"
    if ratio["value"] is None:
        return f"{start}."
    return (
        f"{start}, {times(ratio['value'])} × as much as the same change along random features"
        f"{interval(ratio, times)}, and raises the loss by {figure(text['rise']['edit'])} nats."
    )


def figure(value: Mapping[str, Any]) -> str:
    """Return a figure, signed where it is negative."""
    number = value["value"]
    return "–" if number is None else f"{'−' if number < 0 else ''}{significant(abs(number), 2)}"


def interval(value: Mapping[str, Any], written: Any = None) -> str:
    """Return the interval of a figure in brackets; nothing where there is none."""
    ends = value["interval"]
    if ends is None:
        return ""
    low, high = (written(end) if written else figure({"value": end}) for end in ends)
    return f" ({low} to {high})"


def share(value: Mapping[str, Any]) -> str:
    """Return a share in percent."""
    return "–" if value["value"] is None else percent(value["value"])


def share_interval(value: Mapping[str, Any]) -> str:
    """Return the interval of a share in brackets."""
    return interval(value, percent)


FACTS = {
    "prompts": "its own prompts",
    "paraphrases": "the same in other words",
    "neighbours": "neighbouring facts, which should stay",
}
"""Lists of an edit's facts, in words."""


def facts_text(facts: Sequence[Mapping[str, Any]]) -> str:
    """Return facts as a form has them: one per line, `prompt | expected | forbidden`."""
    lines = ([fact["prompt"], fact["expected"], *([fact["forbidden"]] if fact["forbidden"] else [])] for fact in facts)
    return "\n".join(" | ".join(line) for line in lines)


FILTERS = {
    "edit_figure": figure,
    "edit_interval": interval,
    "edit_share": share,
    "edit_share_interval": share_interval,
    "edit_finding": finding,
}
