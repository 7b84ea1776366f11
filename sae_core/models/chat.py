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
        raise ChatError(f"{name} has no chat template, so it cannot read a conversation: probe it as plain text.")
    rows = [dict(message) for message in messages]
    opens = rows[-1]["role"] != "assistant"
    try:
        text = tokenize.apply_chat_template(rows, add_generation_prompt=opens)
        spans = tokenize.message_spans(rows, add_generation_prompt=opens)
    except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        raise ChatError(f"The chat template of {name} refuses this conversation: {reason}.") from error
    tokens = tuple(ChatToken(span.role, span.section != "content") for span in spans)
    return RenderedChat(str(text), tokens)
