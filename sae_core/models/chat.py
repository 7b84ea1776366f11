"""Conversations in a model's own chat format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp_engine.tokenize import Tokenize
from jinja2 import TemplateError

from sae_core.errors import ModelError


class ChatError(ModelError):
    """The model has no chat format, or its format refuses the conversation."""


@dataclass(frozen=True)
class ChatToken:
    """A token of a rendered conversation: its turn's role, and whether the format added it."""

    role: str | None
    added: bool


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as the model reads it, without the `prefix` that may stand in front."""

    text: str
    tokens: tuple[ChatToken, ...]


def render_chat(tokenize: Tokenize, messages: Sequence[Mapping[str, str]], name: str) -> RenderedChat:
    """Render messages of `role` and `content`; one that does not end with the assistant opens the assistant's turn.

    Raises:
        ChatError: the model `name` has no chat format, or its format refuses these messages.
    """
    if not tokenize.has_chat_template():
        raise ChatError(f"{name} has no chat template, so it cannot read a conversation: give it plain text.")
    rows = [dict(message) for message in messages]
    opens = rows[-1]["role"] != "assistant"
    try:
        text = tokenize.apply_chat_template(rows, add_generation_prompt=opens)
        spans = tokenize.message_spans(rows, add_generation_prompt=opens)
    except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        raise ChatError(f"The chat template of {name} refuses this conversation: {reason}.") from error
    tokens = [ChatToken(span.role, span.section != "content") for span in spans]
    complete = {span.message_index for span in spans if span.section == "content"}
    folded = [row for index, row in enumerate(rows) if index not in complete]
    return RenderedChat(str(text), tuple(_mark_folded(tokenize, str(text), tokens, folded)))


def _mark_folded(
    tokenize: Tokenize, text: str, tokens: Sequence[ChatToken], folded: Sequence[Mapping[str, str]]
) -> list[ChatToken]:
    """Mark what `folded` messages say: a format such as Llama 2's writes the system's within the user's turn."""
    marked = list(tokens)
    if not folded:
        return marked
    offsets = tokenize.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
    for message in folded:
        content = message["content"].strip()
        start = text.find(content)
        if not content or start < 0 or len(offsets) != len(marked):
            continue
        for place, (begin, end) in enumerate(offsets):
            if begin < start + len(content) and end > start:
                marked[place] = ChatToken(message["role"], added=False)
    return marked
