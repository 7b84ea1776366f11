import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.tokens import Piece, api_texts, display, plain


@pytest.mark.parametrize(
    ("token", "pieces"),
    [
        (b" the", [("text", " the")]),
        (b"\n", [("newline", "↵")]),
        (b"\n\n  x", [("newline", "↵"), ("newline", "↵"), ("text", "  x")]),
        (b"\t}", [("tab", "⇥"), ("text", "}")]),
        (b"\r", [("hex", "U+000D")]),
        (b"\x00", [("hex", "U+0000")]),
        ("é🎻".encode(), [("text", "é🎻")]),
        (b"\xf0\x9f", [("hex", "F0"), ("hex", "9F")]),
        (b"\xa9 and", [("hex", "A9"), ("text", " and")]),
        ("a\u202eb".encode(), [("text", "a"), ("hex", "U+202E"), ("text", "b")]),
        ("\u200b".encode(), [("hex", "U+200B")]),
        (b"<script>", [("text", "<script>")]),
        (b"", []),
    ],
)
def test_invisible_characters_of_a_token_are_shown(token: bytes, pieces: list[tuple[str, str]]) -> None:
    assert [(piece.kind, piece.text) for piece in display(token)] == pieces


def test_plain_text_marks_bytes() -> None:
    assert plain(b" caf\xc3") == " caf⟨C3⟩"
    assert plain(b"\n") == "↵"


@given(st.binary(max_size=20))
def test_every_byte_is_shown(token: bytes) -> None:
    def as_bytes(piece: Piece) -> bytes:
        if piece.kind == "hex":
            return chr(int(piece.text[2:], 16)).encode() if piece.text.startswith("U+") else bytes.fromhex(piece.text)
        return {"newline": b"\n", "tab": b"\t"}.get(piece.kind) or piece.text.encode()

    assert b"".join(map(as_bytes, display(token))) == token


@given(st.lists(st.binary(max_size=4), max_size=8))
def test_texts_of_consecutive_tokens_join_to_the_whole(tokens: list[bytes]) -> None:
    texts = api_texts(tokens)
    assert len(texts) == len(tokens)
    assert "".join(texts) == b"".join(tokens).decode("utf-8", "replace")


def test_a_split_character_belongs_to_the_token_that_completes_it() -> None:
    assert api_texts([b" caf", b"\xc3", b"\xa9", b"!"]) == [" caf", "", "é", "!"]
    assert api_texts([b"\xf0\x9f", b"\x8e", b"\xbb"]) == ["", "", "🎻"]
    assert api_texts([b"ok\xf0", b"\x9f"]) == ["ok", "\ufffd"]
    assert api_texts([]) == []
