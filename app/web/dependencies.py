"""Dependencies of routes, by type: session, settings, actor, and the SAE and the feature that the address names.

All are coroutines: FastAPI calls a plain function in a thread, which takes longer than what these do.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import get_session, transaction
from app.errors import Forbidden, NotFound, SignInNeeded
from app.queries.people import find_name, without_account
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import actors
from app.services.accounts import actor_of_session, actor_of_token
from app.services.inference import InferenceClient
from app.services.labels import tidy_name
from app.services.saes import find_sae
from app.settings import Settings, is_loopback
from app.web.permissions import least_role

_SESSION_COOKIE = "session"
_SAE_COOKIE = "sae"
_YEAR = 365 * 24 * 3600

# scope="function" commits before the answer is sent: a failed commit is an error, not a 200.
Session = Annotated[AsyncSession, Depends(get_session, scope="function")]


BeforeId = Annotated[int | None, Query(ge=1, le=MAX_INTEGER, description="The last id of the previous page.")]
"""Of a list with the newest first; None asks for the first page."""


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _inference(request: Request) -> InferenceClient:
    client: InferenceClient = request.app.state.inference
    address = request.client.host if request.client else ""
    return client.for_client(request.receive, f"{address} {request.headers.get('cookie', '')}")


AppSettings = Annotated[Settings, Depends(_settings)]
Inference = Annotated[InferenceClient, Depends(_inference)]


async def _actor(request: Request, session: AsyncSession, settings: Settings) -> actors.Actor:
    """Return who makes the request: by its token, else by the browser's session, else by there being no accounts."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        actor = await actor_of_token(session, token.strip())
        if actor is None:
            raise SignInNeeded("This token is not valid: it was revoked, has expired, or was not copied whole.")
        return actor
    if secret := request.cookies.get(_SESSION_COOKIE):
        actor = await actor_of_session(session, secret)
        if actor is not None:
            return actor
    local = actors.local_actor(settings)
    accounts, person_id = await without_account(session, local.name)
    return actors.NOBODY if accounts else replace(local, person_id=person_id)


async def check_role(request: Request) -> None:
    """Refuse an actor whose role is too low for the route; a dependency of every route.

    Raises:
        SignInNeeded: nobody is signed in.
        Forbidden: the person who is may not do this.
    """
    least = least_role(request.scope["route"], request.method)
    if least is actors.Role.anyone:
        return
    settings: Settings = request.app.state.settings
    async with transaction(request.app.state.sessionmaker) as session:
        actor = await _actor(request, session, settings)
    request.state.actor = actor
    if actor.role < least:
        if actor.role is actors.Role.anyone:
            raise SignInNeeded("Sign in first: this site is for people with an account.")
        raise Forbidden(
            f"This needs the role {least.name}, and {actor.name} is a {actor.role.name}. An admin can change that."
        )


async def _state_actor(request: Request) -> actors.Actor:
    actor: actors.Actor = getattr(request.state, "actor", actors.NOBODY)
    return actor


Actor = Annotated[actors.Actor, Depends(_state_actor)]
"""Who makes the request; `NOBODY` on the routes that need no sign-in."""


def may_submit(request: Request) -> bool:
    """True if the actor of this request may start, cancel and retry runs on this site."""
    settings: Settings = request.app.state.settings
    actor: actors.Actor = getattr(request.state, "actor", actors.NOBODY)
    by_default = actor.is_account or is_loopback(settings.host)
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
