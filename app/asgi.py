"""Middleware that the web and the inference process share. It is pure ASGI, so that event streams pass through it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ClientGone

T = TypeVar("T")


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, and end it where the client closes its connection first; the body must have been read.

    Raises:
        ClientGone: it has.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})


_KEPT: set[asyncio.Task[None]] = set()
"""The event loop alone would forget them half-way."""


def keep_after_cancellation(work: Coroutine[Any, Any, None]) -> None:
    """Do work in the background that must be done though its request was cancelled."""
    task = asyncio.create_task(work)
    _KEPT.add(task)
    task.add_done_callback(_KEPT.discard)


class BrokenAnswerError(RuntimeError):
    """A response failed after its first bytes: its cause is in the log, and the connection must close."""


class UnexpectedErrorMiddleware:
    """Responds to an exception that no handler expected, and hides it from the server.

    Starlette's own handler for `Exception` raises it again, and the server logs its message, which may quote user
    input.
    """

    def __init__(self, app: ASGIApp, answer: Callable[[Request, Exception], Response]) -> None:
        self.app = app
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and respond to any exception."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception as error:
            response = self.answer(Request(scope), error)
            if started:
                raise BrokenAnswerError from None
            await response(scope, receive, send)


class BodyLimitMiddleware:
    """Stops reading a body at `limit` bytes, or at the limit that `uploads` has for the path.

    It raises where FastAPI reads the body, so that the application's own handlers respond. (Starlette's limit responds
    with plain text instead.)
    """

    def __init__(self, app: ASGIApp, limit: int, uploads: Mapping[str, int] = MappingProxyType({})) -> None:
        self.app = app
        self.limit = limit
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting the bytes of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        limit = self.uploads.get(scope["path"], self.limit)
        read = 0

        async def limited_receive() -> Message:
            nonlocal read
            if declared.isdecimal() and int(declared) > limit:
                raise _too_large(limit)
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, limited_receive, send)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The request is larger than {limit:,} bytes, the most that is taken.")
