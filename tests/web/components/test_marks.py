"""Marks in a text."""

from app.web.components.marks import marked


def test_whole_words_are_marked_and_all_else_is_text() -> None:
    assert marked("Music & <b>musical</b>", {"music"}) == "<mark>Music</mark> &amp; &lt;b&gt;musical&lt;/b&gt;"
    assert marked("<i>", ()) == "&lt;i&gt;"
    assert marked("a_b", {"b"}) == "a_<mark>b</mark>"
