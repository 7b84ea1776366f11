"""Answers in OpenAI's format: whole ones and chunks, of conversations and of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.queries.models import TokenInfo
from app.services.inference_messages import CompletionToken, LiveAlert
from app.services.tokens import api_texts

FinishReason = Literal["stop", "length", "content_filter"]
FINISH_REASONS: Mapping[str, FinishReason] = {
    "end of text": "stop",
    "stop": "stop",
    "length": "length",
    "monitor": "content_filter",
}

Tokens = Sequence[CompletionToken]
Vocabulary = Mapping[int, TokenInfo]


class UsageOut(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LikelyOut(BaseModel):
    """A token that could stand at a place."""

    token: str
    logprob: float
    bytes: Annotated[list[int] | None, Field(description="Of its text, which may be a part of a character.")]


class LogprobOut(LikelyOut):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[LikelyOut]


class ChatLogprobsOut(BaseModel):
    """The answer's tokens."""

    content: list[LogprobOut]
    refusal: None


class MessageOut(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class AlertOut(BaseModel):
    """A monitor's score rose above its threshold: said once per monitor and answer."""

    monitor: str
    score: float
    threshold: float
    position: Annotated[int, Field(description="Of the token, from the first of the prompt, BOS included.")]
    token: str
    part: Literal["prompt", "answer"]
    action: Literal["alert", "stop", "edit"]


class WatchedOut(BaseModel):
    """What the monitors found."""

    alerts: list[AlertOut]
    scores: Annotated[dict[str, float], Field(description="Of the text so far, prompt included, by monitor.")]


class ChatChoiceOut(BaseModel):
    """The one answer."""

    index: int
    message: MessageOut
    finish_reason: FinishReason
    logprobs: ChatLogprobsOut | None


class ChatCompletionOut(BaseModel):
    """An answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoiceOut]
    usage: UsageOut
    seesae: Annotated[WatchedOut | None, Field(description="Of a request with monitors.")] = None


class TextLogprobsOut(BaseModel):
    """The continuation's tokens, in columns."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoiceOut(BaseModel):
    """The one continuation."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: TextLogprobsOut | None


class CompletionOut(BaseModel):
    """A continuation of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoiceOut]
    usage: UsageOut
    seesae: Annotated[WatchedOut | None, Field(description="Of a request with monitors.")] = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Writes what belongs to one request; the members that all of its chunks share are the same in each."""

    id: str
    created: int
    model: str
    chat: bool
    logprobs: bool
    include_usage: bool = False

    def whole(
        self,
        text: str,
        tokens: Tokens,
        known: Vocabulary,
        reason: FinishReason,
        usage: UsageOut,
        watched: WatchedOut | None,
    ) -> Any:
        """Return the answer at once."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(tokens, known, 0)
        members = self._members("chat.completion") | {"choices": [choice], "usage": usage.model_dump()}
        return members | _seesae(watched)

    def first(self, watched: WatchedOut | None) -> Any:
        """Return the chunk that a stream begins with; a text's has nothing to say."""
        return self._chunk({"role": "assistant", "content": ""} if self.chat else {"text": ""}) | _seesae(watched)

    def chunk(self, token: CompletionToken, known: Vocabulary, offset: int, watched: WatchedOut | None) -> Any:
        """Return a chunk with the next token, whose text begins after `offset` characters."""
        own = {"content": token.text} if self.chat else {"text": token.text}
        return self._chunk(own, self._logprobs([token], known, offset)) | _seesae(watched)

    def last(self, text: str, reason: FinishReason, watched: WatchedOut | None) -> Any:
        """Return the chunk that says why the answer ends."""
        own = ({"content": text} if text else {}) if self.chat else {"text": text}
        return self._chunk(own, None, reason) | _seesae(watched)

    def usage(self, usage: UsageOut) -> Any:
        """Return the chunk that ends a stream whose usage is asked for."""
        return self._members("chat.completion.chunk") | {"choices": [], "usage": usage.model_dump()}

    def _chunk(self, own: dict[str, Any], logprobs: Any = None, reason: FinishReason | None = None) -> Any:
        delta = {"delta": own} if self.chat else own
        choice = {"index": 0, **delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self.include_usage else {}
        return self._members("chat.completion.chunk") | {"choices": [choice]} | usage

    def _members(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _logprobs(self, tokens: Tokens, known: Vocabulary, offset: int) -> Any:
        if not self.logprobs:
            return None
        if self.chat:
            return {"content": [_logprob(token, known) for token in tokens], "refusal": None}
        return _columns(tokens, known, offset)


def alert_out(alert: LiveAlert, known: Vocabulary, action: Literal["alert", "stop", "edit"]) -> AlertOut:
    """Return an alert with its token's text."""
    return AlertOut(
        monitor=alert.monitor,
        score=alert.score,
        threshold=alert.threshold,
        position=alert.position,
        token=api_texts([known[alert.token_id].bytes])[0],
        part="answer" if alert.generated else "prompt",
        action=action,
    )


def _seesae(watched: WatchedOut | None) -> dict[str, Any]:
    return {} if watched is None else {"seesae": watched.model_dump()}


def _logprob(token: CompletionToken, known: Vocabulary) -> dict[str, Any]:
    top = [_likely(token_id, value, known) for token_id, value in token.top]
    return _likely(token.id, token.log_probability, known) | {"top_logprobs": top}


def _likely(token_id: int, logprob: float, known: Vocabulary) -> dict[str, Any]:
    raw = known[token_id].bytes
    return {"token": api_texts([raw])[0], "logprob": logprob, "bytes": list(raw)}


def _columns(tokens: Tokens, known: Vocabulary, offset: int) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [api_texts([known[token.id].bytes])[0] for token in tokens],
        "token_logprobs": [token.log_probability for token in tokens],
        "top_logprobs": [
            {api_texts([known[token_id].bytes])[0]: value for token_id, value in token.top} for token in tokens
        ]
        if any(token.top for token in tokens)
        else None,
        "text_offset": offsets,
    }
