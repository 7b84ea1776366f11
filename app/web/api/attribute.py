"""POST /saes/{sae}/attribute."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.problems import documented
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import attribution as service
from app.services.inference_messages import TokenChoice
from app.web.components.token_models import TokenText
from app.web.dependencies import Inference, Sae, Session

router = APIRouter(prefix="/api/v1/saes/{sae}/attribute", tags=["Attribute"])


class TargetIn(TokenChoice):
    """The output token to explain."""

    id: int | None = Field(default=None, ge=0, le=MAX_INTEGER)
    position: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_INTEGER,
            description="Position in `tokens` after which the token is predicted; null for the last.",
        ),
    ] = None


class RivalIn(TokenChoice):
    """The token whose logit is subtracted, at the same position."""

    id: int | None = Field(default=None, ge=0, le=MAX_INTEGER)


class AttributeIn(BaseModel):
    """A text, and the output token to attribute to features."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(description="Neither kept nor logged.", examples=["The capital of France is"])]
    target: Annotated[
        TargetIn | None, Field(description="Null for the most probable token after the text's last one.")
    ] = None
    rival: RivalIn | None = None
    saes: Annotated[
        list[str],
        Field(max_length=100, description="Further SAEs of the same model, whose features contribute as well."),
    ] = []
    method: Annotated[
        service.Method,
        Field(
            description="`gradient`: activation × gradient, from one backward pass. `integrated`: gradients averaged "
            "while all features of an SAE grow from 0 to their activations; they sum to the effect of all of them."
        ),
    ] = "gradient"
    steps: Annotated[int, Field(ge=1, le=service.MAX_STEPS, description="Of `integrated`.")] = 10
    top: Annotated[int, Field(ge=1, le=service.MAX_TOP, description="Most nodes in the answer.")] = 50
    verify: Annotated[
        int,
        Field(ge=0, le=service.MAX_VERIFY, description="Strongest nodes to ablate exactly; each is a forward pass."),
    ] = 10


class AttributedTokenOut(BaseModel):
    """One token of the text."""

    id: int
    text: TokenText
    special: bool


class PredictedTokenOut(BaseModel):
    """A token that the model may predict."""

    id: int
    text: TokenText
    probability: float


class NodeOut(BaseModel):
    """A feature at a position."""

    sae: str
    feature: int
    label: str | None
    position: int
    activation: float
    attribution: Annotated[float, Field(description="Estimate of what it adds to the target, in logits.")]
    ablation: Annotated[
        float | None,
        Field(
            description="Exact change of the target when this node alone is ablated; near −attribution where the "
            "estimate is good. Null where it was not computed."
        ),
    ]


class ErrorOut(BaseModel):
    """Error term of an SAE at one position, beside the sum over its features there."""

    sae: str
    position: int
    attribution: Annotated[float, Field(description="Contribution of the error term.")]
    features: Annotated[float, Field(description="Sum over all features at the position.")]


class EdgeOut(BaseModel):
    """Influence of one node through another, in logits."""

    source: Annotated[int, Field(description="Place in `nodes`.")]
    target: int
    weight: float


class AttributeOut(BaseModel):
    """Contributions to the target. BOS and other special tokens have none: SAEs say nothing of them."""

    value: Annotated[float, Field(description="The target: a logit, or its difference to the rival's.")]
    position: int
    target: PredictedTokenOut
    rival: PredictedTokenOut | None
    predictions: Annotated[list[PredictedTokenOut], Field(description="The most probable tokens after the position.")]
    tokens: list[AttributedTokenOut]
    active: Annotated[int, Field(description="Active features at positions, listed or not.")]
    nodes: Annotated[list[NodeOut], Field(description="Strongest first; with several SAEs also those of `edges`.")]
    error: list[ErrorOut]
    explained: Annotated[
        float | None,
        Field(description="Share of the features: Σ |features| / Σ (|features| + |error|) over SAEs and positions."),
    ]
    rank_correlation: Annotated[
        float | None, Field(description="Spearman's, of `attribution` with −`ablation` over the verified nodes.")
    ]
    edges: Annotated[list[EdgeOut], Field(description="Between SAEs at different hook points, the strongest first.")]
    edges_kept: Annotated[float, Field(description="Share of all edges' influence that `edges` have.")]


@router.post("", summary="Attribute an output token", responses=documented(404, 409, 413))
async def attribute(sae: Sae, request: AttributeIn, session: Session, inference: Inference) -> AttributeOut:
    """Estimate what each feature at each position adds to one output token, and ablate the strongest to verify it."""
    target = request.target
    question = service.Question(
        text=request.text,
        position=None if target is None else target.position,
        target=None if target is None else TokenChoice(id=target.id, token=target.token),
        rival=None if request.rival is None else TokenChoice(id=request.rival.id, token=request.rival.token),
        method=request.method,
        steps=request.steps,
        top=request.top,
        verify=request.verify,
    )
    result = await service.attribute(session, inference, sae, request.saes, question)
    return AttributeOut(
        value=result.value,
        position=result.position,
        target=_output(result.target),
        rival=None if result.rival is None else _output(result.rival),
        predictions=[_output(token) for token in result.predictions],
        tokens=[AttributedTokenOut(id=token.id, text=token.text, special=token.special) for token in result.tokens],
        active=result.active,
        nodes=[
            NodeOut(
                sae=node.sae,
                feature=node.feature,
                label=node.label,
                position=node.position,
                activation=node.activation,
                attribution=node.attribution,
                ablation=node.ablation,
            )
            for node in result.nodes
        ],
        error=[
            ErrorOut(sae=share.sae, position=share.position, attribution=share.error, features=share.features)
            for share in result.shares
        ],
        explained=result.explained,
        rank_correlation=result.rank_correlation,
        edges=[EdgeOut(source=edge.source, target=edge.target, weight=edge.weight) for edge in result.edges],
        edges_kept=result.edges_kept,
    )


def _output(token: service.OutputToken) -> PredictedTokenOut:
    return PredictedTokenOut(id=token.id, text=token.text, probability=token.probability)
