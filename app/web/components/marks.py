"""Marks in a text: the words by which a search found it."""

from collections.abc import Collection

from markupsafe import Markup, escape

from app.queries.search import WORD


def marked(text: str, words: Collection[str]) -> Markup:
    """Return the text with those of its words marked that are among `words`, which are in lower case."""
    parts, end = [], 0
    for word in WORD.finditer(text):
        if word[0].lower() in words:
            parts += [escape(text[end : word.start()]), Markup("<mark>{}</mark>").format(word[0])]
            end = word.end()
    return Markup("").join([*parts, escape(text[end:])])
