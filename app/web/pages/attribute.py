"""Attribution: choose a token that the model predicts, see the features that cause it. The prompt comes by POST."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NoWeights, Unprocessable, UserError
from app.queries.examples import ExampleView, best_examples
from app.queries.saes import SaeDetail, list_saes
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.attribution import AttributionResult, Contribution, Method, Question, attribute
from app.services.inference_messages import TokenChoice
from app.services.texts import unix_lines
from app.services.tokens import Piece, display
from app.web.components import example_lines
from app.web.components.attribution_graph import graph
from app.web.components.formatting import signed
from app.web.components.prompts import EXAMPLE_PROMPTS, MAX_CARRIED, steer_link
from app.web.dependencies import AppSettings, Inference, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_TOP = 40
_VERIFY = 20
_SNIPPET = {"before": 6, "after": 4}
_STEPS = 4
"""Shades of each sign in the strip."""
_METHODS: dict[str, Method] = {"gradient": "gradient", "integrated": "integrated"}
_CHOICE = re.compile(r"(?P<position>\d{1,9}):(?P<target>\d{1,9}|other)?(?::(?P<rival>\d{1,9}|other))?")


@dataclass(frozen=True, slots=True)
class StripToken:
    """A token of the prompt, as a button that explains why the model predicts it."""

    pieces: tuple[Piece, ...]
    special: bool
    classes: str
    note: str
    choose: str
    """Value of the button; empty for the first token, which nothing predicts."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A row of the ranked list; `bar` and `mark` are shares of the largest contribution, −100 to 100."""

    node: Contribution
    snippet: example_lines.Line | None
    token: bytes
    special: bool
    exact: float | None
    """What ablation takes away, with the sign of `attribution`."""
    bar: float
    mark: float | None


@router.get("/saes/{sae}/attribute")
async def attribute_form(
    request: Request, sae: Sae, session: Session, settings: AppSettings, text: str = ""
) -> HTMLResponse:
    """Show the form, filled in with `text`, without a result."""
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    context = await _context(session, sae, settings.probe_max_tokens, text, "gradient", [])
    return render(request, "attribute/page.html", context)


@router.post("/saes/{sae}/attribute")
async def run_attribution(
    request: Request,
    sae: Sae,
    session: Session,
    inference: Inference,
    settings: AppSettings,
    text: Annotated[str, Form()] = "",
    method: Annotated[str, Form()] = "gradient",
    saes: Annotated[list[str] | None, Form()] = None,
    choose: Annotated[str, Form()] = "",
    chosen: Annotated[str, Form()] = "",
    chosen_in: Annotated[str, Form()] = "",
    other: Annotated[str, Form()] = "",
) -> HTMLResponse:
    """Attribute a token: the one that a button `choose` names, else `chosen` while the text is the same.

    A choice is `position:target:rival`; without target it is the most probable token. `other` is a token in words.
    """
    text = unix_lines(text)  # as the API's callers send it
    others = list(dict.fromkeys(saes or []))
    if choose == "" and chosen_in == _digest(text):
        choose = chosen
    sent = [("text", text), ("method", method), ("choose", choose), ("other", other)]
    sent += [("saes", slug) for slug in others]
    template = "attribute/_result.html" if wants_fragment(request) else "attribute/page.html"
    context = await _context(session, sae, settings.probe_max_tokens, text, method, others)
    try:
        result = await attribute(session, inference, sae, others, _question(text, method, choose, other))
    except UserError as error:
        return render(request, template, {**context, "error": error, "sent": sent}, status=error.status)
    causes = await _causes(session, result)
    rival = f":{result.rival.id}" if result.rival else ""
    verified = sum(cause.exact is not None for cause in causes)
    context |= {
        "result": result,
        "strip": _strip(result),
        "causes": causes,
        "graph": graph(result),
        "names": _names(result.saes),
        "carries": len(text) <= MAX_CARRIED,
        "steer_link": steer_link,
        "chosen": f"{result.position}:{result.target.id}{rival}",
        "chosen_in": _digest(text),
        "verified": verified,
        "error_shares": [(one, result.error_share(one.slug)) for one in result.saes],
        "features_sum": sum(share.features for share in result.shares if share.sae == sae.slug),
        "error_sum": sum(share.error for share in result.shares if share.sae == sae.slug),
    }
    return render(request, template, context)


async def _context(
    session: AsyncSession, sae: SaeDetail, limit: int, text: str, method: str, chosen: list[str]
) -> dict[str, Any]:
    siblings = [
        one for one in await list_saes(session) if one.model.id == sae.model.id and one.id != sae.id and one.has_weights
    ]
    return {
        "sae": sae,
        "siblings": siblings,
        "text": text,
        "method": method,
        "chosen_saes": chosen,
        "limit": limit,
        "examples": EXAMPLE_PROMPTS,
        "error": None,
        "result": None,
    }


def _question(text: str, method: str, choose: str, other: str) -> Question:
    """Return what a form asks for.

    Raises:
        Unprocessable: the method or the choice is not one that the page offers.
    """
    if method not in _METHODS:
        raise Unprocessable("There is no such method: choose gradient × activation or integrated gradients.")
    question = Question(text=text, method=_METHODS[method], top=_TOP, verify=_VERIFY)
    if not choose:
        return question
    match = _CHOICE.fullmatch(choose)
    if match is None or int(match["position"]) > MAX_INTEGER:
        raise Unprocessable("Choose a token by clicking it in the prompt or in the list of predictions.")
    return replace(
        question,
        position=int(match["position"]),
        target=_token(match["target"], other),
        rival=_token(match["rival"], other),
    )


def _token(written: str | None, other: str) -> TokenChoice | None:
    if written is None:
        return None
    return TokenChoice(token=other) if written == "other" else TokenChoice(id=int(written))


def _names(saes: Sequence[SaeDetail]) -> dict[str, str]:
    """Return a short name of each SAE: its hook point, where no two share one."""
    hooks = {str(sae.hook) for sae in saes}
    return {sae.slug: str(sae.hook) if len(hooks) == len(saes) else sae.slug for sae in saes}


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()


def _strip(result: AttributionResult) -> list[StripToken]:
    """Return the prompt's tokens, shaded by the sum over the features of the page's own SAE."""
    sums = {share.position: share.features for share in result.shares if share.sae == result.saes[0].slug}
    largest = max(map(abs, sums.values()), default=0.0)
    shown = []
    for position, token in enumerate(result.tokens):
        value = sums.get(position, 0.0)
        classes = ["t"]
        shade = min(_STEPS, round(_STEPS * abs(value) / largest)) if largest else 0
        if shade:
            classes.append(f"{'up' if value > 0 else 'down'}{shade}")
        if token.special:
            classes.append("chip")
        if position > result.position:
            classes.append("later")
        if position == result.position + 1 and token.id == result.target.id:
            classes.append("target")
        note = f"token {token.id} · position {position}"
        if position in sums:
            note = f"features here: {signed(value)}\n{note}"
        choose = f"{position - 1}:{token.id}" if position else ""
        shown.append(StripToken(display(token.bytes), token.special, " ".join(classes), note, choose))
    return shown


async def _causes(session: AsyncSession, result: AttributionResult) -> list[Cause]:
    nodes = result.nodes[:_TOP]
    largest = max((abs(node.attribution) for node in nodes), default=0.0)
    largest = max([largest, *(abs(node.ablation) for node in nodes if node.ablation is not None)]) or 1.0
    snippets: dict[tuple[str, int], ExampleView] = {}
    for sae in result.saes:
        unlabelled = {node.feature for node in nodes if node.sae == sae.slug and node.label is None}
        best = await best_examples(session, sae, sorted(unlabelled), **_SNIPPET)
        snippets |= {(sae.slug, feature): view for feature, view in best.items()}
    causes = []
    for node in nodes:
        view = snippets.get((node.sae, node.feature))
        token = result.tokens[node.position]
        exact = None if node.ablation is None else -node.ablation
        causes.append(
            Cause(
                node=node,
                snippet=example_lines.cut(view, view.activation) if view else None,
                token=token.bytes,
                special=token.special,
                exact=exact,
                bar=round(100 * node.attribution / largest, 1),
                mark=None if exact is None else round(100 * exact / largest, 1),
            )
        )
    return causes
