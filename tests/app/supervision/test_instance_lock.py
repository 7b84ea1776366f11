"""One supervisor a home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.supervision.instance_lock import AlreadyRunning, InstanceLock, read_lock_info

HOLD = """
import os, sys
from pathlib import Path
from app.supervision.instance_lock import InstanceLock
lock = InstanceLock.claim(Path(sys.argv[1]))
lock.announce("http://127.0.0.1:1234")
os.set_inheritable(lock.descriptor, True)
{then}
"""


def holder(home: Path, then: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()  # it says when it holds the lock
    return process


def test_a_second_supervisor_is_told_the_url_of_the_first(tmp_path: Path) -> None:
    first = holder(tmp_path, "print('held', flush=True); sys.stdin.read()")
    try:
        with pytest.raises(AlreadyRunning, match=r"http://127\.0\.0\.1:1234"):
            InstanceLock.claim(tmp_path)
    finally:
        first.communicate()
    lock = InstanceLock.claim(tmp_path)
    found = read_lock_info(tmp_path)
    assert found is not None
    assert (found.pid, found.url) == (os.getpid(), None)
    lock.release()


def test_the_lock_is_free_once_the_children_of_a_killed_holder_are_gone(tmp_path: Path) -> None:
    # A child that inherits the lock outlives its parent until the test closes the pipe.
    read, write = os.pipe()
    os.set_inheritable(read, True)
    then = f"""
import subprocess
wait = [sys.executable, "-c", "import os; os.read({read}, 1)"]
subprocess.Popen(wait, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print("held", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(read,),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    os.close(read)
    closer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"], pass_fds=(write,))
    os.close(write)  # now only `closer` keeps the child alive, for a moment
    lock = InstanceLock.claim(tmp_path)  # waits for it
    assert closer.wait() == 0
    lock.release()
