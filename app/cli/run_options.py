"""Parameters of runs as options of commands: made from the fields of a `Params` class, and read back into it."""

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.runs.fields import default_text, fault_words, is_several, limits, option_of, value_type
from app.runs.params import Option, Params
from app.runs.spec import specs
from sae_core.files import exists_partly

P = TypeVar("P", bound=Params)


def with_params(kind: type[P], *, takes_config: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of `kind`. The command gets them, checked, as its first argument.

    Args:
        kind: what the parameters are.
        takes_config: add `--config`, a file with parameters by name; what is given on the command line wins.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter.replace(kind=_KEYWORD) for parameter in list(signature.parameters.values())[1:]]
        config = [inspect.Parameter("config", _KEYWORD, default=None, annotation=_CONFIG)] if takes_config else []
        parameters = [*config, *(_parameter(name, field) for name, field in kind.model_fields.items()), *own]

        def wrapped(**given: Any) -> None:
            rest = {parameter.name: given.pop(parameter.name) for parameter in own}
            options = _read_config(given.pop("config", None), kind)
            options |= {name: _joined(kind, name, value) for name, value in given.items() if value is not None}
            options = _with_vectors(kind, _with_absolute_paths(kind, options))
            command(_validated(kind, options), **rest)

        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        wrapped.__doc__ = command.__doc__
        return wrapped

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_CONFIG = Annotated[
    Path | None, typer.Option(help="A .toml or .json file with these options by name; options given here win.")
]


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the parameter of a command's signature that typer makes an option, or an argument, of."""
    option = option_of(field)
    if is_argument(field):
        several = is_several(field)
        metavar = (option.metavar or name.upper()) + ("..." if several else "")
        argument = typer.Argument(help=field.description, metavar=metavar, show_default=False)
        kind = list[str] if several else _command_type(field)
        return inspect.Parameter(name, _KEYWORD, annotation=Annotated[kind, argument])
    low, high = (None, None) if is_several(field) else limits(field)
    declared = typer.Option(
        flags(name, field),
        help=field.description,
        metavar=option.metavar or None,
        show_default=default_text(field) or False,
        min=low,
        max=high,
    )
    annotation = Annotated[_command_type(field) | None, declared]  # type: ignore[valid-type]
    return inspect.Parameter(name, _KEYWORD, default=None, annotation=annotation)


def _joined(kind: type[Params], name: str, value: Any) -> Any:
    """Return what an option was given; positional arguments of one parameter become one text, as options have it."""
    field = kind.model_fields[name]
    return ",".join(value) if is_argument(field) and is_several(field) else value


def is_argument(field: FieldInfo) -> bool:
    """True for a parameter that is given by its position."""
    return option_of(field).argument


def flags(name: str, field: FieldInfo) -> str:
    """Return the names of a parameter's option."""
    return option_of(field).flags or f"--{name.replace('_', '-')}"


_NAMED = re.compile(r"`([a-z][a-z0-9_]*)`")


def name_options(text: str) -> str:
    """Return a message with the options that stand for the parameters it names: `hook_out` is --hook-out."""
    return _NAMED.sub(lambda named: _options().get(named[1], named[0]), text)


@cache
def _options() -> dict[str, str]:
    fields = (field for spec in specs() for field in spec.params.model_fields.items())
    return {name: flags(name, field).partition("/")[0] for name, field in fields if not is_argument(field)}


def _command_type(field: FieldInfo) -> Any:
    """Return the type that a command line can give: several values are one text with commas, a mapping is repeated."""
    inner = value_type(field)
    if get_origin(inner) is dict:
        return list[str]
    if is_several(field):
        return str
    return inner if inner in (bool, int, float) or get_origin(inner) is Literal else str


def _with_absolute_paths(kind: type[Params], options: Mapping[str, Any]) -> dict[str, Any]:
    """Make paths absolute, because a worker has another working directory. Names on the hub stay as they are."""
    return {
        name: _absolute(value, option)
        if isinstance(value, str) and name in kind.model_fields and (option := option_of(kind.model_fields[name])).path
        else value
        for name, value in options.items()
    }


def _with_vectors(kind: type[Params], options: Mapping[str, Any]) -> dict[str, Any]:
    """Put vectors in the place of the files that hold them."""
    return {
        name: _vector(name, kind.model_fields[name], value)
        if name in kind.model_fields and option_of(kind.model_fields[name]).vector
        else value
        for name, value in options.items()
    }


def _vector(name: str, field: FieldInfo, path: Any) -> str:
    from app.errors import Unprocessable
    from app.services.vectors import pack_vector, read_vector

    try:
        return pack_vector(read_vector(Path(str(path)).expanduser().read_bytes()))
    except OSError as error:
        problem = f"{str(path)[:80]} cannot be read: {error.strerror}."
    except Unprocessable as error:
        problem = f"{str(path)[:80]}: {error}"
    raise typer.BadParameter(problem, param_hint=flags(name, field))


def _absolute(given: str, option: Option) -> str:
    if not given:  # which would be the working directory
        return given
    try:
        path = Path(given).expanduser()
        # A file's own name is left alone: in the hub's cache it is a link, and its target says nothing.
        is_path = path.exists() or option.new or (option.partly and exists_partly(given))
        return str(path.parent.resolve() / path.name) if is_path else given
    except (OSError, RuntimeError) as error:  # a name that is too long, a home folder that there is not
        raise typer.BadParameter(f"{given[:80]} cannot be found: {getattr(error, 'strerror', error)}") from None


def _validated(kind: type[P], options: Mapping[str, Any]) -> P:
    """Return the parameters, or bad usage that names the option that is missing or wrong."""
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        name, *inner = error.errors()[0]["loc"] or ("",)
        message = fault_words(error.errors()[0])
        if inner and isinstance(inner[0], str):
            message = f"{inner[0]}: {message}"
        raise typer.BadParameter(name_options(message), param_hint=_hint(kind, str(name))) from None


def _hint(kind: type[Params], name: str) -> str | None:
    """Name the option, or the argument, that an error is about."""
    field = kind.model_fields.get(name)
    if field is None:
        return None
    return option_of(field).metavar or name.upper() if is_argument(field) else flags(name, field)


def _read_config(path: Path | None, kind: type[Params]) -> dict[str, Any]:
    """Read parameters from a file that names them as the options of the command, with or without their dashes."""
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        options = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--config") from None
    if not isinstance(options, dict):
        raise typer.BadParameter(f"{path} must hold options by name.", param_hint="--config")
    names = {_config_key(flags(name, field).split("/")[0]): name for name, field in kind.model_fields.items()}
    names |= {name: name for name in kind.model_fields}
    for given in options:
        if _config_key(given) not in names:
            raise typer.BadParameter(
                f"{path} gives {given!r}, which this command does not take.", param_hint="--config"
            )
    return {names[_config_key(given)]: value for given, value in options.items()}


def _config_key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")
