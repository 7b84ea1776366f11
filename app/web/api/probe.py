"""POST /saes/{sae}/probe."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from app.problems import documented
from app.services import probe as service
from app.web.components.token_models import TokenText
from app.web.dependencies import Inference, Sae, Session

router = APIRouter(prefix="/api/v1/saes/{sae}/probe", tags=["Probe"])

Percentile = Annotated[
    float | None,
    Field(description="0 to 100, within the feature's own non-zero activations over the index; null without an index."),
]


class ProbeIn(BaseModel):
    """A text to probe."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str, Field(description="Neither kept nor logged.", examples=["He was taken off with a concussion."])
    ]
    top_k: Annotated[int, Field(ge=1, le=10_000, description="Most features overall, and per token.")] = 20


class ProbeTokenOut(BaseModel):
    """One token of the text."""

    id: int
    text: TokenText
    special: Annotated[bool, Field(description="BOS or another special token: features are not counted on it.")]


class ProbeFeatureOut(BaseModel):
    """A feature that fires on the text."""

    index: int
    label: Annotated[str | None, Field(description="The newest submitted label's explanation.")]
    max: Annotated[float, Field(description="Its strongest activation.")]
    max_position: Annotated[int, Field(description="Position of that activation in `tokens`.")]
    percentile: Percentile
    activations: Annotated[list[float], Field(description="One per token; 0 where it does not fire.")]


class TokenFeatureOut(BaseModel):
    """A feature that fires on one token."""

    index: int
    label: str | None
    activation: float
    percentile: Percentile


class ProbeOut(BaseModel):
    """The text's tokens and the features that fire on them."""

    tokens: list[ProbeTokenOut]
    features: Annotated[
        list[ProbeFeatureOut],
        Field(
            description="Ranked by how unusual the strongest activation is for the feature itself, given how often it "
            "fires in a text this long; then by the activation."
        ),
    ]
    per_token: Annotated[
        list[list[TokenFeatureOut]],
        Field(description="Features per token, by percentile of their activation."),
    ]
    firing: Annotated[int, Field(description="Features that fire on the text, listed or not.")]


@router.post("", summary="Probe a text", response_model=ProbeOut, responses=documented(404, 409, 413))
async def probe(sae: Sae, request: ProbeIn, session: Session, inference: Inference) -> Response:
    """Run a text through the model and the SAE. The texts of `tokens`, after a BOS put in front, join to the text."""
    result = await service.probe(session, inference, sae, request.text, top_k=request.top_k)
    return Response(await run_in_threadpool(_written, result), media_type="application/json")


def _written(result: service.ProbeResult) -> bytes:
    """Return a `ProbeOut` as JSON: for a long text too much work for the event loop, and too long for one call.

    A model of pydantic takes five times as long; a test compares the two.
    """
    tokens = _array(result.tokens, {"bytes"})
    features = _array(result.features, {"scale"})
    per_token = _array(result.per_token)
    return b'{"tokens":%b,"features":%b,"per_token":%b,"firing":%d}' % (tokens, features, per_token, result.firing)


def _array(rows: Iterable[object], exclude: set[str] | None = None) -> bytes:
    return b"[%b]" % b",".join(to_json(row, exclude=exclude) for row in rows)
