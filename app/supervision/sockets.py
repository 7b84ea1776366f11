"""Listening sockets, bound by the supervisor and inherited by the children that serve on them.

A port is therefore known before the child starts, nobody can take it while the child restarts, and a connection that
arrives in that moment waits instead of being refused.
"""

import errno
import socket
from collections.abc import Callable

from app.errors import Conflict, UserError

_TRIES = 50
BACKLOG = 512
"""Connections that wait to be accepted."""


def listen(host: str, port: int, *, on_taken: Callable[[int], None] | None = None) -> socket.socket:
    """Listen on `port`, or on the next free one; 0 takes any free port. `on_taken` is called with each port in use.

    Raises:
        Conflict: all ports tried are taken.
        UserError: the address does not belong to this machine, or listening is not permitted.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = min(port + _TRIES, 65536)
    for candidate in range(port, last):
        try:
            return socket.create_server((host, candidate), family=family, backlog=BACKLOG)
        except (OSError, UnicodeError) as error:  # the latter for what cannot be a name
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                reason = getattr(error, "strerror", None) or "it is not a valid address"
                raise UserError(
                    f"Cannot listen on {host}, port {candidate}: {reason}. Choose others (--host, --port)."
                ) from None
            if on_taken is not None:
                on_taken(candidate)
    raise Conflict(f"Ports {port} to {last - 1} of {host} are all taken. Choose another with --port.")


def url_of(listening: socket.socket) -> str:
    """Return the URL of a listening socket for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
