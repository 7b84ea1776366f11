"""A person's own account: password, browsers, API tokens; and for admins everybody's accounts."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries import people
from app.queries.claims import unclaimed_names
from app.services import accounts, claims
from app.services.actors import Role
from app.services.passwords import MAX_PASSWORD, MIN_PASSWORD
from app.web.components import glossary
from app.web.components.formatting import article, plural
from app.web.dependencies import Account, Actor, Session, session_secret, site_address
from app.web.rendering import render

router = APIRouter()

ROLES = ("viewer", "labeller", "reviewer", "admin")
RoleName = Annotated[Literal["viewer", "labeller", "reviewer", "admin"], Form()]
Text = Annotated[str, Form()]

_LASTS = {"30": "30 days", "90": "90 days", "365": "a year", "": "until I revoke it"}


@dataclass(frozen=True, slots=True)
class Notice:
    """What came of a change: a sentence, with a secret that is shown this once, or the reason why it was refused."""

    text: str
    secret: str = ""
    part: str = "account"
    status: int = 200

    @classmethod
    def of(cls, error: UserError, part: str) -> "Notice":
        """Return the notice of a change that was refused."""
        return cls(str(error), part=part, status=error.status)


@router.get("/account")
async def account(request: Request, session: Session, actor: Actor) -> HTMLResponse:
    """Show the account, or how to make the first one."""
    if not actor.is_account:
        return render(request, "accounts/none.html", {})
    return await _page(request, session, actor)


@router.post("/account/password")
async def password(
    request: Request, session: Session, actor: Account, current: Text = "", password: Text = "", again: Text = ""
) -> HTMLResponse:
    """Change the password; other browsers are signed out."""
    try:
        if password != again:
            return await _page(request, session, actor, Notice("The two new passwords differ.", "", "password", 422))
        await accounts.change_password(session, actor, current, password, secret=session_secret(request))
    except UserError as error:
        return await _page(request, session, actor, Notice.of(error, "password"))
    done = Notice("Your password is changed. You are signed out of every other browser.", part="password")
    return await _page(request, session, actor, done)


@router.post("/account/sessions/end")
async def end_other_sessions(request: Request, session: Session, actor: Account) -> Response:
    """Sign out of every other browser."""
    await accounts.end_other_sessions(session, actor, session_secret(request))
    return RedirectResponse("/account#browsers", status_code=303)


@router.post("/account/sessions/{id}/end")
async def end_session(id: int, session: Session, actor: Account) -> Response:
    """Sign out of one browser."""
    await accounts.end_own_session(session, actor, id)
    return RedirectResponse("/account#browsers", status_code=303)


@router.post("/account/tokens")
async def make_token(
    request: Request,
    session: Session,
    actor: Account,
    name: Text = "",
    scope: Annotated[Literal["read", "write"], Form()] = "read",
    days: Annotated[Literal["30", "90", "365", ""], Form()] = "90",
) -> HTMLResponse:
    """Make an API token, which the answer shows this once."""
    assert actor.person_id is not None
    lasts = timedelta(days=int(days)) if days else None
    try:
        token = await accounts.create_token(session, actor.person_id, name, scope=scope, lasts=lasts)
    except UserError as error:
        return await _page(request, session, actor, Notice.of(error, "tokens"))
    return await _page(request, session, actor, Notice("Copy the token now: it is not shown again.", token, "tokens"))


@router.post("/account/tokens/{id}/revoke")
async def revoke_token(id: int, session: Session, actor: Account) -> Response:
    """Revoke one of one's tokens."""
    await accounts.revoke_token(session, actor, id)
    return RedirectResponse("/account#tokens", status_code=303)


# --- for admins --------------------------------------------------------------------------------------------------


@router.post("/account/invitations")
async def invite(request: Request, session: Session, actor: Account, role: RoleName = "labeller") -> HTMLResponse:
    """Make an invitation, whose link the answer shows this once."""
    secret = await accounts.invite(session, Role[role], by=actor)
    link = f"{site_address(request)}/invitations/{secret}"
    made = f"{article(role)} {role}’s"
    text = f"Send this link to one person. It makes one account, {made}, within seven days, and is not shown again."
    return await _page(request, session, actor, Notice(text, link, "people"))


@router.post("/account/invitations/{id}/revoke")
async def revoke_invitation(id: int, session: Session, _actor: Account) -> Response:
    """Revoke an invitation that was not used."""
    await accounts.revoke_invitation(session, id)
    return RedirectResponse("/account#people", status_code=303)


@router.post("/account/people/{id}/role")
async def change_role(request: Request, id: int, session: Session, actor: Account, role: RoleName) -> Response:
    """Change the role of an account."""
    try:
        await accounts.change_role(session, id, Role[role])
    except UserError as error:
        return await _page(request, session, actor, Notice.of(error, "people"))
    return RedirectResponse("/account#people", status_code=303)


@router.post("/account/people/{id}/disable")
async def disable(request: Request, id: int, session: Session, actor: Account) -> Response:
    """Disable an account."""
    try:
        await accounts.disable_account(session, id)
    except UserError as error:
        return await _page(request, session, actor, Notice.of(error, "people"))
    return RedirectResponse("/account#people", status_code=303)


@router.post("/account/people/{id}/enable")
async def enable(id: int, session: Session, _actor: Account) -> Response:
    """Enable an account."""
    await accounts.enable_account(session, id)
    return RedirectResponse("/account#people", status_code=303)


@router.post("/account/people/{id}/link")
async def link(request: Request, id: int, session: Session, actor: Account) -> HTMLResponse:
    """Make a link with which a person sets their password."""
    try:
        secret = await accounts.invite_to_set_password(session, id, by=actor)
    except UserError as error:
        return await _page(request, session, actor, Notice.of(error, "people"))
    text = "Send this link to the person. It sets their password, once, within seven days, and is not shown again."
    shown = Notice(text, f"{site_address(request)}/invitations/{secret}", "people")
    return await _page(request, session, actor, shown)


@router.post("/account/claims")
async def claim(
    request: Request,
    session: Session,
    actor: Account,
    name: Annotated[int, Form()],
    account: Annotated[int, Form()],
) -> HTMLResponse:
    """Give what a name wrote to an account."""
    try:
        done = await claims.claim(session, name, account, by=actor)
    except UserError as error:
        return await _page(request, session, actor, Notice.of(error, "names"))
    text = f"{done.account} now has {plural(done.labels, 'label')} of {done.name}"
    text += f" and {plural(done.others, 'other thing')}." if done.others else "."
    if done.refused:
        text += f" {plural(done.refused, 'label')} stayed: {done.account} has one of their own of the same features."
    return await _page(request, session, actor, Notice(text, part="names"))


async def _page(request: Request, session: AsyncSession, actor: Actor, notice: Notice | None = None) -> HTMLResponse:
    assert actor.person_id is not None
    found = await people.get_account(session, actor.person_id)
    context: dict[str, Any] = {
        "has_password": found is not None and found[1] is not None,
        "sessions": await accounts.own_sessions(session, actor, session_secret(request)),
        "tokens": await people.list_tokens(session, actor.person_id),
        "lasts": _LASTS,
        "roles": ROLES,
        "role_texts": glossary.ROLES,
        "notice": notice,
        "is_admin": actor.role is Role.admin,
        "min_password": MIN_PASSWORD,
        "max_password": MAX_PASSWORD,
    }
    if context["is_admin"]:
        context |= {
            "accounts": await people.list_accounts(session),
            "invitations": await people.list_invitations(session),
            "names": await unclaimed_names(session),
        }
    page = render(request, "accounts/page.html", context, status=notice.status if notice else 200)
    page.headers["Cache-Control"] = "no-store"
    return page
