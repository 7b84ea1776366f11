"""End a child process when its supervisor ends, even if the supervisor was killed.

The supervisor holds the write end of a pipe that is the child's standard input, and never writes. The kernel closes it
when the supervisor ends for any reason, and the child reads end of file. This works on Linux and macOS.
"""

import os
import signal
import sys
import threading
import time

SUPERVISED = "SEESAE_SUPERVISED"
"""Set by the supervisor in a child's environment: standard input is the pipe to watch."""

_GRACE_SECONDS = 5.0


def exit_with_parent() -> None:
    """Start to watch the supervisor's pipe; do nothing in a process without a supervisor."""
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_watch, name="parent-watchdog", daemon=True).start()


def _watch() -> None:
    """Wait for end of file, then terminate this process, by force if it does not exit in time."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
