from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from app.runs.fields import fault_words
from app.runs.params import PATTERNS
from app.runs.spec import specs


def patterns(schema: Any) -> Iterator[str]:
    """Yield the patterns of all parts of a JSON schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for part in schema.values():
            yield from patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from patterns(part)


def test_every_pattern_of_a_parameter_is_said_in_words() -> None:
    found = {pattern for spec in specs() for pattern in patterns(spec.params.model_json_schema())}
    assert found and found <= PATTERNS.keys()


@pytest.mark.parametrize(("given", "words"), [("Cooking Alarm", "small letters"), ("12", "at least one letter")])
def test_a_name_that_does_not_fit_is_refused_in_words(given: str, words: str) -> None:
    (monitor,) = (spec for spec in specs() if spec.kind == "monitor")
    with pytest.raises(ValidationError) as caught:
        monitor.params.model_validate({"sae": "a", "name": given, "positive": "a", "benign": "b"})
    said = fault_words(caught.value.errors()[0])
    assert words in said and "pattern" not in said and said.endswith(".") and ".." not in said
