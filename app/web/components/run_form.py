"""The form of a kind of run, made from the declaration of its parameters, and what was typed into it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlencode

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.runs.fields import default_of, default_text, fault_words, is_several, limits, option_of, value_text, value_type
from app.runs.params import Params
from app.runs.spec import RunSpec, is_known, spec_of, specs
from app.web.components.formatting import count

Control = Literal["text", "number", "choice", "check", "lines"]
Known = Mapping[str, Collection[str]]
"""Names of the SAEs, models and corpora that there are, by the `known` of an option."""
Errors = Mapping[str, str]
"""Errors by the name of their field; under "" those that concern several."""

_ON = ("1", "on", "true", "yes")


@dataclass(frozen=True, slots=True)
class FormField:
    """One field of the form; `value` is what was typed, or what the form starts with."""

    name: str
    label: str
    hint: str
    control: Control
    value: str
    error: str
    required: bool
    rare: bool
    unset: str
    """The meaning of an empty field."""
    choices: tuple[str, ...]
    """Values to choose from: all that there are, or for text those that are likely."""
    changed: bool
    """True if it is not what the form starts with."""


@dataclass(frozen=True, slots=True)
class RunForm:
    """The form of a kind of run."""

    spec: RunSpec[Any]
    fields: tuple[FormField, ...]
    fault: str
    """What is wrong with several fields together."""

    @property
    def first(self) -> list[FormField]:
        """The fields that most people need."""
        return [field for field in self.fields if not field.rare]

    @property
    def more(self) -> list[FormField]:
        """The other fields."""
        return [field for field in self.fields if field.rare]

    @property
    def wrong(self) -> list[FormField]:
        """The fields with an error."""
        return [field for field in self.fields if field.error]


def run_form(spec: RunSpec[Any], typed: Mapping[str, str], errors: Errors, known: Known) -> RunForm:
    """Return the form of a kind of run, with its fields in the order of their declaration."""
    fields = (
        _form_field(name, field, typed[name], errors.get(name, ""), known)
        for name, field in spec.params.model_fields.items()
    )
    return RunForm(spec, tuple(fields), errors.get("", ""))


def _form_field(name: str, field: FieldInfo, typed: str, error: str, known: Known) -> FormField:
    option = option_of(field)
    return FormField(
        name=name,
        label=option.label or _words(name),
        hint="" if _is_one_sae(field) else field.description or "",
        control=_control(field),
        value=typed,
        error=error,
        required=field.is_required(),
        rare=option.rare,
        unset=default_text(field),
        choices=tuple(known.get(option.known, ())) if option.known else _literals(field),
        changed=typed != _start(field),
    )


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _control(field: FieldInfo) -> Control:
    kind = value_type(field)
    if kind is bool:
        return "check"
    if get_origin(kind) is dict:
        return "lines"
    if get_origin(kind) is Literal or _is_one_sae(field):
        return "choice"
    return "number" if kind in (int, float) else "text"


def _is_one_sae(field: FieldInfo) -> bool:
    return option_of(field).known == "sae" and not is_several(field)


def _literals(field: FieldInfo) -> tuple[str, ...]:
    """Return the values of a parameter that takes one of some, or several of them."""
    kind = value_type(field)
    if is_several(field):
        kind = get_args(kind)[0]
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def first_values(params: type[Params], given: Mapping[str, str]) -> dict[str, str]:
    """Return what a form starts with, by field: what an address gives, else a sensible value or nothing."""
    return {
        name: _typed(field, given[name]) if name in given else _start(field)
        for name, field in params.model_fields.items()
    }


def sent_values(params: type[Params], sent: Mapping[str, str]) -> dict[str, str]:
    """Return what was typed, by field. A browser sends nothing for a box without its mark."""
    return {name: _typed(field, sent.get(name, "")) for name, field in params.model_fields.items()}


def _typed(field: FieldInfo, text: str) -> str:
    if _control(field) == "check":
        return _ON[0] if text.strip().lower() in _ON else ""
    return text.strip()


def _start(field: FieldInfo) -> str:
    default = default_of(field)
    return _ON[0] if default is True else value_text(default) or option_of(field).start


def address_of(kind: str, values: Mapping[str, Any]) -> str | None:
    """Return the address of a form with the parameters of a run; None if this version does not know its kind."""
    if not is_known(kind):
        return None
    texts = {
        name: _text(values[name])
        for name in spec_of(kind).params.model_fields
        if name in values and values[name] is not None
    }
    starts = first_values(spec_of(kind).params, {})
    query = urlencode({name: text for name, text in texts.items() if text != starts[name]})
    return f"/runs/new/{kind}" + (f"?{query}" if query else "")


def _text(value: Any) -> str:
    """Return a value, as the database keeps it, as the form takes it."""
    if isinstance(value, bool):
        return _ON[0] if value else ""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}={value_text(tuple(v) if isinstance(v, list) else v)}" for name, v in value.items())
    return value_text(tuple(value) if isinstance(value, list) else value)


def known_names(saes: Iterable[str], done: Iterable[tuple[str, Mapping[str, Any]]]) -> Known:
    """Return the names to choose from: all SAEs, and the models and corpora that runs which are done have read.

    Args:
        saes: slugs.
        done: kinds and parameters of these runs, newest first.
    """
    known: dict[str, dict[str, None]] = {"sae": dict.fromkeys(saes)}
    for spec in specs():
        for field in spec.params.model_fields.values():
            option = option_of(field)
            if option.known and option.start:
                known.setdefault(option.known, {})[option.start] = None
    for kind, values in done:
        for name, field in (spec_of(kind).params.model_fields if is_known(kind) else {}).items():
            what = option_of(field).known
            if what and what != "sae" and isinstance(values.get(name), str):
                known.setdefault(what, {})[values[name]] = None
    return known


def read_params(params: type[Params], typed: Mapping[str, str]) -> tuple[Params | None, Errors]:
    """Return the parameters, or None and what is wrong with each field."""
    given: dict[str, Any] = {}
    for name, value in typed.items():
        control = _control(params.model_fields[name])
        if control == "check":
            given[name] = bool(value)
        elif value:
            given[name] = value.splitlines() if control == "lines" else value
    try:
        return params.model_validate(given), {}
    except ValidationError as error:
        errors: dict[str, str] = {}
        for fault in error.errors():
            name, *inner = map(str, fault["loc"] or ("",))
            part = f"{inner[0]}: " if inner and not inner[0].isdecimal() else ""
            errors.setdefault(name, part + _sentence(fault, params.model_fields.get(name)))
        return None, errors


def _sentence(fault: Any, field: FieldInfo | None) -> str:
    """Return what is wrong with a value and what to give, in one sentence."""
    limit = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "This is needed."
        case "int_parsing" | "int_from_float" | "int_type":
            return f"Give a whole number{_between(field)}."
        case "float_parsing" | "float_type" | "finite_number":
            return "Give a number."
        case "greater_than_equal":
            return f"Give {_number(limit['ge'])} or more."
        case "greater_than":
            return f"Give more than {_number(limit['gt'])}."
        case "less_than_equal":
            return f"Give {_number(limit['le'])} or less."
        case "less_than":
            return f"Give less than {_number(limit['lt'])}."
        case "literal_error":
            return f"Choose {limit['expected']}."
        case "string_too_long":
            return f"Give at most {limit['max_length']} characters."
        case "string_pattern_mismatch":
            return fault_words(fault)
        case "value_error":
            return str(limit["error"])
        case _:
            return f"{fault['msg']}."


def _between(field: FieldInfo | None) -> str:
    low, high = (None, None) if field is None or is_several(field) else limits(field)
    if low is None:
        return ""
    return f", {_number(low)} or more" if high is None else f" from {_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return count(value) if isinstance(value, int) else str(value)
