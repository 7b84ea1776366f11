"""Parts of pages that are the same for every reader: rendered once, kept compressed, forgotten when room is short.

A part is kept under a tag of everything that it is made of (`app.web.caching.make_etag`), so it is never out of date:
what changes has another tag. Whoever renders one must give it nothing that depends on the reader.
"""

import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from markupsafe import Markup

MOST_BYTES = 32 * 2**20
"""Compressed bytes that one process keeps: the parts of some 1,800 features."""
_OVERHEAD = 300
"""Bytes of Python's objects for one part."""


class Fragments:
    """The parts that one process keeps, those that were used least recently first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self.bytes = 0

    async def get(self, tag: str, make: Callable[[], Awaitable[str]]) -> Markup:
        """Return the part with this tag, which `make` renders if it is not kept."""
        kept = self._kept.get(tag)
        if kept is not None:
            self._kept.move_to_end(tag)
            return Markup(zlib.decompress(kept).decode())  # noqa: S704 - a template rendered it
        text = await make()
        self._keep(tag, zlib.compress(text.encode(), 1))
        return Markup(text)  # noqa: S704 - a template rendered it

    def _keep(self, tag: str, part: bytes) -> None:
        if tag not in self._kept:  # else another request rendered it meanwhile
            self._kept[tag] = part
            self.bytes += len(part) + _OVERHEAD
        while self.bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= len(oldest) + _OVERHEAD
