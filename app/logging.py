"""Logging: one line per event on standard error, readable in a terminal and JSON elsewhere.

A line never contains user input. Prompts and label texts turn up in unexpected places, such as the message of an
exception (`KeyError: 'my secret prompt'`). So an unexpected exception is logged by its types and its stack, and with
its message only where it comes from a source that does not quote input (`_QUOTABLE`).
"""

import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.errors import UserError
from app.redaction import redact

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent
_QUOTABLE: tuple[type[BaseException], ...] = (SQLAlchemyError, OSError, ImportError, UserError)
_FRAMES_SHOWN = 8
_MESSAGE_SHOWN = 400


def configure(level: str = "info", *, as_json: bool | None = None) -> None:
    """Send structlog and the standard library's logging to standard error, in one format.

    `as_json` is by default true unless standard error is a terminal.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_messages,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    _quieten()


def _quieten() -> None:
    """Redirect uvicorn's loggers, and silence those that log every request with its query string."""
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    # What a worker does, it says itself; procrastinate adds two lines per job, with all of its arguments.
    for name in ("httpx", "httpcore", "asyncio", "sqlalchemy.engine", "procrastinate.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)


def describe(error: BaseException) -> dict[str, Any]:
    """Return what may be logged of an unexpected exception: types, frames, and a message that quotes no input."""
    chain = list(_chain(error))
    quoted = next((str(cause) for cause in chain if isinstance(cause, _QUOTABLE)), None)
    described: dict[str, Any] = {
        "error": " from ".join(type(cause).__name__ for cause in chain),
        "stack": [
            f"{_relative_path(frame.filename)}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES_SHOWN:]
        ],
    }
    if quoted is not None:
        described["message"] = quoted[:_MESSAGE_SHOWN]
    return described


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, each once: libraries that translate exceptions can close the chain."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _relative_path(filename: str) -> str:
    """Return the path within the package or site-packages, so that a log does not name a home folder."""
    path = Path(filename)
    if path.is_relative_to(_PACKAGE_ROOT) and "site-packages" not in path.parts:
        return str(path.relative_to(_PACKAGE_ROOT))
    return filename.rpartition("site-packages/")[2]


def _without_messages(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Replace `exc_info` by its description, and take out secrets, in our lines and in those of libraries."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        event.update(describe(error))
    return {name: redact(value) if isinstance(value, str) else value for name, value in event.items()}
