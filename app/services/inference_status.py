"""Status of the inference process while it starts, and the header that carries the secret which it asks for.

Apart from the other messages, which import SQLAlchemy: the supervisor starts without it.
"""

from typing import Literal

from pydantic import BaseModel

SECRET_HEADER = "X-SeeSAE-Secret"  # noqa: S105 - the header's name


class Preloaded(BaseModel):
    """The model that the inference process loads when it starts; `waiting` until it is known which."""

    state: Literal["waiting", "nothing", "loading", "ready", "failed"] = "waiting"
    model: str = ""
    reason: str = ""
    """Why it cannot be loaded."""
