"""Fields of API requests for interventions: the prompt, the changes, the sampling."""

from typing import Annotated, Self

from fastapi.sse import format_sse_event
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import UserError
from app.services import generation as service
from app.services.generation import Change, Wish
from app.services.inference_messages import ChatMessage, InterventionChoice

EVENTS = "text/event-stream"


class InterventionIn(InterventionChoice):
    """One change of a feature or a direction. The error term stays, so one that changes nothing changes nothing."""

    sae: Annotated[str | None, Field(description="Another SAE of the same model; null for the address' own.")] = None

    def change(self) -> Change:
        """Return the SAE's slug, and the intervention."""
        return self.sae, InterventionChoice(**self.model_dump(exclude={"sae"}))


class PromptedIn(BaseModel):
    """A text or a conversation to continue with interventions."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str | None, Field(description="Neither kept nor logged.", examples=["The capital of France is"])
    ] = None
    chat: Annotated[
        list[ChatMessage] | None,
        Field(description="A conversation in the model's own chat format, in the place of `text`."),
    ] = None
    interventions: Annotated[list[InterventionIn], Field(min_length=1, max_length=service.MAX_INTERVENTIONS)]
    temperature: Annotated[float, Field(ge=0, le=100, description="0 takes the likeliest token.")] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="Of every text: they draw the same noise.")] = 0
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=service.MAX_STOPS, description="Texts that end a continuation once they are written."),
    ] = []

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.chat is None):
            raise ValueError("Give one prompt: a text, or a chat.")
        return self

    def wish(self, max_new_tokens: int, top: int = 5) -> Wish:
        """Return it for the service."""
        return Wish(
            text=self.text or "",
            chat=self.chat,
            interventions=[one.change() for one in self.interventions],
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            stop=self.stop,
            top=top,
        )


class _Failed(BaseModel):
    detail: str


def failed(error: UserError) -> bytes:
    """Return the last event of a stream that an error ends."""
    return format_sse_event(event="failed", data_str=_Failed(detail=str(error)).model_dump_json())
