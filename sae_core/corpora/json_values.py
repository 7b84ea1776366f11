"""Read the values of a JSON file one at a time, so that a file of any size needs the memory of one value."""

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, TextIO

_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_LONGEST_ESCAPE = 12
"""Characters of a surrogate pair; an error nearer to the end of what was read may be for lack of the rest."""


class JsonError(ValueError):
    """The file is not valid JSON; the message names the line."""


def json_rows(file: TextIO) -> Iterator[Any]:
    """Yield the values of JSON lines, the items of an array, or the documents of encyclopaedia summaries.

    Summaries are an object `{title: {"extract": text, "topic": …}, …}`; each becomes a row with title and text.

    Raises:
        JsonError: the file is not valid JSON.
    """
    scanner = _Scanner(file)
    if scanner.peek() == "[":
        yield from scanner.items()
        scanner.expect_end()
        return
    if scanner.peek() == "{":
        yield from _first_object(scanner)
    yield from json_lines(scanner)


def json_lines(source: "_Scanner | TextIO") -> Iterator[Any]:
    """Yield the values of a file of JSON values, parted by white space.

    Raises:
        JsonError: the file is not valid JSON.
    """
    scanner = source if isinstance(source, _Scanner) else _Scanner(source)
    while scanner.peek():
        yield scanner.value()


def _first_object(scanner: "_Scanner") -> Iterator[Any]:
    """Yield the documents of an object of summaries, or the object itself, which is then the first JSON line."""
    members = scanner.members()
    first = list(islice(members, 1))
    if first and isinstance(first[0][1], dict) and "extract" in first[0][1]:
        for title, entry in chain(first, members):
            yield {"title": title, "text": entry.pop("extract", None), **entry} if isinstance(entry, dict) else entry
        scanner.expect_end()
    else:
        yield dict(chain(first, members))


class _Scanner:
    """Decodes one value after the other from a window of the file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_more()

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not self._is_cut(error):
                    raise self._error(error.msg, error.pos) from None
            except (RecursionError, ValueError) as error:  # too deep, or a number of thousands of digits
                raise self._error(str(error), self._at) from None
            else:
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._read_more()

    def items(self) -> Iterator[Any]:
        """Yield the items of an array."""
        self._take("[")
        while self.peek() != "]":
            yield self.value()
            self._separate("]")
        self._take("]")

    def members(self) -> Iterator[tuple[str, Any]]:
        """Yield the members of an object."""
        self._take("{")
        while self.peek() != "}":
            if self.peek() != '"':
                raise self._error("Expecting a name in double quotes", self._at)
            name = self.value()
            self._take(":")
            yield name, self.value()
            self._separate("}")
        self._take("}")

    def expect_end(self) -> None:
        """Refuse anything but white space."""
        if self.peek():
            raise self._error("Extra data", self._at)

    def _separate(self, end: str) -> None:
        if self.peek() != end:
            self._take(",")
            if self.peek() == end:
                raise self._error("Illegal trailing comma", self._at)

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._error(f"Expecting '{character}'", self._at)
        self._at += 1

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """True if the value may be valid once more of the file is read."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_ESCAPE

    def _read_more(self) -> None:
        """Read as much again as is left, so that a long value is decoded few times."""
        rest = self._text[self._at :]
        self._line += self._text.count("\n", 0, self._at)
        more = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at, self._ended = rest + more, 0, not more

    def _error(self, message: str, position: int) -> JsonError:
        line = self._line + self._text.count("\n", 0, position)
        return JsonError(f"line {line} is not valid JSON ({message})")
