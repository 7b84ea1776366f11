"""Kinds of run. Each is declared once; command line, queue, API, pages and docs derive from the declaration.

This module knows no kind: `app.pipeline` registers them. A declaration imports neither torch nor a database driver, so
`seesae --help` stays quick and the web process small; what does the work is imported when the work starts.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from app.errors import NotFound, Unprocessable
from app.runs.fields import fault_words
from app.runs.params import Params

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

P = TypeVar("P", bound=Params)

Result = Mapping[str, Any]
"""The result of a run, as JSON. `sae` is the slug of its SAE, `notes` are sentences for the reader."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage of a kind of run; `unit` is what its progress counts."""

    name: str
    title: str
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The cost of a run, as far as it can be foreseen."""

    tokens: int | None = None
    """Tokens that the model reads."""
    disk_bytes: int | None = None
    """Bytes that it writes, above all activations."""
    free_bytes: int | None = None
    """Bytes that are free on their disk."""
    seconds: float | None = None
    """By the speed of earlier runs of the same model."""
    requests: int | None = None
    """Requests to an endpoint, at most: what was answered before costs nothing."""
    tokens_out: int | None = None
    """Tokens that an endpoint's model writes, at most."""
    dollars: float | None = None
    """What they cost, at most; None where no price is set."""


async def _nothing_to_check(_session: "AsyncSession", _settings: "Settings", _params: Any) -> Estimate:
    return Estimate()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec(Generic[P]):
    """One kind of run."""

    kind: str
    """Its name in the database, in the API and on the command line."""
    help: str
    """One line that says what it does, then paragraphs and examples: the text of `seesae KIND --help`."""
    params: type[P]
    """Its parameters. A parameter's description is the help of its option."""
    stages: Callable[[P], tuple[StageSpec, ...]]
    """The stages of a run with these parameters, in order."""
    title: Callable[[P], str]
    """One line for lists of runs. Pages show it to everybody, so it names no folder of the server."""
    check: "Callable[[AsyncSession, Settings, P], Awaitable[Estimate]]" = _nothing_to_check
    """Refuses what can be refused before work starts, by a `UserError`, and returns what the run will cost."""
    work: "Callable[[RunContext, JobContext, P], Awaitable[Result]]"
    """Does the run and returns its result. Called again after an interruption, it continues from what it left."""
    result_order: tuple[str, ...] = ()
    """Names of the result in reading order, because the database keeps none; others follow by name."""
    leads_to: tuple[str, str] | None = None
    """Words and address of the page of what it made; the address names parts of the result: `/audits/{audit}`."""
    next_step: Callable[[Result], str | None] = lambda _result: None
    """One line that says what to do with the result."""
    assist: Callable[[P], None] | None = None
    """The part of the other processes under torchrun, while the first does the run."""
    panel: str = "Work"
    """Heading under which `seesae --help` lists its command; empty where the command is written by hand."""
    takes_config: bool = False
    """True if `--config` reads parameters from a file."""
    takes_device: bool = True
    """True if it computes on the device that `--device` names."""

    @property
    def summary(self) -> str:
        """The first line of `help`."""
        return self.help.strip().partition("\n")[0]

    def order(self, result: Result) -> dict[str, Any]:
        """Return a result in reading order."""
        first = [name for name in self.result_order if name in result]
        return {name: result[name] for name in [*first, *sorted(result.keys() - set(first))]}

    def page_of(self, result: Result) -> tuple[str, str] | None:
        """Return words and address of the page of what a run made; None where there is none."""
        if self.leads_to is None:
            return None
        words, address = self.leads_to
        try:
            return words, address.format_map({name: quote(str(value), safe="") for name, value in result.items()})
        except KeyError:  # a result of an earlier version
            return None


_SPECS: dict[str, RunSpec[Any]] = {}


def register(spec: RunSpec[Any]) -> None:
    """Make a kind of run known.

    Raises:
        ValueError: another kind has this name.
    """
    if _SPECS.setdefault(spec.kind, spec) is not spec:
        raise ValueError(f"two kinds of run are named {spec.kind!r}")


def specs() -> list[RunSpec[Any]]:
    """Return all kinds of run, in the order in which they were registered."""
    return list(_SPECS.values())


def is_known(kind: str) -> bool:
    """True if this version knows the kind; a row may be of one that was retired."""
    return kind in _SPECS


def spec_of(kind: str) -> RunSpec[Any]:
    """Return a kind of run.

    Raises:
        NotFound: this version does not know it.
    """
    if not is_known(kind):
        raise NotFound(f"This version of SeeSAE has no kind of run “{kind[:40]}”. It has {', '.join(_SPECS)}.")
    return _SPECS[kind]


def parse_params(spec: RunSpec[P], given: Mapping[str, Any]) -> P:
    """Return a run's parameters.

    Raises:
        Unprocessable: they are not of this kind of run; the message names the first that is wrong.
    """
    try:
        return spec.params.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "params"
        raise Unprocessable(f"{where}: {fault_words(first)}") from None
