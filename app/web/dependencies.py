"""Dependencies of routes, by type: session, settings, actor, and the SAE and the feature that the address names.

All are coroutines: FastAPI calls a plain function in a thread, which takes longer than what these do.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import Headers

from app.db import transaction
from app.errors import Forbidden, NotFound, SignInNeeded
from app.queries.activity import acts_of
from app.queries.people import find_name, without_account
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import actors
from app.services.accounts import SESSION_LASTS, actor_of_session, actor_of_token
from app.services.inference import InferenceClient
from app.services.labels import tidy_name
from app.services.rate_limits import count_write
from app.services.saes import find_sae
from app.settings import Settings
from app.web.openai_errors import is_openai
from app.web.permissions import PUBLIC, changes_something, is_open_to_readers, least_role

_SESSION_COOKIE = "session"
_ATTEMPT_COOKIE = "sign_in"
_ATTEMPT_LASTS = 600
_SAE_COOKIE = "sae"
_YEAR = 365 * 24 * 3600


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with transaction(request.app.state.sessionmaker) as session:
        request.state.acts = acts_of(session)
        yield session


# scope="function" commits before the answer is sent: a failed commit is an error, not a 200.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]


BeforeId = Annotated[int | None, Query(ge=1, le=MAX_INTEGER, description="The last id of the previous page.")]
"""Of a list with the newest first; None asks for the first page."""


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _inference(request: Request) -> InferenceClient:
    client: InferenceClient = request.app.state.inference
    address = request.client.host if request.client else ""
    headers = request.headers
    sender = f"{address} {headers.get('cookie', '')} {headers.get('authorization', '')}"
    return client.for_client(request.receive, sender)


AppSettings = Annotated[Settings, Depends(_settings)]
Inference = Annotated[InferenceClient, Depends(_inference)]


async def _actor(request: Request, session: AsyncSession, settings: Settings) -> actors.Actor:
    """Return who makes the request: by its token, else by the browser's session, else by there being no accounts."""
    token = bearer_token(request.headers)
    if token is not None:
        actor = await actor_of_token(session, token)
        if actor is not None:
            return actor
        if not is_openai(request) or (await _without_token(session, settings)).role is actors.Role.anyone:
            raise SignInNeeded("This token is not valid: it was revoked, has expired, or was not copied whole.")
    elif secret := request.cookies.get(_SESSION_COOKIE):
        actor = await actor_of_session(session, secret)
        if actor is not None:
            return actor
    return await _without_token(session, settings)


async def _without_token(session: AsyncSession, settings: Settings) -> actors.Actor:
    """Return the actor of a site without accounts, else nobody.

    OpenAI's clients cannot leave out the key, so there any will do for them.
    """
    local = actors.local_actor(settings)
    accounts, person_id = await without_account(session, local.name)
    if accounts or (settings.is_shared and not settings.anyone_may_write):
        return actors.NOBODY
    return replace(local, person_id=person_id)


async def check_role(request: Request) -> None:
    """Refuse an actor whose role is too low for the route; a dependency of every route.

    Raises:
        SignInNeeded: nobody is signed in.
        Forbidden: the person who is may not do this.
        TooMany: they change more in a minute than the settings allow.
    """
    route = request.scope["route"]
    if route.path in PUBLIC:
        return
    settings: Settings = request.app.state.settings
    least = least_role(route, request.method)
    async with transaction(request.app.state.readers) as session:
        actor = await _actor(request, session, settings)
    request.state.actor = actor
    if actor.role >= least and changes_something(route, request.method):
        async with transaction(request.app.state.sessionmaker) as session:
            await _count_write(request, session, settings, actor)
    if actor.role >= least:
        return
    if actor.role is actors.Role.anyone:
        if settings.anyone_may_read and is_open_to_readers(route, request.method):
            return
        raise SignInNeeded("Sign in first: this site is for people with an account.")
    if bearer_token(request.headers) is not None:
        raise Forbidden(f"This needs the role {least.name}, and the token has the rights of a {actor.role.name}.")
    raise Forbidden(
        f"This needs the role {least.name}, and {actor.name} is a {actor.role.name}. An admin can change that."
    )


async def _count_write(request: Request, session: AsyncSession, settings: Settings, actor: actors.Actor) -> None:
    """Count a change, which those at this machine make without limit."""
    if actor.is_account:
        await count_write(session, f"person {actor.person_id}", settings.writes_per_minute)
    elif settings.is_shared:
        await count_write(session, f"from {address_of(request)}", settings.writes_per_minute)


def bearer_token(headers: Headers) -> str | None:
    """Return the API token of a request, None if it has none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def address_of(request: Request) -> str:
    """Return the address that a request comes from, behind a trusted proxy that of the browser."""
    return request.client.host if request.client else ""


def session_secret(request: Request) -> str:
    """Return the secret of the browser's session, which may have ended; empty if there is none."""
    return request.cookies.get(_SESSION_COOKIE, "")


def set_session(request: Request, response: Response, secret: str) -> None:
    """Let the browser be signed in, or, with an empty secret, signed out."""
    settings: Settings = request.app.state.settings
    https = settings.is_https or request.url.scheme == "https"
    lasts = int(SESSION_LASTS.total_seconds()) if secret else 0
    response.set_cookie(_SESSION_COOKIE, secret, max_age=lasts, httponly=True, samesite="lax", secure=https)


def set_attempt(request: Request, response: Response, attempt: str) -> None:
    """Let the browser keep what it needs when the sign-in provider sends it back; empty to forget it."""
    settings: Settings = request.app.state.settings
    lasts = _ATTEMPT_LASTS if attempt else 0
    response.set_cookie(
        _ATTEMPT_COOKIE,
        attempt,
        max_age=lasts,
        path="/sign-in",
        httponly=True,
        samesite="lax",
        secure=settings.is_https,
    )


def attempt_of(request: Request) -> str:
    """Return what `set_attempt` let the browser keep."""
    return request.cookies.get(_ATTEMPT_COOKIE, "")


def site_address(request: Request) -> str:
    """Return the address of this site, without a slash at its end."""
    settings: Settings = request.app.state.settings
    return settings.base_url or str(request.base_url).rstrip("/")


async def _account(request: Request) -> actors.Actor:
    """Return the actor, who signed in with an account in this browser.

    Raises:
        Forbidden: a program asks with a token, or the site has no accounts.
    """
    actor: actors.Actor = request.state.actor
    if bearer_token(request.headers) is not None:
        raise Forbidden("A token cannot change accounts: sign in with a browser.")
    if not actor.is_account:
        raise Forbidden("This site has no accounts yet. `seesae user add NAME --role admin` makes the first one.")
    return actor


async def _state_actor(request: Request) -> actors.Actor:
    actor: actors.Actor = getattr(request.state, "actor", actors.NOBODY)
    return actor


Actor = Annotated[actors.Actor, Depends(_state_actor)]
"""Who makes the request; `NOBODY` if nobody has signed in, on the routes that allow it."""
Account = Annotated[actors.Actor, Depends(_account)]
"""The account that is signed in, of a request that changes accounts."""


def may_submit(request: Request) -> bool:
    """True if the actor of this request may start, cancel and retry runs on this site."""
    settings: Settings = request.app.state.settings
    actor: actors.Actor = getattr(request.state, "actor", actors.NOBODY)
    by_default = actor.is_account or not settings.is_shared
    allowed = by_default if settings.submit_runs is None else settings.submit_runs
    return allowed and actor.role >= actors.Role.admin


async def _require_submitter(request: Request, actor: Actor) -> actors.Actor:
    """Return the actor, who may start, cancel and retry runs.

    Raises:
        Forbidden: nobody may on this site.
    """
    if not may_submit(request):
        raise Forbidden(
            "This site takes no runs from its visitors, because it listens beyond its own machine and runs read files "
            "of that machine. Whoever runs it can allow them with SEESAE_SUBMIT_RUNS=1; the command line always can."
        )
    return actor


Submitter = Annotated[actors.Actor, Depends(_require_submitter)]
"""The actor of a request that starts, cancels or retries a run."""


async def _reader(
    actor: Actor,
    session: Session,
    author: Annotated[str, Query(description="Whose drafts to include; by default the setting SEESAE_AUTHOR's.")] = "",
) -> actors.Actor:
    """Return the actor of an API request that only reads."""
    named = actor.named(author)
    if named is actor:
        return actor
    name = tidy_name("author", named.name)
    return replace(named, name=name, person_id=await find_name(session, name))


Reader = Annotated[actors.Actor, Depends(_reader)]


def remember_sae(request: Request, response: Response) -> None:
    """Set the cookie that names the SAE of this page, `request.state.sae`, if the page has one.

    It is the SAE that this browser looked at last, with which pages for all SAEs start.
    """
    slug = getattr(request.state, "sae", None)
    if slug is not None and quote(slug) != request.cookies.get(_SAE_COOKIE):
        response.set_cookie(_SAE_COOKIE, quote(slug), max_age=_YEAR, httponly=True, samesite="lax")


def last_sae(request: Request, saes: Sequence[SaeDetail]) -> SaeDetail | None:
    """Return the SAE with an index that this browser looked at last, else the newest, which is the first of `saes`."""
    indexed = [sae for sae in saes if sae.index]
    slug = unquote(request.cookies.get(_SAE_COOKIE, ""))
    return next((sae for sae in indexed if sae.slug == slug), indexed[0] if indexed else None)


async def _sae(
    request: Request,
    session: Session,
    sae: Annotated[str, Path(description="Slug of the SAE.", examples=["smollm2-135m-l9-batchtopk-4096"])],
) -> SaeDetail:
    found = await find_sae(session, sae)
    request.state.sae = found.slug
    return found


Sae = Annotated[SaeDetail, Depends(_sae)]


async def _feature_index(
    sae: Sae, index: Annotated[int, Path(description="Number of the feature, from 0.", examples=[1042])]
) -> int:
    if not 0 <= index < sae.d_sae:
        raise NotFound(
            f"{sae.slug} has no feature {_printable_number(index)}: its features are numbered 0 to {sae.d_sae - 1}."
        )
    return index


FeatureIndex = Annotated[int, Depends(_feature_index)]


def check_feature(sae: SaeDetail, text: str) -> int:
    """Return the number of the feature that a query string names.

    Raises:
        NotFound: the SAE has no such feature.
    """
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
    if number not in range(sae.d_sae):
        raise NotFound(f"{sae.slug} has no feature “{text[:20]}”: its features are numbered 0 to {sae.d_sae - 1}.")
    return number


def _printable_number(number: int) -> str:
    return str(number) if abs(number) < 10**12 else "of that number"
