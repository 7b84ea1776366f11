"""Parameters as they are declared: what the command line's options and the site's forms are both made from."""

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from app.runs.params import PATTERNS, Option


def option_of(field: FieldInfo) -> Option:
    """Return how a parameter is asked for."""
    return next((entry for entry in field.metadata if isinstance(entry, Option)), Option())


def is_several(field: FieldInfo) -> bool:
    """True for a parameter that takes several values."""
    return get_origin(value_type(field)) is tuple


def value_type(field: FieldInfo) -> Any:
    """Return the type of a parameter, without None and without what only validation needs."""
    return _plain_type(field.annotation)


def _plain_type(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (entry for entry in get_args(annotation) if entry is not type(None))
        return _plain_type(inner)
    return annotation


def limits(field: FieldInfo) -> tuple[Any, Any]:
    """Return the least and the largest value, None where there is none."""
    low = next((entry.ge for entry in field.metadata if isinstance(entry, annotated_types.Ge)), None)
    high = next((entry.le for entry in field.metadata if isinstance(entry, annotated_types.Le)), None)
    return low, high


def default_of(field: FieldInfo) -> Any:
    """Return the default of a parameter; None where it is required."""
    return None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def default_text(field: FieldInfo) -> str:
    """Return the default as people read it; empty where there is none worth showing."""
    return option_of(field).default or value_text(default_of(field))


def value_text(value: Any) -> str:
    """Return a value as an option or a field of a form takes it; empty for None, False and nothing."""
    if value is None or value is False or value == {}:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def fault_words(fault: Mapping[str, Any]) -> str:
    """Return what pydantic finds wrong with a value as a sentence, which says in words what a pattern asks for."""
    if fault["type"] == "string_pattern_mismatch":
        return PATTERNS[fault["ctx"]["pattern"]]
    return str(fault["msg"]).removeprefix("Value error, ").rstrip(".") + "."
