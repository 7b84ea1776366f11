"""The raw values of an audit as files."""

import json
from typing import Any

from app.services.csv_text import csv_text


def pairs_csv(lines: str) -> str:
    """Return the lines about pairs, under every treatment, as a table: one column per name that any of them has."""
    rows = [json.loads(line) for line in lines.splitlines() if line]
    pairs = [_flat(row) for row in rows if row.get("stage") == "item"]
    names = list(dict.fromkeys(name for row in pairs for name in row))
    return csv_text([names, *([row.get(name, "") for name in names] for row in pairs)])


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under names such as `values.score` and `log_probs.1`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            value = {str(number): one for number, one in enumerate(value, 1)}
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif prefix or name != "stage":
            flat[prefix + name] = value
    return flat
