"""The one thread in which models are loaded and run.

PyTorch starts a team of threads for every thread that calls it, and a team that has more members than cores are free
for goes to sleep between operations: on two cores a short text took half as long again when two threads had called it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="model")


async def run_in_model_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the function in the model's thread; a caller that is cancelled waits until it has returned."""
    work = asyncio.get_running_loop().run_in_executor(_THREAD, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise
