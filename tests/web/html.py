"""Pages as a test reads them: elements by tag and class, and the text that a person sees."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_MISSING = object()
VOID = {"meta", "link", "input", "br", "img", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def line(self) -> str:
        """The text with its white space collapsed, as a browser shows it."""
        return " ".join(self.text.split())

    @property
    def classes(self) -> set[str]:
        return set((self.attributes.get("class") or "").split())

    def __getitem__(self, attribute: str) -> str:
        value = self.attributes[attribute]
        assert value is not None
        return value

    def all(self, tag: str = "", *, cls: str = "", **attributes: str | None) -> list["Element"]:
        """Return every element below this one with this tag, class and attributes (None: without a value), in order."""
        found = []
        for child in self.children:
            if isinstance(child, str):
                continue
            if (
                (not tag or child.tag == tag)
                and (not cls or cls in child.classes)
                and all(
                    child.attributes.get(name.replace("_", "-"), _MISSING) == value
                    for name, value in attributes.items()
                )
            ):
                found.append(child)
            found += child.all(tag, cls=cls, **attributes)
        return found

    def one(self, tag: str = "", *, cls: str = "", **attributes: str | None) -> "Element":
        found = self.all(tag, cls=cls, **attributes)
        assert len(found) == 1, f"{len(found)} of <{tag}> .{cls} {attributes}"
        return found[0]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def parse(html: str) -> Element:
    """Return the tree of a page or fragment; mismatched tags fail the test."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.stack) == 1, f"<{parser.stack[-1].tag}> is not closed"
    return parser.stack[0]
