"""POST /saes/{sae}/probe."""

from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from app.errors import Unprocessable
from app.problems import documented
from app.services import probe as service
from app.services.inference_messages import ChatMessage, RankBy
from app.services.probe_diff import ProbeDiff, probe_diff
from app.services.probe_texts import (
    CSV,
    MAX_TEXTS,
    NDJSON,
    TextFindings,
    check_texts,
    csv_rows,
    ndjson_rows,
    probe_texts,
)
from app.services.saes import find_sae
from app.web.components.token_models import TokenText
from app.web.dependencies import Inference, Sae, Session

router = APIRouter(prefix="/api/v1/saes/{sae}/probe", tags=["Probe"])

_RESPONSES = documented(404, 409, 413)

Percentile = Annotated[
    float | None,
    Field(description="0 to 100, within the feature's own non-zero activations over the index; null without an index."),
]


class ProbeIn(BaseModel):
    """A prompt or several: exactly one of `text`, `chat` and `texts`."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str | None, Field(description="Neither kept nor logged.", examples=["He was taken off with a concussion."])
    ] = None
    chat: Annotated[
        list[ChatMessage] | None, Field(description="A conversation, read in the model's own chat format.")
    ] = None
    texts: Annotated[
        list[str] | None,
        Field(description=f"Up to {MAX_TEXTS} texts, each probed alone; with `diff`, two to compare."),
    ] = None
    saes: Annotated[
        list[str] | None,
        Field(description="More SAEs of the same model, by slug: all read the prompt from one forward pass."),
    ] = None
    diff: Annotated[bool, Field(description="Compare the two `texts` token by token.")] = False
    rank_by: Annotated[
        RankBy,
        Field(description="Percentile (how unusual for the feature), raw activation, or rarity in the index."),
    ] = "percentile"
    top_k: Annotated[int, Field(ge=1, le=10_000, description="Most features overall, and per token.")] = 20


class ProbeTokenOut(BaseModel):
    """One token of the text."""

    id: int
    text: TokenText
    special: Annotated[bool, Field(description="BOS or another special token: features are not counted on it.")]


class ProbeFeatureOut(BaseModel):
    """A feature that fires on the text."""

    index: int
    label: Annotated[
        str | None, Field(description="What everybody calls the feature: a decision, or the newest label.")
    ]
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


class PromptTokenOut(ProbeTokenOut):
    """One token of a prompt as the model read it."""

    role: Annotated[str | None, Field(description="Of its turn in a conversation.")]
    added: Annotated[bool, Field(description="Not written by the author: BOS, or added by the chat template.")]


class SaeFindingsOut(BaseModel):
    """The features of one SAE that are active on a prompt."""

    sae: str
    hook: str
    features: list[ProbeFeatureOut]
    per_token: list[list[TokenFeatureOut]]
    firing: int


class PromptOut(BaseModel):
    """A prompt in several SAEs, or a conversation in one."""

    tokens: list[PromptTokenOut]
    saes: list[SaeFindingsOut]


class TextFeatureOut(BaseModel):
    """A feature that fires on one of many texts."""

    index: int
    label: str | None
    max: float
    max_position: int
    percentile: Percentile


class TextOut(BaseModel):
    """One of many texts."""

    prompt: Annotated[int, Field(description="Its place among the texts, from 0.")]
    tokens: Annotated[int, Field(description="Number of tokens, BOS included.")]
    firing: int
    features: list[TextFeatureOut]
    error: Annotated[str | None, Field(description="Why this text could not be probed, such as that it is too long.")]


class TextsOut(BaseModel):
    """The texts, in the order of the request."""

    results: list[TextOut]


class DiffFeatureOut(BaseModel):
    """A feature on two texts."""

    index: int
    label: str | None
    a: Annotated[float, Field(description="Its strongest activation on the first text; 0 where it is silent.")]
    b: float
    difference: Annotated[
        float, Field(description="Largest between aligned tokens, as a share of the feature's maximum.")
    ]
    pair: Annotated[int, Field(description="Where in `alignment` that is.")]
    active_in: Literal["a", "b", "both"]
    activations_a: list[float]
    activations_b: list[float]


class DiffOut(BaseModel):
    """Two texts, aligned token by token, and their features by difference."""

    a: list[ProbeTokenOut]
    b: list[ProbeTokenOut]
    alignment: Annotated[
        list[tuple[int | None, int | None]],
        Field(description="Positions in both texts; null where one has nothing there."),
    ]
    features: list[DiffFeatureOut]
    differing: Annotated[int, Field(description="Features that differ, listed or not.")]


@router.post("", summary="Probe a text", response_model=ProbeOut | PromptOut | TextsOut | DiffOut, responses=_RESPONSES)
async def probe(
    sae: Sae,
    body: ProbeIn,
    http: Request,
    session: Session,
    inference: Inference,
) -> Response:
    """Run a text, a conversation or many texts through the model and the SAE.

    A `text` gives a `ProbeOut`, whose tokens' texts, after a BOS put in front, join to the text; with `saes`, and for a
    `chat`, a `PromptOut`. `texts` give a `TextsOut`, and with `diff` a `DiffOut`.
    """
    _check_combination(body)
    if body.text is not None and body.saes is None:
        found = await service.probe(session, inference, sae, body.text, top_k=body.top_k, rank_by=body.rank_by)
        return _json(await run_in_threadpool(_written, found))
    if body.texts is not None and body.diff:
        first, second = body.texts
        compared = await probe_diff(session, inference, sae, (first, second), top_k=body.top_k)
        return _json(await run_in_threadpool(_diff_written, compared))
    if body.texts is not None:  # sessions of their own, because the answer goes on after the request's has ended
        return await _texts(
            http,
            probe_texts(
                http.app.state.sessionmaker, inference, sae, body.texts, top_k=body.top_k, rank_by=body.rank_by
            ),
        )
    prompt = service.Prompt(body.text or "", None if body.chat is None else tuple(body.chat))
    saes = [sae, *[await find_sae(session, slug) for slug in body.saes or ()]]
    answer = await service.probe_prompt(session, inference, saes, prompt, top_k=body.top_k, rank_by=body.rank_by)
    return _json(await run_in_threadpool(_prompt_written, answer))


def _check_combination(body: ProbeIn) -> None:
    """Refuse a body that asks for several things.

    Raises:
        Unprocessable: it does, or for none; `diff` or `texts` do not fit.
        TooLarge: there are too many texts.
    """
    given = [name for name in ("text", "chat", "texts") if getattr(body, name) is not None]
    if len(given) != 1:
        raise Unprocessable(
            f"Give “text” in the body, or “chat”, or “texts”: exactly one; this has {' and '.join(given) or 'none'}."
        )
    if body.diff and len(body.texts or ()) != 2:
        raise Unprocessable("“diff” compares exactly two “texts”.")
    if body.texts is not None and body.saes:
        raise Unprocessable("“texts” are probed in one SAE: send “saes” with a “text” or a “chat”.")
    if body.texts is not None:
        check_texts(body.texts)


async def _texts(http: Request, rows: AsyncIterator[TextFindings]) -> Response:
    """Answer with all rows at once, or stream them as lines of JSON or CSV where the client prefers that."""
    accepted = http.headers.get("accept", "")
    if NDJSON in accepted or CSV in accepted:
        media_type, write = (NDJSON, ndjson_rows) if NDJSON in accepted else (CSV, csv_rows)
        first = await anext(rows)  # what is not available is refused before the answer begins
        return StreamingResponse(write(first, rows), media_type=media_type)
    return _json(to_json({"results": [row async for row in rows]}))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


_PLAIN = {"bytes", "role", "added"}
"""Fields of a token that the answer to a plain text leaves out."""


def _written(result: service.ProbeResult) -> bytes:
    """Return a `ProbeOut` as JSON: for a long text too much work for the event loop, and too long for one call.

    A model of pydantic takes five times as long; a test compares the two.
    """
    return b'{"tokens":%b,%b}' % (_array(result.tokens, _PLAIN), _findings(result))


def _findings(result: service.ProbeResult) -> bytes:
    features, per_token = _array(result.features, {"scale"}), _array(result.per_token)
    return b'"features":%b,"per_token":%b,"firing":%d' % (features, per_token, result.firing)


def _prompt_written(answer: service.PromptResult) -> bytes:
    """Return a `PromptOut` as JSON."""
    saes = [
        b'{"sae":%b,"hook":%b,%b}' % (to_json(sae.slug), to_json(sae.hook), _findings(result))
        for sae, result in zip(answer.saes, answer.results, strict=True)
    ]
    return b'{"tokens":%b,"saes":[%b]}' % (_array(answer.tokens, {"bytes"}), b",".join(saes))


def _diff_written(found: ProbeDiff) -> bytes:
    """Return a `DiffOut` as JSON."""
    return b'{"a":%b,"b":%b,"alignment":%b,"features":%b,"differing":%d}' % (
        _array(found.a.tokens, _PLAIN),
        _array(found.b.tokens, _PLAIN),
        to_json(found.alignment),
        _array(found.features, {"scale"}),
        found.differing,
    )


def _array(rows: Iterable[object], exclude: set[str] | None = None) -> bytes:
    return b"[%b]" % b",".join(to_json(row, exclude=exclude) for row in rows)
