"""A child process ends when its supervisor does, even if the supervisor was killed and could say nothing.

The supervisor holds the write end of a pipe that is the child's standard input, and never writes. The kernel closes it
when the supervisor ends, however that happens, and the child reads end of file. This works alike on Linux and macOS.
"""

import os
import signal
import sys
import threading
import time

SUPERVISED = "SEESAE_SUPERVISED"
"""Set in a child's environment by the supervisor: standard input is the lifeline."""

_GRACE_SECONDS = 5.0


def exit_with_parent() -> None:
    """In a child: watch the lifeline from now on. Without a supervisor, do nothing."""
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    """Wait for end of file; then ask this process to stop, and after a grace make it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)
