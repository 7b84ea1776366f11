"""Shading, lines and writing directions; and that no token, however hostile, becomes markup."""

from collections.abc import Collection

import pytest

from app.queries.examples import DocumentInfo, ExampleTokens, ExampleView
from app.queries.models import TokenInfo, Vocabulary
from app.web.components import example_lines, token_html, token_text
from app.web.rendering import environment
from tests.web.html import parse

HOSTILE = [
    b"<script>alert(1)</script>",
    b'" onmouseover="alert(1)',
    b"' x='",
    b"&amp;",
    b"{{ 7*7 }}",
    b"</span></p></body>",
    b"\x00\x07\x1b",
    "\u202e evil".encode(),
    b"\xe2\x82",
    b"\n",
    b"\t",
]


def example(
    tokens: list[bytes], activations: list[float], position: int, start: int = 0, specials: Collection[bytes] = ()
) -> ExampleView:
    return ExampleView(
        band=0,
        rank=0,
        sequence=7,
        position=position,
        activation=activations[position - start],
        document=DocumentInfo(0, "<b>Title</b>", None),
        start=start,
        tokens=ExampleTokens(
            [100 + i for i in range(len(tokens))],
            start,
            {place: value for place, value in enumerate(activations, start) if value > 0},
            Vocabulary({100 + i: TokenInfo(100 + i, raw, raw in specials) for i, raw in enumerate(tokens)}),
        ),
        peak=max(activations),
    )


def macro(name: str):
    return getattr(environment().get_template("macros/strips.html").module, name)


@pytest.mark.parametrize(
    ("activation", "step"), [(0, 0), (-1, 0), (1e-9, 1), (1, 1), (1.01, 2), (3, 3), (5.99, 6), (6, 6), (7, 6)]
)
def test_steps_are_even_and_zero_is_bare(activation: float, step: int) -> None:
    assert token_text.step(activation, 6.0) == step


def test_a_feature_that_never_fires_shades_nothing() -> None:
    assert token_text.step(0.0, 0.0) == 0


def test_right_to_left_runs_keep_the_spaces_between_them_only() -> None:
    tokens = ["The", " ", "كتاب", " ", "جديد", " ", "of", ".", "שלום"]
    shown = token_text.sequence(example([t.encode() for t in tokens], [1.0] * 9, position=0), 1.0)
    assert [(run.right_to_left, "".join(t.pieces[0].text for t in run.tokens)) for run in shown] == [
        (False, "The "),
        (True, "كتاب جديد"),
        (False, " of."),
        (True, "שלום"),
    ]


@pytest.mark.parametrize("active", [0.0, 3.0])
def test_hostile_tokens_stay_text(active: float) -> None:
    view = example(HOSTILE, [active] * len(HOSTILE), position=3)
    for html in (macro("full")(token_text.sequence(view, 3.0), 3), example_lines.markup(example_lines.cut(view, 3.0))):
        tree = parse(str(html))
        assert {element.tag for element in tree.all()} <= {"p", "span", "bdi"}
        assert not [name for element in tree.all() for name in element.attributes if name.startswith("on")]
        assert "<script>alert(1)</script>" in tree.text
        assert "{{ 7*7 }}" in tree.text
        assert "&amp;" in tree.text
        chips = [element.text for element in tree.all("span", cls="chip")]
        assert {"U+0000", "U+001B", "U+202E", "E2", "82"} <= set(chips)
        assert {element.text for element in tree.all("span", cls="mark")} == {"↵", "⇥"}


def test_text_of_a_sequence_is_exact() -> None:
    tokens = [b"The", b" cat", b"  sat", b" .", b"on"]
    html = macro("full")(token_text.sequence(example(tokens, [0.0, 1.0, 2.0, 0.0, 0.0], position=2), 2.0), 2)
    tree = parse(str(html))
    assert tree.text == "The cat  sat .on"
    assert [token["tabindex"] for token in tree.all("span", cls="t")] == ["-1", "-1", "0", "-1", "-1"]
    assert tree.one("span", cls="top").text == "  sat"
    assert "position 0" in tree.all("span", cls="t")[0]["title"]


@pytest.mark.parametrize(
    ("raw", "text"), [(b" the", " the"), (b" ", "␣"), (b"   ", "␣␣␣"), (b"\n", "↵"), (b" \n", "␣↵"), (b"<b>", "<b>")]
)
def test_a_lone_token_of_spaces_can_be_seen(raw: bytes, text: str) -> None:
    tree = parse(str(token_html.lone(raw, special=False)))
    assert tree.text == text
