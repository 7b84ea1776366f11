"""Why a run failed: for the user to fix, for the machine to recover from, or a fault of ours."""

import errno

import procrastinate.exceptions
import psycopg
import sqlalchemy.exc

from app.errors import UserError
from app.redaction import redact
from sae_core.errors import SAEError

INTERRUPTED = "It was interrupted. Start it again, and it continues from where it stopped."
"""Why a run failed whose process was stopped or killed."""

INFRASTRUCTURE = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    psycopg.OperationalError,
    procrastinate.exceptions.ConnectorException,
    ConnectionError,
)
"""Errors of a database or a network that went away."""


def is_infrastructure(error: BaseException) -> bool:
    """True if the same work may succeed later, unchanged: the database or the network went away."""
    return isinstance(error, INFRASTRUCTURE)


def explain(error: BaseException) -> str:
    """Return one line for a person: what is wrong and, where they can do something about it, what to do."""
    if isinstance(error, (UserError, SAEError)):
        return redact(str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Free some space, then start the run again: it continues from here."
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory. Close other programs or ask for a smaller width, then try again."
    if is_infrastructure(error):
        return "The database went away and did not come back. When it is up, start the run again."
    return f"An error inside SeeSAE: {type(error).__name__}. The log has the details; please report it."
