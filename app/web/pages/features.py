"""One feature, and one of its sequences."""

import random
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, UserError
from app.queries.activity import latest_activity
from app.queries.comparisons import comparisons_tag
from app.queries.decisions import decisions_of_feature
from app.queries.examples import get_examples, get_excerpts
from app.queries.feature_holdings import ANYTHING, FeatureHoldings, feature_holdings
from app.queries.feature_list import next_unlabelled
from app.queries.features import (
    FeatureDetail,
    features_around,
    get_feature,
)
from app.queries.label_flow import default_draft
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import NOBODY, Reader
from app.services import feature_texts as service
from app.services.feature_texts import TriedText, draw_examples, stored_sequence
from app.services.inference import InferenceClient
from app.services.suggestions import find_shown, shown_suggestions
from app.services.texts import unix_lines
from app.web.caching import features_etag, make_etag, raise_if_not_modified
from app.web.components import figures, token_text
from app.web.components.comment_panel import comment_panel
from app.web.components.counterparts import counterparts_of
from app.web.components.example_lines import AFTER, BEFORE, Example
from app.web.components.feature_view import (
    SiteLinks,
    feature_view,
    histogram,
    neighbour_pictures,
    neighbours,
)
from app.web.components.label_panel import LabelForm, label_panel
from app.web.components.list_panel import NO_LISTS, lists_panel
from app.web.components.suggestion_panel import suggestion_panel
from app.web.dependencies import Actor, FeatureIndex, Inference, Sae, Session
from app.web.fragments import Fragments
from app.web.rendering import render, wants_fragment
from app.web.rendering import text as text_of
from app.web.security import EMBEDDABLE
from sae_core.statistics.spec import PARTNER

router = APIRouter()

_EMBEDDED_EXAMPLES = 6
"""Examples in an embedded frame."""


@dataclass(frozen=True, slots=True)
class TriedLine:
    """One of the reader's lines, shaded."""

    text: TriedText
    runs: tuple[token_text.Run, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """The reader's own lines: `text` as it was sent, and its lines as the feature sees them, or the error."""

    text: str = ""
    lines: tuple[TriedLine, ...] = ()
    error: UserError | None = None


@router.get("/saes/{sae}/features/random")
async def random_feature(sae: Sae, session: Session) -> RedirectResponse:
    """Redirect to a random feature of the index."""
    index = random.randrange(sae.d_sae)
    if 0 < sae.indexed < sae.d_sae:
        before, after = await features_around(session, sae, index)
        index = after if after is not None else before if before is not None else index
    address = f"/saes/{sae.slug}/features/{index}"
    return RedirectResponse(address, status_code=303, headers={"Cache-Control": "no-store"})


@router.get("/saes/{sae}/features/{index}")
async def feature(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    actor: Actor,
    inference: Inference,
    text: str = "",
    embed: bool = False,
    label: str | None = None,
    suggestion: str = "",
    saved: bool = False,
) -> HTMLResponse:
    """Show one feature; with `text`, also its activations on these lines; with `embed`, a version for a frame.

    With `label`, the form is open; with `suggestion`, it holds the text of this one. After the label was `saved`
    without JavaScript, the page says so.
    """
    has = await feature_holdings(session, sae.id, index)
    draft = await default_draft(session, sae.id, index, actor.person_id) if has.drafts else None
    lists = await lists_panel(session, sae, index, actor) if has.lists else NO_LISTS
    etag = None  # the result for `text` depends on more than the database
    if not text:
        compared = await comparisons_tag(session, sae.id) if has.comparisons else ()
        etag = features_etag(request, sae, compared, lists, draft)
        raise_if_not_modified(request, etag)
    # Read before what the page shows of it.
    latest = await latest_activity(session, sae.id, index, reader=actor.reader) if has.activity else 0
    detail = await _detail(session, sae, index, actor.reader, has)
    if embed:
        response = render(request, "features/embed.html", await _embed_context(session, sae, detail), etag=etag)
        response.headers["Content-Security-Policy"] = EMBEDDABLE
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return response
    context = await _page(request, session, sae, detail, actor, has) | {"latest": latest, "lists": lists}
    form = LabelForm.of(actor, detail.labels, is_open=label is not None, draft=draft)
    chosen = find_shown(shown_suggestions(sae, detail), suggestion)
    if chosen is not None and chosen.text is not None:
        form = replace(form, text=replace(form.text, explanation=chosen.text), is_open=True)
    following = await next_unlabelled(session, sae, detail) if form.is_open or saved else None
    context["panel"] = await label_panel(session, detail.labels, form, reader=actor.reader, saved=saved, next=following)
    context["comments"] = await comment_panel(session, sae.id, index, actor, has_any=has.comments)
    if text:
        context["tried"] = await _try_lines(session, inference, sae, detail, text)
    return render(request, "features/page.html", context, etag=etag)


@router.post("/saes/{sae}/features/{index}/try")
async def try_texts(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    actor: Actor,
    inference: Inference,
    text: Annotated[str, Form()] = "",
) -> HTMLResponse:
    """Show a feature's activations on the reader's own lines; for htmx only these."""
    detail = await _detail(session, sae, index, actor.reader)
    tried = await _try_lines(session, inference, sae, detail, text)
    status = tried.error.status if tried.error else 200
    if wants_fragment(request):
        return render(request, "features/_tried.html", {"sae": sae, "detail": detail, "tried": tried}, status=status)
    context = await _page(request, session, sae, detail, actor) | {"tried": tried}
    context["lists"] = await lists_panel(session, sae, index, actor)
    context["panel"] = await label_panel(
        session, detail.labels, LabelForm.of(actor, detail.labels), reader=actor.reader
    )
    context["comments"] = await comment_panel(session, sae.id, index, actor)
    return render(request, "features/page.html", context, status=status)


@router.get("/saes/{sae}/features/{index}/drawn")
async def drawn(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    inference: Inference,
    low: Annotated[float, Query(alias="from")],
    high: Annotated[float, Query(alias="to")],
    seed: int = 0,
) -> HTMLResponse:
    """Show examples drawn from a part of a feature's range; for htmx only these."""
    detail = await _detail(session, sae, index)
    context: dict[str, Any] = {
        "sae": sae,
        "detail": detail,
        "low": low,
        "high": high,
        "seed": seed,
        "drawn": None,
        "error": None,
    }
    try:
        found = await draw_examples(session, inference, sae, detail, low=low, high=high, seed=seed)
        lines = [Example.of(view, detail.max) for view in found.examples]
        context |= {"drawn": found, "examples": lines}
    except UserError as error:
        context["error"] = error
    template = "features/_drawn.html" if wants_fragment(request) else "features/drawn.html"
    return render(request, template, context, status=context["error"].status if context["error"] else 200)


async def _try_lines(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, detail: FeatureDetail, text: str
) -> Tried:
    """Return the reader's lines shaded by the feature, or the error."""
    lines = [line for line in unix_lines(text).split("\n") if line.strip()]
    try:
        tried = await service.try_texts(session, inference, sae, detail.index, lines)
    except UserError as error:
        return Tried(text, error=error)
    scale = max(detail.max, *(line.peak for line in tried))
    return Tried(text, tuple(TriedLine(line, _shade(line, scale)) for line in tried))


def _shade(tried: TriedText, scale: float) -> tuple[token_text.Run, ...]:
    return token_text.plain_runs(
        [(token.id, token.bytes, token.special) for token in tried.tokens],
        lambda place: token_text.note(tried.tokens[place].id, place, tried.tokens[place].activation, scale),
        lambda place: token_text.step(tried.tokens[place].activation, scale),
        tried.position if tried.peak else -1,
    )


async def _embed_context(session: AsyncSession, sae: SaeDetail, detail: FeatureDetail) -> dict[str, Any]:
    views = await get_examples(session, sae, detail.index, band=0, limit=_EMBEDDED_EXAMPLES, with_documents=False)
    view = feature_view(
        sae, detail, [Example.of(view, detail.max) for view in views], links=SiteLinks(sae, detail.index)
    )
    return {"sae": sae, "view": view}


async def _page(
    request: Request,
    session: AsyncSession,
    sae: SaeDetail,
    detail: FeatureDetail,
    actor: Actor,
    has: FeatureHoldings = ANYTHING,
) -> dict[str, Any]:
    """Return the context of a feature's page, without its labels, comments and lists."""
    index = detail.index
    previous, following = await features_around(session, sae, index)
    decided = await decisions_of_feature(session, sae.id, index, reader=actor.reader) if has.decisions else []
    return {
        "sae": sae,
        "index": index,
        "detail": detail,
        "view": feature_view(sae, detail, [], links=SiteLinks(sae, index), previous=previous, next=following),
        "has_histogram": any(detail.histogram.counts),
        "suggestions": suggestion_panel(sae, shown_suggestions(sae, detail)),
        "tried": Tried(),
        "latest": None,
        "counterparts": await counterparts_of(session, sae, index) if has.comparisons else [],
        "partner_least": PARTNER,
        "decisions": decided,
        **await _fixed_parts(request.app.state.fragments, session, sae, detail),
    }


async def _fixed_parts(
    fragments: Fragments, session: AsyncSession, sae: SaeDetail, detail: FeatureDetail
) -> dict[str, Markup]:
    """Return the parts of the page that are the same for every reader.

    One shows what the index says of the feature. The other names its neighbours by labels, those that everybody sees:
    it is another part when one changes. Neither gets anything else that people wrote.
    """
    sae = replace(sae, labelled=0, label_changes=0)
    detail = replace(detail, labels=(), label=None, suggestions=(), effect=None)
    links = SiteLinks(sae, detail.index)
    tag = make_etag(sae, detail.index)

    async def fixed() -> str:
        bare = replace(
            detail,
            coactive=tuple(replace(other, label=None) for other in detail.coactive),
            near=tuple(replace(other, label=None) for other in detail.near),
        )
        examples = [
            Example.of(view, bare.max)
            for view in await get_excerpts(session, sae, bare.index, before=BEFORE, after=AFTER)
        ]
        drawn = histogram(sae, bare, figures.activation_histogram)
        view = feature_view(sae, bare, examples, links=links, histogram=drawn)
        return text_of("features/_fixed.html", {"sae": sae, "view": view})

    async def named() -> str:
        sparks, snippets = await neighbour_pictures(session, sae, detail)
        view = feature_view(sae, detail, [], links=links, snippets=snippets, sparks=sparks)
        return text_of("features/_sections/neighbours.html", {"view": view})

    names = tuple(other.label for other in neighbours(detail))
    return {
        "fixed": await fragments.get(make_etag(tag, "fixed"), fixed),
        "neighbours": await fragments.get(make_etag(tag, "neighbours", names), named),
    }


@router.get("/saes/{sae}/features/{index}/examples/{sequence}")
async def example(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    sequence: int,
    session: Session,
    inference: Inference,
    band: int | None = None,
) -> HTMLResponse:
    """Show the whole sequence of one example; for htmx only the text."""
    detail = await _detail(session, sae, index)
    assert sae.index is not None
    sequences = sae.index.sequence_set.sequences
    if not 0 <= sequence < sequences:
        raise NotFound(f"This corpus has no such sequence: its sequences are numbered 0 to {sequences - 1}.")
    found = [view for view in await get_examples(session, sae, index, band=band) if view.sequence == sequence]
    if not found:  # a drawn example
        found = [await stored_sequence(session, inference, sae, detail, sequence)]
    context = {
        "sae": sae,
        "index": index,
        "here": f"/saes/{sae.slug}/features/{index}",
        "example": found[0],
        "maximum": detail.max,
        "runs": token_text.sequence(found[0], detail.max),
    }
    return render(request, "features/_sequence.html" if wants_fragment(request) else "features/example.html", context)


async def _detail(
    session: AsyncSession, sae: SaeDetail, index: int, reader: Reader = NOBODY, has: FeatureHoldings = ANYTHING
) -> FeatureDetail:
    detail = await get_feature(session, sae, index, reader=reader, has=has)
    if detail is None and sae.index is not None:
        raise NotFound(
            f"Feature {index} is not in the export that {sae.slug} was imported from, which describes {sae.indexed:,} "
            f"of its {sae.d_sae:,}: nothing is known of it, not even whether it is dead."
        )
    if detail is None:
        raise NotFound(
            f"{sae.slug} has no index yet, so feature {index} cannot be shown. Runs shows if one is being made."
        )
    return detail
