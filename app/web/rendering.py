"""Templates, links to sheets and scripts, and the choice between a whole page and a fragment of it."""

from collections.abc import MutableMapping
from functools import cache
from http import HTTPStatus
from secrets import token_urlsafe
from types import MappingProxyType
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.paths import TEMPLATES
from app.queries import feature_list
from app.services import (
    adjudication,
    comments,
    feature_texts,
    label_sets,
    labels,
    lists,
    monitors,
    text_set_files,
    text_sets,
    webhooks,
)
from app.services.actors import NOBODY
from app.services.tokens import spelled
from app.web import caching
from app.web.components import (
    agreement_text,
    audit_view,
    contrast_text,
    edit_text,
    effect_text,
    example_lines,
    formatting,
    glossary,
    markdown,
    marks,
    monitor_text,
    output_tokens,
    run_card,
    sparklines,
    suggestion_panel,
    token_html,
)
from app.web.dependencies import may_submit, remember_sae
from app.web.static import imports, static_url

ACTS_HEADER = "X-SeeSAE-Acts"
"""Names the acts of a change in the answer to it, so that the page need not ask for what it has in hand."""

LIMITS = MappingProxyType(
    {
        "query": feature_list.MAX_QUERY,
        "explanation": labels.MAX_EXPLANATION,
        "categories": labels.MAX_CATEGORIES * (labels.MAX_CATEGORY + len(", ")),
        "author": labels.MAX_NAME,
        "comment": comments.MAX_COMMENT,
        "webhook_url": webhooks.MAX_URL,
        "decision_note": adjudication.MAX_NOTE,
        "category": labels.MAX_CATEGORY,
        "set_name": labels.MAX_NAME,
        "guideline": label_sets.MAX_GUIDELINE,
        "set_categories": label_sets.MAX_SET_CATEGORIES * (labels.MAX_CATEGORY + len(", ")),
        "set_people": label_sets.MAX_PEOPLE * (labels.MAX_NAME + len(", ")),
        "set_filter": label_sets.MAX_FILTER,
        "list_address": label_sets.MAX_LIST_ADDRESS,
        "set_needed": label_sets.MAX_NEEDED,
        "set_features": label_sets.MAX_FEATURES,
        "set_numbers": label_sets.MAX_FEATURES * 8,
        "monitor_name": monitors.MAX_NAME,
        "monitor_side": monitors.MAX_SIDE,
        "monitor_features": monitors.MAX_FEATURES,
        "monitor_text": text_set_files.MAX_TEXT,
        "monitor_note": monitors.MAX_NOTE,
        "monitor_notes": monitors.MAX_NOTES,
        "textset_name": text_sets.MAX_NAME,
        "textset_description": text_sets.MAX_DESCRIPTION,
        "textset_about": text_sets.MAX_ABOUT,
        "textset_column": text_sets.MAX_COLUMN,
        "list_name": lists.MAX_NAME,
        "list_description": lists.MAX_DESCRIPTION,
        "list_note": lists.MAX_NOTE,
        "texts": feature_texts.MAX_TEXTS,
    }
)
"""Characters that a form's field takes, and texts per request: the template global `limits`."""


@cache
def stylesheet(*names: str) -> Markup:
    """Return links to the sheets `static/css/<name>.css`, in this order."""
    link = Markup('<link rel="stylesheet" href="{}">')
    return Markup("\n").join(link.format(static_url(f"css/{name}.css")) for name in names)


@cache
def module(*names: str) -> Markup:
    """Return script elements of the modules `static/js/<name>.js`, and preload links of their imports.

    Without the links a browser requests an import only after it has read the module that names it.
    """
    modules = [f"js/{name}.js" for name in names]
    shared = dict.fromkeys(imported for path in modules for imported in imports(path))
    preload = Markup('<link rel="modulepreload" href="{}">')
    script = Markup('<script type="module" src="{}"></script>')
    links = [preload.format(static_url(path)) for path in shared if path not in modules]
    return Markup("\n").join([*links, *(script.format(static_url(path)) for path in modules)])


class _PagesEnvironment(Environment):
    """An environment whose globals are all there before the first template is loaded."""

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """Return the globals of a template as one dict: Jinja's chain of two costs a page a tenth of its time."""
        return {**self.globals, **(d or {})}


@cache
def environment() -> Environment:
    """The one template environment: it escapes everything, and an undefined variable is an error."""
    env = _PagesEnvironment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # a page has some thirty templates, each of which would be looked for on the disk
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {"static_url": static_url, "stylesheet": stylesheet, "module": module, "limits": LIMITS}
    env.globals["form_key"] = token_urlsafe
    env.globals |= {
        "effect_note": effect_text.NOTE,
        "effect_moved": effect_text.MOVED,
        "effect_not_held_out": effect_text.NOT_HELD_OUT,
    }
    env.filters |= effect_text.FILTERS | edit_text.FILTERS | agreement_text.FILTERS | monitor_text.FILTERS
    env.filters |= contrast_text.FILTERS
    env.filters |= formatting.FILTERS | glossary.FILTERS | output_tokens.FILTERS
    env.globals |= {
        "AUROC": glossary.AUROC,
        "COHERENCE": glossary.COHERENCE,
        "CONFIDENCE": glossary.CONFIDENCE,
        "DIFFERENCE_OF_MEANS": glossary.DIFFERENCE_OF_MEANS,
        "INTERPRETABILITY": glossary.INTERPRETABILITY,
        "RECALL": glossary.RECALL,
    }
    env.filters |= {"markdown": markdown.markdown, "scope_words": label_sets.scope_words}
    env.filters |= audit_view.FILTERS
    env.filters |= suggestion_panel.FILTERS | {
        "marked": marks.marked,
        "sparkline": sparklines.path,
        "waiting": run_card.waiting,
    }
    env.filters |= {
        "classes": token_html.classes,
        "examples_list": example_lines.listed,
        "line": example_lines.markup,
        "lone": token_html.lone,
        "spelled": spelled,
    }
    return env


def wants_fragment(request: Request) -> bool:
    """True if htmx requests a part of the page; when it restores history it needs the whole."""
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-History-Restore-Request") != "true"


def text(template: str, context: dict[str, Any]) -> str:
    """Render a template to text that is the same for every reader."""
    return environment().get_template(template).render(context)


def render(
    request: Request, template: str, context: dict[str, Any], *, status: int = 200, etag: str | None = None
) -> HTMLResponse:
    """Render a page or fragment under `etag`, or under a hash of its text.

    Raises:
        NotModified: the client has it.
    """
    return answer(request, text_for(request, template, context), status=status, etag=etag)


def text_for(request: Request, template: str, context: dict[str, Any]) -> str:
    """Render a template to text, for the reader who makes the request."""
    return text(template, {**_of_request(request), **context})


def answer(request: Request, body: str, *, status: int = 200, etag: str | None = None) -> HTMLResponse:
    """Answer with what is rendered, under `etag`, or under a hash of its text.

    Raises:
        NotModified: the client has it.
    """
    if status != HTTPStatus.OK or request.method != "GET":
        response = HTMLResponse(body, status_code=status, headers=caching.PAGE_HEADERS)
        if acts := getattr(request.state, "acts", []):
            response.headers[ACTS_HEADER] = " ".join(map(str, acts))
        return response
    etag = etag or caching.make_etag(body)
    caching.raise_if_not_modified(request, etag)
    response = HTMLResponse(body, headers={**caching.PAGE_HEADERS, "ETag": etag})
    remember_sae(request, response)
    return response


def _of_request(request: Request) -> dict[str, Any]:
    known = getattr(request.state, "actor", None)  # not of an address that no route has
    return {
        "request": request,
        "actor": known or NOBODY,
        "is_signed_out": known is NOBODY,
        "may_submit": may_submit(request),
    }


def render_error(request: Request, status: int, title: str, detail: str) -> Response:
    """Render an error for a person: a page, or for htmx a notice that leaves the page as it is."""
    fragment = wants_fragment(request)
    template = "errors/_notice.html" if fragment else "errors/page.html"
    response = render(request, template, {"status": status, "title": title, "detail": detail}, status=status)
    if fragment:
        response.headers["HX-Retarget"] = "#notice"
        response.headers["HX-Reswap"] = "innerHTML"
        response.headers["HX-Push-Url"] = "false"
    return response
