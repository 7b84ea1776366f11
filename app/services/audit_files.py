"""The raw values of an audit as files."""

import json

from app.services.csv_text import csv_text


def pairs_csv(lines: str) -> str:
    """Return the lines about pairs as a table: one column per name that any of them has."""
    rows = [json.loads(line) for line in lines.splitlines() if line]
    pairs = [_flat(row) for row in rows if row.get("kind") == "pair"]
    names = list(dict.fromkeys(name for row in pairs for name in row))
    return csv_text([names, *([row.get(name, "") for name in names] for row in pairs)])


def _flat(row: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested values under names such as `features.difference`."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif prefix or name != "kind":
            flat[prefix + name] = value
    return flat
