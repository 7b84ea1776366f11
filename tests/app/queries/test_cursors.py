import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Unprocessable
from app.queries.sql.cursors import Cursor
from app.queries.sql.pg_safe import MAX_INTEGER

NUMBERS = st.integers(0, MAX_INTEGER)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=8)
FIELDS = ("sort", "descending", "value", "number", "total")


def decoded(text: str) -> Cursor | None:
    """The cursor of the order by density, None if it is refused."""
    try:
        return Cursor.decode(text, sort="density", descending=True)
    except Unprocessable as error:
        assert "\n" not in str(error)
        return None


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@given(value=FINITE, number=NUMBERS, total=NUMBERS)
def test_a_cursor_is_read_as_it_was_written(value: float, number: int, total: int) -> None:
    cursor = Cursor("density", True, value, number, total)
    assert decoded(cursor.encode()) == cursor


@given(st.text() | st.text("ABCDwxyz0189-_="))
def test_any_other_text_is_refused(text: str) -> None:
    assert decoded(text) is None


@given(JSON | st.fixed_dictionaries(dict.fromkeys(FIELDS, VALUES), optional={"more": VALUES}))
def test_a_crafted_cursor_is_refused_unless_it_is_a_valid_one(value: Any) -> None:
    cursor = decoded(encoded(value))
    if cursor is not None:
        assert math.isfinite(cursor.value)
        assert cursor.number in range(MAX_INTEGER + 1)
        assert cursor.total in range(MAX_INTEGER + 1)


@given(st.lists(st.sampled_from(["[", '{"a":', "[0,", '{"sort":']), min_size=1, max_size=4), st.integers(500, 20_000))
@settings(deadline=None)
def test_a_nested_cursor_is_refused(opening: list[str], depth: int) -> None:
    assert decoded(base64.urlsafe_b64encode("".join(opening).encode() * depth).decode()) is None


@pytest.mark.parametrize("character", ["[", '{"a":', "-", "9"])
def test_a_deep_or_long_cursor_is_refused(character: str) -> None:
    for length in (2_000, 200_000):
        assert decoded(base64.urlsafe_b64encode(character.encode() * length).decode()) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"value": math.nan},
        {"value": math.inf},
        {"value": "1"},
        {"value": True},
        {"value": 10**400},
        {"number": 2**31},
        {"number": -1},
        {"number": 1.5},
        {"number": True},
        {"total": None},
        {"sort": "\ud800"},
        {"sort": "density\0"},
        {"descending": 1},
    ],
)
def test_one_wrong_field_is_refused(changed: dict[str, Any]) -> None:
    valid = {"sort": "density", "descending": True, "value": 0.5, "number": 3, "total": 9}
    assert decoded(encoded(valid)) is not None
    assert decoded(encoded(valid | changed)) is None
