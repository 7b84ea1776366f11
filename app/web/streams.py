"""Server-sent events that begin only once the work has begun."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from app.errors import UserError


async def begun(events: AsyncGenerator[bytes], failed: Callable[[UserError], bytes]) -> AsyncGenerator[bytes]:
    """Wait for the first event, so that a refusal is an answer of its own; a later one is the last event.

    Args:
        failed: writes the event for what stopped the work half-way.
    """
    first = await anext(events)

    async def rest() -> AsyncGenerator[bytes]:
        async with aclosing(events):
            yield first
            try:
                async for event in events:
                    yield event
            except UserError as error:
                yield failed(error)

    return rest()
