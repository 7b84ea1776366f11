"""Text that may be the beginning of a stop is held back."""

from hypothesis import given
from hypothesis import strategies as st

from app.inference.held_text import HeldText
from app.services.inference_messages import CompletionToken

LETTERS = st.text("abé☃", max_size=12)


def written(pieces: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    """The text after each piece went in, and whether a stop ended it."""
    held, text, seen = HeldText(stops), "", []
    for number, raw in enumerate(pieces):
        token = CompletionToken(id=number, text="", log_probability=0.0, top=[])
        text += "".join(free.text for free in held.add(token, raw))
        seen.append(text)
        if held.stopped:
            return seen, True
    text += "".join(free.text for free in held.rest()) + held.last_characters()
    return [*seen, text], False


@given(LETTERS, st.lists(st.text("abé☃", min_size=1, max_size=3), max_size=3), st.data())
def test_the_text_ends_before_the_first_stop_however_it_is_cut_into_tokens(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw, pieces = text.encode(), []
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        pieces.append(raw[:size])
        raw = raw[size:]
    seen, stopped = written(pieces, stops)
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert stopped == bool(ends)
    if len(pieces) == len(text):  # one character each: the stop that is complete first ends the text
        complete = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        first = min(complete)[0] if complete else None
        expected = min((place for end, place in complete if end == first), default=None)
        assert seen[-1:] == ([text[:expected]] if pieces else [""])
    final = seen[-1] if seen else ""
    assert text.startswith(final)
    assert not any(stop in final for stop in stops)
    assert all(final.startswith(earlier) for earlier in seen)


def test_what_is_broken_utf_8_becomes_a_replacement_character() -> None:
    assert written([b"a\xf0\x9f", b"b"], [])[0] == ["a", "a\ufffdb", "a\ufffdb"]
    assert written([b"a\xf0\x9f"], [])[0][-1] == "a\ufffd"
