"""Why a run failed: the user's to mend, the machine's to recover from, or ours to fix."""

import errno

import procrastinate.exceptions
import psycopg
import sqlalchemy.exc

from app.errors import UserError
from sae_core.errors import SAEError

_INFRASTRUCTURE = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    psycopg.OperationalError,
    procrastinate.exceptions.ConnectorException,
    ConnectionError,
)


def is_infrastructure(error: BaseException) -> bool:
    """Whether the same work may succeed later, unchanged: the database or the network went away."""
    return isinstance(error, _INFRASTRUCTURE)


def explain(error: BaseException) -> str:
    """One line for a person: what is wrong and, where they can do something about it, what."""
    if isinstance(error, (UserError, SAEError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Free some space, then run the same command again: it goes on from here."
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory. Close other programs or ask for a smaller width, then try again."
    if is_infrastructure(error):
        return "The database went away and did not come back. When it is up, run the same command again."
    return f"An error inside SeeSAE: {type(error).__name__}. The log has the details; please report it."
