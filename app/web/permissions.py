"""Who may do what: the least role of every route that changes something or computes.

Reading needs a viewer, or nobody where the setting SEESAE_ANYONE_MAY_READ says so. What a person made, others may
change only from a reviewer up: the services check that with `Actor.may_change`. Runs have a rule of their own besides,
`may_submit`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi.routing import APIRoute

from app.services.actors import Role

PUBLIC = {"/healthz", "/readyz", "/metrics", "/api/docs"}
"""Addresses for which nobody is looked up: those that programs watch, and the description of the API."""

READING_ROLES: dict[str, Role] = {
    "GET /account": Role.viewer,
    "GET /invitations/{secret}": Role.anyone,
    "GET /sign-in": Role.anyone,
    "GET /sign-in/provider": Role.anyone,
    "GET /sign-in/provider/return": Role.anyone,
    # Addresses of webhooks can hold secrets of other services: `services.webhooks.may_see` says whose each is.
    "GET /api/v1/webhooks": Role.labeller,
    "GET /api/v1/webhooks/{id}/deliveries": Role.labeller,
    "GET /webhooks": Role.labeller,
    "GET /webhooks/{id}": Role.labeller,
}
"""Routes that read and need another role than a viewer's, whatever the settings say."""

LEAST_ROLES: dict[str, Role] = {
    # Signing in, and one's own account.
    "POST /invitations/{secret}": Role.anyone,
    "POST /sign-in": Role.anyone,
    "POST /sign-out": Role.anyone,
    "POST /account/password": Role.viewer,
    "POST /account/sessions/end": Role.viewer,
    "POST /account/sessions/{id}/end": Role.viewer,
    "POST /account/tokens": Role.viewer,
    "POST /account/tokens/{id}/revoke": Role.viewer,
    # Others' accounts.
    "POST /account/claims": Role.admin,
    "POST /account/invitations": Role.admin,
    "POST /account/invitations/{id}/revoke": Role.admin,
    "POST /account/people/{id}/disable": Role.admin,
    "POST /account/people/{id}/enable": Role.admin,
    "POST /account/people/{id}/link": Role.admin,
    "POST /account/people/{id}/role": Role.admin,
    # These compute, and keep nothing.
    "POST /api/v1/saes/{sae}/attribute": Role.viewer,
    "POST /api/v1/saes/{sae}/features/by-example": Role.viewer,
    "POST /api/v1/saes/{sae}/generate": Role.viewer,
    "POST /api/v1/saes/{sae}/probe": Role.viewer,
    "POST /api/v1/saes/{sae}/sweep": Role.viewer,
    "POST /v1/chat/completions": Role.viewer,
    "POST /v1/completions": Role.viewer,
    "POST /saes/{sae}/attribute": Role.viewer,
    "POST /saes/{sae}/features/by-example": Role.viewer,
    "POST /saes/{sae}/features/{index}/try": Role.viewer,
    "POST /saes/{sae}/probe": Role.viewer,
    "POST /saes/{sae}/probe/texts": Role.viewer,
    "POST /saes/{sae}/probe/texts/{format}": Role.viewer,
    "POST /saes/{sae}/steer": Role.viewer,
    # Labels.
    "POST /api/v1/labels/{id}/undo": Role.labeller,
    "POST /labels/{id}/undo": Role.labeller,
    "POST /labels/{id}/discard": Role.labeller,
    "PUT /api/v1/saes/{sae}/features/{index}/labels/mine": Role.labeller,
    "PUT /api/v1/saes/{sae}/features/{index}/labels/mine/draft": Role.labeller,
    "POST /saes/{sae}/features/{index}/labels": Role.labeller,
    # Blind tests.
    "POST /api/v1/labelsets/{id}/tests": Role.labeller,
    "POST /api/v1/tests/{id}/answers": Role.labeller,
    "POST /labelsets/{id}/tests": Role.labeller,
    "POST /tests/{id}": Role.labeller,
    # Text sets.
    "POST /api/v1/textsets": Role.labeller,
    "DELETE /api/v1/textsets/{name}": Role.labeller,
    "POST /textsets": Role.labeller,
    "POST /textsets/{name}/delete": Role.labeller,
    # Label sets.
    "POST /api/v1/labelsets": Role.reviewer,
    "PUT /api/v1/labelsets/{id}": Role.reviewer,
    "POST /labelsets": Role.reviewer,
    "POST /labelsets/{id}": Role.reviewer,
    "POST /labelsets/{id}/closed": Role.reviewer,
    "POST /api/v1/labelsets/{id}/next": Role.labeller,
    "POST /api/v1/labelsets/{id}/skip": Role.labeller,
    "POST /api/v1/labelsets/{id}/undo": Role.labeller,
    "PUT /api/v1/labelsets/{id}/features/{feature}/draft": Role.labeller,
    "POST /labelsets/{id}/label": Role.labeller,
    "POST /labelsets/{id}/next": Role.labeller,
    "POST /labelsets/{id}/skip": Role.labeller,
    "POST /labelsets/{id}/undo": Role.labeller,
    "PUT /api/v1/labels/{id}/vote": Role.labeller,
    "POST /labelsets/{id}/adjudicate/{feature}/votes": Role.labeller,
    "POST /api/v1/labelsets/{id}/decisions": Role.reviewer,
    "POST /labelsets/{id}/adjudicate/{feature}": Role.reviewer,
    "POST /api/v1/saes/{sae}/labels/import": Role.admin,  # it writes under the names of others
    "POST /saes/{sae}/labels": Role.admin,
    # Comments.
    "POST /api/v1/saes/{sae}/features/{index}/comments": Role.labeller,
    "DELETE /api/v1/comments/{id}": Role.labeller,
    "POST /saes/{sae}/features/{index}/comments": Role.labeller,
    "POST /saes/{sae}/features/{index}/comments/{id}/delete": Role.labeller,
    # Webhooks: of an SAE they take an admin, of a monitor whoever may change it; reading them does too.
    "POST /api/v1/webhooks": Role.labeller,
    "DELETE /api/v1/webhooks/{id}": Role.labeller,
    "POST /webhooks": Role.labeller,
    "POST /webhooks/{id}/delete": Role.labeller,
    # Lists, edits and saved probes.
    "POST /api/v1/lists": Role.labeller,
    "PUT /api/v1/lists/{id}": Role.labeller,
    "DELETE /api/v1/lists/{id}": Role.labeller,
    "POST /lists": Role.labeller,
    "POST /lists/{id}": Role.labeller,
    "POST /lists/{id}/delete": Role.labeller,
    "POST /lists/{id}/items": Role.labeller,
    "POST /lists/{id}/move": Role.labeller,
    "POST /lists/{id}/note": Role.labeller,
    "POST /lists/{id}/remove": Role.labeller,
    "POST /saes/{sae}/features/{index}/lists": Role.labeller,
    "POST /api/v1/edits": Role.labeller,
    "PUT /api/v1/edits/{name}": Role.labeller,
    "DELETE /api/v1/edits/{name}": Role.labeller,
    "POST /edits": Role.labeller,
    "POST /edits/{name}": Role.labeller,
    "POST /edits/{name}/delete": Role.labeller,
    "POST /saes/{sae}/probe/saved": Role.labeller,
    "POST /saes/{sae}/probe/saved/{id}/delete": Role.labeller,
    "DELETE /api/v1/audits/{id}": Role.labeller,
    "POST /audits/{id}/delete": Role.labeller,
    # Monitors: anybody who reads may check a text; what somebody made, they and reviewers change.
    "POST /api/v1/monitors": Role.labeller,
    "PUT /api/v1/monitors/{id}": Role.labeller,
    "DELETE /api/v1/monitors/{id}": Role.labeller,
    "POST /api/v1/monitors/{id}/check": Role.viewer,
    "POST /api/v1/monitors/{id}/scan": Role.admin,  # it may read a file of this machine
    "POST /api/v1/monitors/{id}/alerts/{alert}/acknowledge": Role.reviewer,
    "POST /monitors": Role.labeller,
    "POST /monitors/{id}": Role.labeller,
    "POST /monitors/{id}/check": Role.viewer,
    "POST /monitors/{id}/delete": Role.labeller,
    "POST /monitors/{id}/acknowledge": Role.reviewer,
    "POST /monitors/{id}/alerts/{alert}": Role.reviewer,
    # Runs read files of the site's machine, or cost money.
    "POST /api/v1/edits/{name}/measure": Role.admin,
    "POST /api/v1/saes/{sae}/compare-texts": Role.admin,
    "POST /saes/{sae}/compare-texts": Role.admin,
    "POST /api/v1/saes/{sae}/suggestions": Role.admin,
    "POST /api/v1/audits": Role.admin,
    "POST /audits": Role.admin,
    "POST /api/v1/runs": Role.admin,
    "POST /api/v1/runs/{id}/cancel": Role.admin,
    "POST /api/v1/runs/{id}/retry": Role.admin,
    "POST /runs/new/{kind}": Role.admin,
    "POST /textsets/built-in": Role.admin,
    "POST /runs/{run_id}/cancel": Role.admin,
    "POST /runs/{run_id}/retry": Role.admin,
    # Deleting.
    "DELETE /api/v1/corpora/{name:path}": Role.admin,
    "DELETE /api/v1/models/{name:path}": Role.admin,
    "DELETE /api/v1/saes/{sae}": Role.admin,
    "DELETE /api/v1/text-comparisons/{id}": Role.admin,
    "DELETE /api/v1/saes/{sae}/index": Role.admin,
    "POST /corpora/{name:path}/delete": Role.admin,
    "POST /models/{name:path}/delete": Role.admin,
    "POST /saes/{sae}/delete": Role.admin,
    "POST /saes/{sae}/index/delete": Role.admin,
}
_READING = {"GET", "HEAD"}


def least_role(route: APIRoute, method: str) -> Role:
    """Return the least role that may call a route.

    Raises:
        KeyError: it changes something, and is not in the table; `check_routes` finds such a route at the start.
    """
    if method in _READING:
        return READING_ROLES.get(f"GET {route.path}", Role.viewer)
    return LEAST_ROLES[f"{method} {route.path}"]


def is_open_to_readers(route: APIRoute, method: str) -> bool:
    """True if a setting may let people read this who have not signed in."""
    return method in _READING and f"GET {route.path}" not in READING_ROLES


def changes_something(route: APIRoute, method: str) -> bool:
    """True if a request writes what stays, which viewers' requests do not."""
    return method not in _READING and least_role(route, method) >= Role.labeller


def routes_of(routes: Sequence[Any]) -> Iterator[APIRoute]:
    """Yield all routes of an application, those of its routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        yield from routes_of(getattr(getattr(route, "original_router", route), "routes", None) or [])


def check_routes(routes: Sequence[Any]) -> None:
    """Refuse an application in which the table above does not name exactly the routes that change something.

    Raises:
        LookupError: a route is missing from the table, or is no longer there.
    """
    changing = {
        f"{method} {route.path}"
        for route in routes_of(routes)
        for method in (route.methods or set()) - _READING
        if route.path not in PUBLIC
    }
    reading = {f"GET {route.path}" for route in routes_of(routes)}
    if different := (changing ^ set(LEAST_ROLES)) | (set(READING_ROLES) - reading):
        raise LookupError(f"Say in app/web/permissions.py who may call these, or take them out: {sorted(different)}.")
