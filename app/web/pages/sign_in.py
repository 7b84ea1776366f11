"""Signing in and out, with a password or a provider, and the page that an invitation leads to."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, TooMany, Unprocessable, UserError
from app.services import accounts, oidc
from app.services.passwords import MAX_PASSWORD, MIN_PASSWORD
from app.services.rate_limits import count_sign_in, forget_sign_in
from app.web.components.browsers import browser_name
from app.web.dependencies import (
    Actor,
    AppSettings,
    Session,
    address_of,
    attempt_of,
    session_secret,
    set_attempt,
    set_session,
    site_address,
)
from app.web.rendering import render
from app.web.return_address import safe_return

router = APIRouter()

_WRONG = "Name or password is wrong, or the account is disabled."

Text = Annotated[str, Form()]


@router.get("/sign-in")
async def ask(request: Request, actor: Actor, settings: AppSettings, next: str = "/") -> Response:
    """Ask for name and password, if there is anything to sign in to."""
    if not actor.site_has_accounts:
        return RedirectResponse("/account", status_code=303)
    if actor.is_account:
        return RedirectResponse(safe_return(next), status_code=303)
    return _page(request, settings, next)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    session: Session,
    settings: AppSettings,
    name: Text = "",
    password: Text = "",
    next: Text = "/",
) -> Response:
    """Sign a person in. On an error the answer is the form with the name as it was sent."""
    try:
        await count_sign_in(request.app.state.sessionmaker, name, address_of(request))
    except TooMany as error:
        page = _page(request, settings, next, name=name, error=error)
        page.headers["Retry-After"] = str(error.retry_after)
        return page
    person = await accounts.check_sign_in(session, name, password)
    if person is None:
        return _page(request, settings, next, name=name, error=Unprocessable(_WRONG))
    await forget_sign_in(session, name)
    return await _signed_in(request, session, person.id, next)


@router.post("/sign-out")
async def sign_out(request: Request, session: Session) -> Response:
    """Sign this browser out."""
    await accounts.end_session(session, session_secret(request))
    response = RedirectResponse("/sign-in", status_code=303)
    set_session(request, response, "")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


@router.get("/sign-in/provider")
async def leave_for_provider(request: Request, settings: AppSettings, next: str = "/") -> Response:
    """Send the browser to the sign-in provider."""
    address, attempt = await oidc.begin(_provider(settings), _return_address(request), safe_return(next))
    response = RedirectResponse(address, status_code=303, headers={"Cache-Control": "no-store"})
    set_attempt(request, response, attempt.encoded())
    return response


@router.get("/sign-in/provider/return")
async def return_from_provider(
    request: Request, session: Session, settings: AppSettings, code: str = "", state: str = ""
) -> Response:
    """Sign in whoever comes back from the provider."""
    provider = _provider(settings)
    next = "/"
    try:
        attempt = oidc.Attempt.decoded(attempt_of(request))
        next = attempt.next
        claims = await oidc.identify(provider, _return_address(request), attempt, code=code, state=state)
        person = await oidc.account_of(session, claims, settings)
    except UserError as error:
        response: Response = _page(request, settings, next, error=error)
    else:
        response = await _signed_in(request, session, person.id, next)
    set_attempt(request, response, "")
    return response


@router.get("/invitations/{secret}")
async def invitation(request: Request, secret: str, session: Session) -> HTMLResponse:
    """Ask for the name and the password of a new account, or for the new password of one."""
    return await _invitation(request, session, secret)


@router.post("/invitations/{secret}")
async def accept(
    request: Request, secret: str, session: Session, name: Text = "", password: Text = "", again: Text = ""
) -> Response:
    """Make the account, or set its password, and sign in."""
    try:
        if password != again:
            raise Unprocessable("The two passwords differ: type the same one twice.")
        person_id = await accounts.accept_invitation(session, secret, name=name, password=password)
    except NotFound:
        raise
    except UserError as error:
        return await _invitation(request, session, secret, name=name, error=error)
    return await _signed_in(request, session, person_id, "/")


async def _invitation(
    request: Request, session: AsyncSession, secret: str, *, name: str = "", error: UserError | None = None
) -> HTMLResponse:
    found = await accounts.find_invitation(session, secret)
    context = {
        "invitation": found,
        "address": f"/invitations/{secret}",
        "name": name,
        "error": str(error or ""),
        "min_password": MIN_PASSWORD,
        "max_password": MAX_PASSWORD,
    }
    return _private(render(request, "accounts/invitation.html", context, status=error.status if error else 200))


async def _signed_in(request: Request, session: AsyncSession, person_id: int, next: str) -> Response:
    browser = browser_name(request.headers.get("user-agent", ""))
    secret = await accounts.start_session(session, person_id, browser=browser, replaced=session_secret(request))
    response = RedirectResponse(safe_return(next), status_code=303)
    set_session(request, response, secret)
    return response


def _page(
    request: Request, settings: AppSettings, next: str, *, name: str = "", error: UserError | None = None
) -> HTMLResponse:
    provider = oidc.Provider.of(settings)
    context: dict[str, Any] = {
        "next": safe_return(next),
        "name": name,
        "error": str(error or ""),
        "provider": provider,
        "leave": f"/sign-in/provider?{urlencode({'next': safe_return(next)})}",
        "max_password": MAX_PASSWORD,
    }
    return _private(render(request, "accounts/sign_in.html", context, status=error.status if error else 200))


def _private(page: HTMLResponse) -> HTMLResponse:
    page.headers["Cache-Control"] = "no-store"
    return page


def _provider(settings: AppSettings) -> oidc.Provider:
    provider = oidc.Provider.of(settings)
    if provider is None:
        raise NotFound("This site has no sign-in provider: SEESAE_OIDC_ISSUER and SEESAE_OIDC_CLIENT_ID name one.")
    return provider


def _return_address(request: Request) -> str:
    return f"{site_address(request)}/sign-in/provider/return"
