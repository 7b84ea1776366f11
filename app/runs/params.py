"""Parameters of runs: immutable, kept with the run, shown on its page, and enough to do it again."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

_SLUG = r"^[a-z0-9][a-z0-9._-]*$"
WITH_A_LETTER = r"^[a-z0-9._-]*[a-z][a-z0-9._-]*$"
PATTERNS = {
    _SLUG: "Use small letters from a to z, digits, “.”, “_” and “-”, and begin with a letter or a digit.",
    WITH_A_LETTER: "Use small letters from a to z, digits, “.”, “_” and “-”, with at least one letter.",
}
"""Each pattern that a parameter may have, as a rule in words."""

Slug = Annotated[str, Field(pattern=_SLUG, max_length=100)]

T = TypeVar("T")


def _split_commas(value: Any) -> Any:
    """Take one value, several separated by commas, or a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, list | tuple) else [value]


def _without_repetition(values: tuple[T, ...]) -> tuple[T, ...]:
    if repeated := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{repeated[0]} is given twice.")
    return values


Several = Annotated[
    tuple[T, ...],
    BeforeValidator(_split_commas),
    Field(min_length=1, max_length=64),
    AfterValidator(_without_repetition),
]
"""One or more values, all different."""

OneOrSeveral = Annotated[
    Several[T], PlainSerializer(lambda values: values[0] if len(values) == 1 else list(values), when_used="json")
]
"""The same, kept as the value itself where there is one, as runs from before there could be several kept it."""

_LARGEST = 2**63 - 1
"""Whole numbers of torch and Postgres have 64 bits."""


class Params(BaseModel):
    """Base of all parameters. An unknown name is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError("This number is too large.")
        return value


@dataclass(frozen=True, slots=True)
class Option:
    """The question for a parameter, as an option or in a form, where its declaration does not say it."""

    flags: str = ""
    """Names of the option, such as `--stream/--cache`."""
    default: str = ""
    """The default in words, where it is not a value."""
    metavar: str = ""
    argument: bool = False
    """True if it is a positional argument."""
    path: bool = False
    """True if it may name a file or folder, which is then made absolute: a worker has another working directory."""
    new: bool = False
    """True if the path is that of a folder which the run makes: it need not exist to be made absolute."""
    partly: bool = False
    """True if a path of which only the beginning exists is a mistake, and no name on the hub."""
    vector: bool = False
    """True if a command takes a safetensors file, of which the one vector becomes the value (`pack_vector`)."""
    label: str = ""
    """Its name in a form, where the parameter's own does not say enough."""
    start: str = ""
    """Value that a form starts with, where there is no default."""
    known: Literal["", "sae", "model", "corpus"] = ""
    """The things that it names: a form offers those that there are."""
    rare: bool = False
    """True if few people need it: a form has it under "More options"."""
