"""The thread of the models, and callers that leave it."""

import asyncio
import threading

import pytest

from app.inference.model_thread import run_in_model_thread


async def test_every_call_has_the_same_thread() -> None:
    threads = await asyncio.gather(*(run_in_model_thread(threading.get_ident) for _ in range(20)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_an_error_reaches_its_caller_and_no_other() -> None:
    with pytest.raises(ZeroDivisionError):
        await run_in_model_thread(divmod, 1, 0)
    assert await run_in_model_thread(divmod, 3, 2) == (1, 1)


async def test_a_cancelled_caller_waits_for_its_work() -> None:
    began, end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert end.wait(30)

    call = asyncio.create_task(run_in_model_thread(work))
    await asyncio.to_thread(began.wait, 30)
    call.cancel()
    done, _ = await asyncio.wait({call}, timeout=0.05)
    assert not done
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await call
