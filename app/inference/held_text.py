"""The text of generated tokens, held back for as long as it may be the beginning of a stop."""

import codecs
from collections import deque
from collections.abc import Iterator, Sequence

from app.services.inference_messages import CompletionToken


class HeldText:
    """Tokens go in with their bytes, and come out with the text that a client may see.

    A stop may begin in the middle of a token, and go over several. No text from its beginning on comes out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: deque[CompletionToken] = deque()
        self.stopped = False
        """True once a stop was written."""

    def add(self, token: CompletionToken, raw: bytes) -> Iterator[CompletionToken]:
        """Take a token, whose text is that of `raw`; yield those that are free to go."""
        token.text = self._decoder.decode(raw)
        self._held.append(token)
        text = "".join(held.text for held in self._held)
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(found)
        yield from self._release(min(found) if found else len(text) - self._begun(text))

    def rest(self) -> Iterator[CompletionToken]:
        """Yield what is held, where no stop has come of it."""
        if not self.stopped:
            yield from self._held
            self._held.clear()

    def last_characters(self) -> str:
        """Return what the last tokens left of a character."""
        return "" if self.stopped else self._decoder.decode(b"", final=True)

    def _begun(self, text: str) -> int:
        """Return the length of the longest end of `text` that a stop begins with."""
        longest = max(map(len, self._stops), default=1) - 1
        ends = (length for length in range(min(longest, len(text)), 0, -1))
        return next((n for n in ends if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)

    def _release(self, characters: int) -> Iterator[CompletionToken]:
        """Yield the tokens within the first characters; a stop cuts the one that it begins in."""
        while self._held and len(self._held[0].text) <= characters and (characters or not self.stopped):
            characters -= len(self._held[0].text)
            yield self._held.popleft()
        if self.stopped and characters:
            cut = self._held.popleft()
            cut.text = cut.text[:characters]
            yield cut
