"""Requests in OpenAI's format, and what of that format a model here cannot do."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import BadParameter
from app.services.completions import CompletionWish
from app.services.generation import MAX_INTERVENTIONS
from app.services.inference_messages import ChatMessage
from app.web.components.intervention_models import InterventionIn

MAX_STOPS = 4
MAX_EDITS = 16
MAX_MONITORS = 16
MAX_LIKELY = 20
"""Likeliest tokens of a chat; OpenAI's limit."""
MAX_LIKELY_OF_TEXT = 5
"""Those of a text; OpenAI's limit too."""
DEFAULT_CHAT_TOKENS = 512
"""OpenAI's models end by themselves; one without an end would hold the machine for its whole context."""
DEFAULT_TEXT_TOKENS = 16
"""OpenAI's default."""
_MAX_SEED = 2**63 - 1

_IGNORED = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
}
"""Parameters that do not change what OpenAI's models write either."""

_ONE = "One answer per request is written here: send the request again for another."
_NO_TOOLS = "The models here call no tools."
_NO_PENALTY = "Tokens are drawn from the model's own distribution, without penalties or biases."
_ONLY_TEXT = "Answers are plain text here."
_NEUTRAL: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "n": (_ONE, (1,)),
    "best_of": (_ONE, (1,)),
    "tools": (_NO_TOOLS, ([],)),
    "functions": (_NO_TOOLS, ([],)),
    "tool_choice": (_NO_TOOLS, ("none", "auto")),
    "function_call": (_NO_TOOLS, ("none", "auto")),
    "response_format": (_ONLY_TEXT, ({"type": "text"},)),
    "modalities": (_ONLY_TEXT, (["text"],)),
    "audio": (_ONLY_TEXT, ()),
    "presence_penalty": (_NO_PENALTY, (0,)),
    "frequency_penalty": (_NO_PENALTY, (0,)),
    "logit_bias": (_NO_PENALTY, ({},)),
    "echo": ("The prompt is not repeated here.", (False,)),
    "suffix": ("A text is continued at its end alone.", ("",)),
    "prediction": ("Predicted outputs are not supported here.", ()),
    "reasoning_effort": ("The models here do not reason apart from their answers.", ("none",)),
    "web_search_options": ("The models here do not search the web.", ()),
}
"""Why other values than these (or null) are refused: they would be taken for effective."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class StreamOptionsIn(BaseModel):
    """What a stream carries besides."""

    include_usage: Annotated[bool, Field(description="Send the usage in a last chunk.")] = False
    include_obfuscation: bool = False


class AlertEditIn(BaseModel):
    """The edit that an alert applies, from the next token on."""

    model_config = ConfigDict(extra="forbid")

    edit: str


class SeesaeIn(BaseModel):
    """What watches the model while it writes, and what is done to it."""

    model_config = ConfigDict(extra="forbid")

    sae: Annotated[str | None, Field(description="Slug of the SAE that interventions are about which name none.")] = (
        None
    )
    edits: Annotated[list[str], Field(max_length=MAX_EDITS, description="Names of saved edits to apply.")] = []
    interventions: Annotated[list[InterventionIn], Field(max_length=MAX_INTERVENTIONS)] = []
    monitors: Annotated[list[str | int], Field(max_length=MAX_MONITORS, description="Names or ids of monitors.")] = []
    on_alert: Annotated[
        Literal["alert", "stop"] | AlertEditIn,
        Field(description="What an alert does besides: nothing, end the answer, or apply an edit."),
    ] = "alert"


class SampledIn(BaseModel):
    """How an answer is written; both operations share it."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[
        str, Field(description="A model, or one of its SAEs: GET /v1/models lists them.", examples=["smollm2-135m"])
    ]
    temperature: Annotated[float | None, Field(ge=0, le=2, description="0 takes the likeliest token.")] = None
    top_p: Annotated[
        float | None, Field(ge=0, le=1, description="Draw from the likeliest tokens that sum to this probability.")
    ] = None
    seed: Annotated[int | None, Field(ge=-_MAX_SEED, le=_MAX_SEED, description="Another one each time by default.")] = (
        None
    )
    stop: Annotated[
        str | list[Annotated[str, Field(min_length=1)]] | None,
        Field(description=f"Up to {MAX_STOPS} texts at which the answer ends; it does not have them."),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptionsIn | None = None
    seesae: SeesaeIn | None = None

    def refuse_unsupported(self) -> None:
        """Refuse parameters that this endpoint does not have, where they would change the answer.

        Raises:
            BadParameter: there is one.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _IGNORED or value is None:
                continue
            if name not in _NEUTRAL:
                raise BadParameter(f"Unknown parameter: “{name[:40]}”.", name[:40], "unknown_parameter")
            why, neutral = _NEUTRAL[name]
            if value not in neutral:
                raise BadParameter(f"{why} Leave out `{name}`.", name, "unsupported_parameter")

    @property
    def include_usage(self) -> bool:
        """True if a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def stops(self) -> list[str]:
        """Return the texts that end the answer.

        Raises:
            BadParameter: there are too many.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS:
            raise BadParameter(f"Give at most {MAX_STOPS} texts to stop at.", "stop")
        return [stop for stop in stops if stop]

    def _wish(self, *, max_new_tokens: int, fill: bool, top: int, **prompt: Any) -> CompletionWish:
        changes = self.seesae or SeesaeIn()
        return CompletionWish(
            model=self.model,
            max_new_tokens=max_new_tokens,
            fill=fill,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(62) if self.seed is None else self.seed,
            stop=self.stops(),
            top=top,
            sae=changes.sae,
            interventions=[one.change() for one in changes.interventions],
            edits=changes.edits,
            monitors=changes.monitors,
            edit_on_alert=changes.on_alert.edit if isinstance(changes.on_alert, AlertEditIn) else None,
            stop_on_alert=changes.on_alert == "stop",
            **prompt,
        )


NewTokens = Annotated[int | None, Field(ge=1, le=10**6, description="Most tokens to write.")]


class MessageIn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(description="system (or developer), user or assistant.", examples=["user"])]
    content: Annotated[
        str | list[dict[str, Any]] | None,
        Field(description="A text, or parts of type text.", examples=["Who was Marie Curie?"]),
    ] = None


class ChatCompletionIn(SampledIn):
    """A conversation to answer."""

    messages: Annotated[list[MessageIn], Field(description="Neither kept nor logged.")]
    max_completion_tokens: NewTokens = None
    max_tokens: NewTokens = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LIKELY)] = None

    def wish(self) -> CompletionWish:
        """Return it for the service.

        Raises:
            BadParameter: something of it makes no sense, or is not supported.
        """
        self.refuse_unsupported()
        if self.top_logprobs and not self.logprobs:
            raise BadParameter("Ask for `logprobs` too where you ask for `top_logprobs`.", "top_logprobs")
        if self.messages and self.messages[-1].role == "assistant":
            raise BadParameter("The answer is the assistant's: let the last message be another's.", "messages")
        most = self.max_completion_tokens or self.max_tokens
        return self._wish(
            max_new_tokens=most or DEFAULT_CHAT_TOKENS,
            fill=most is None,
            top=self.top_logprobs or 0,
            chat=[_message(number, message) for number, message in enumerate(self.messages)],
        )


class CompletionIn(SampledIn):
    """A text to continue."""

    prompt: Annotated[
        str | list[Any], Field(description="Neither kept nor logged.", examples=["The capital of France is"])
    ]
    max_tokens: NewTokens = DEFAULT_TEXT_TOKENS
    logprobs: Annotated[int | None, Field(ge=0, le=MAX_LIKELY_OF_TEXT, description="Likeliest tokens to list.")] = None

    def wish(self) -> CompletionWish:
        """Return it for the service; raises as that of a chat."""
        self.refuse_unsupported()
        prompt = self.prompt[0] if isinstance(self.prompt, list) and len(self.prompt) == 1 else self.prompt
        if not isinstance(prompt, str):
            raise BadParameter("Give one prompt, as a text: lists of prompts and of tokens are not taken.", "prompt")
        most = self.max_tokens or DEFAULT_TEXT_TOKENS
        return self._wish(max_new_tokens=most, fill=False, top=self.logprobs or 0, text=prompt)


def _message(number: int, message: MessageIn) -> ChatMessage:
    """Return a turn; a name of its author is left out, because chat formats have no place for it."""
    where = f"messages.{number}"
    if message.role not in _ROLES:
        raise BadParameter(
            "A message's role is system, developer, user or assistant: the models here call no tools.", f"{where}.role"
        )
    if unknown := next((name for name, value in (message.model_extra or {}).items() if value and name != "name"), None):
        raise BadParameter(
            f"A message here has a role and a content, no “{unknown[:40]}”.",
            f"{where}.{unknown[:40]}",
            "unsupported_parameter",
        )
    return ChatMessage(role=_ROLES[message.role], content=_content(f"{where}.content", message.content))


def _content(where: str, content: str | list[dict[str, Any]] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise BadParameter("The models here read text alone: give parts of type text.", where, "unsupported_content")
    return "\n".join(map(str, texts))
