"""Examples cut to one line: what stands on it, what is shaded, and which way it is read."""

from app.web.components import example_lines
from tests.web.components.test_token_text import example
from tests.web.html import Element, parse


def shown(
    tokens: list[bytes], activations: list[float], position: int, start: int = 0, maximum: float = 2.0
) -> Element:
    return parse(str(example_lines.markup(example_lines.cut(example(tokens, activations, position, start), maximum))))


def test_a_line_is_cut_around_its_token() -> None:
    tokens = [f" w{i:03}".encode() for i in range(200)]
    line = shown(tokens, [0.0] * 99 + [2.0] + [1.0] * 100, position=99)
    before = line.one("span", cls="line-before").text
    assert before == b"".join(tokens[86 - 3 : 99]).decode()[-len(before) :]
    assert len(before) == 65, "thirteen tokens of five characters are the first that fill 64"
    own, *after = line.one("span", cls="line-after").all("span", cls="t")
    assert (own.text, own["class"]) == (" w099", "t a6 top")
    assert [token["title"].rpartition(" ")[2] for token in after] == [str(place) for place in range(100, 118)]
    assert {token["class"] for token in after} == {"t a3"}


def test_a_window_that_starts_later_keeps_positions() -> None:
    line = shown([b"a", b"b", b"c"], [0.0, 4.0, 0.0], position=41, start=40, maximum=4.0)
    assert line.one("span", cls="t")["title"] == "4.00 · 100\u202f% of the maximum\ntoken 101 · position 41"
    assert line.text == "abc"


def test_only_what_is_shaded_has_an_element() -> None:
    line = shown([b"The", b" cat", b" sat"], [0.0, 0.0, 2.0], position=2)
    assert line.text == "The cat sat"
    assert [token.text for token in line.all("span", cls="t")] == [" sat"]


def test_a_special_token_is_a_chip_though_it_is_not_active() -> None:
    view = example([b"<s>", b"a"], [0.0, 2.0], position=1, specials=[b"<s>"])
    line = parse(str(example_lines.markup(example_lines.cut(view, 2.0))))
    assert line.one("span", cls="chip").text == "<s>"


def test_tokens_from_right_to_left_keep_together() -> None:
    tokens = ["The", " ", "كتاب", " ", "جديد", " ", "of", ".", "שלום"]
    line = shown([token.encode() for token in tokens], [2.0] + [0.0] * 8, position=0)
    assert [run.text for run in line.all("bdi", dir="rtl")] == ["كتاب جديد", "שלום"]
    assert line.text == "".join(tokens)
