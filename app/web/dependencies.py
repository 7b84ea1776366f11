"""Dependencies of routes, by type: session, settings, actor, and the SAE and the feature that the address names.

All are coroutines: FastAPI calls a plain function in a thread, which takes longer than what these do.
"""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import Depends, Form, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import get_session
from app.errors import Forbidden, NotFound
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import actors
from app.services.inference import InferenceClient
from app.services.labels import MAX_NAME, tidy_name
from app.services.saes import find_sae
from app.services.texts import one_line
from app.settings import Settings, is_loopback

_ACTOR_COOKIE = "author"
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


async def _actor(request: Request, settings: AppSettings) -> actors.Actor:
    """Return the actor: on a page the name that this browser remembers, else the owner of the installation.

    Programs name the actor in each request, so the API ignores cookies.
    """
    local = actors.local_actor(settings)
    if request.url.path.startswith("/api/"):
        return local
    return local.named(one_line(unquote(request.cookies.get(_ACTOR_COOKIE, ""))[:MAX_NAME]))


Actor = Annotated[actors.Actor, Depends(_actor)]


def may_submit(settings: Settings) -> bool:
    """True if visitors of this site may start, cancel and retry runs."""
    return is_loopback(settings.host) if settings.submit_runs is None else settings.submit_runs


async def _require_submitter(settings: AppSettings, actor: Actor) -> actors.Actor:
    """Return the actor, who may start, cancel and retry runs.

    Raises:
        Forbidden: nobody may on this site.
    """
    if not may_submit(settings):
        raise Forbidden(
            "This site takes no runs from its visitors, because it listens beyond its own machine and runs read files "
            "of that machine. Whoever runs it can allow them with SEESAE_SUBMIT_RUNS=1; the command line always can."
        )
    return actor


Submitter = Annotated[actors.Actor, Depends(_require_submitter)]
"""The actor of a request that starts, cancels or retries a run."""


async def _form_actor(actor: Actor, author: Annotated[str, Form()] = "") -> actors.Actor:
    """Return the actor that the form's field `author` names, or the default actor if it is empty."""
    return actor.named(one_line(author))


FormActor = Annotated[actors.Actor, Depends(_form_actor)]


async def _reader(
    actor: Actor,
    author: Annotated[str, Query(description="Whose drafts to include; by default the setting SEESAE_AUTHOR's.")] = "",
) -> actors.Actor:
    """Return the actor of an API request that only reads."""
    return actors.Actor(tidy_name("author", actor.named(author).name))


Reader = Annotated[actors.Actor, Depends(_reader)]


def remember_actor(response: Response, actor: actors.Actor) -> None:
    """Set the cookie that names the actor in later requests."""
    response.set_cookie(_ACTOR_COOKIE, quote(actor.name), max_age=_YEAR, httponly=True, samesite="lax")


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
