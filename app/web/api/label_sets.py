"""Label sets, and the flow of labelling them: the next feature, passing over, taking back, drafts."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.problems import documented
from app.queries import label_flow
from app.queries import label_sets as queries
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import label_flow as flow
from app.services.actors import ensure_person
from app.services.label_sets import GuidelineText, Rules, change_set, create_set, find_label_set
from app.services.saes import find_sae
from app.web.components.label_models import DraftIn, LabelOut
from app.web.components.label_set_models import (
    AskedOut,
    GuidelineIn,
    GuidelineOut,
    LabelSetChange,
    LabelSetDetail,
    LabelSetIn,
    LabelSetList,
    LabelSetOut,
)
from app.web.dependencies import Actor, Session
from app.web.versions import read_version

router = APIRouter(prefix="/api/v1/labelsets", tags=["Label sets"])

SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
FeatureNumber = Annotated[int, Path(ge=0, le=MAX_INTEGER)]


class NextIn(BaseModel):
    """What the person has on the screen."""

    model_config = ConfigDict(extra="forbid")

    besides: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_INTEGER)]],
        Field(max_length=flow.MAX_BESIDES, description="Features not to give again; they stay the person's."),
    ] = []


class NextOut(BaseModel):
    """The feature to label next, the person's alone until the lease ends; null if there is none for them just now."""

    sae: str
    feature: int | None
    expires_at: datetime | None
    mine: Annotated[int, Field(description="Labels that they submitted in this set.")]
    left: Annotated[int, Field(description="Features that they can still label.")]
    per_hour: Annotated[float | None, Field(description="Their labels per hour, over the last hour.")]


class SkipIn(BaseModel):
    """A feature to pass over."""

    model_config = ConfigDict(extra="forbid")

    feature: Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class UndoneOut(BaseModel):
    """The feature that the person has before them again; null if they did nothing that can be undone."""

    feature: int | None
    label: LabelOut | None


@router.get("", summary="Label sets", responses=documented(404))
async def list_label_sets(
    session: Session, sae: Annotated[str | None, Query(description="Slug of an SAE: only its sets.")] = None
) -> LabelSetList:
    """Return label sets with how far they are, newest first; each SAE's default set comes last."""
    of = await find_sae(session, sae) if sae is not None else None
    found = await queries.list_sets(session, sae_id=of.id if of else None)
    return LabelSetList(labelsets=[LabelSetOut.of(summary) for summary in found])


@router.post("", status_code=201, summary="Make a label set", responses=documented(404, 409))
async def make_label_set(body: LabelSetIn, session: Session, actor: Actor, response: Response) -> LabelSetDetail:
    """Make a set, with the features of its scope. They stay: a filter is read once.

    With `people`, the features are dealt out to them, each to as many as labels are needed.
    """
    sae = await find_sae(session, body.sae)
    made = await create_set(
        session,
        sae,
        actor=actor,
        rules=Rules(body.name, body.needed, body.blind, body.order),
        guideline=_guideline(body.guideline),
        scope=body.scope.scope(),
        people=body.people,
    )
    response.headers["Location"] = f"/api/v1/labelsets/{made.id}"
    return await _detail(session, made.id)


@router.get("/{id}", summary="One label set", responses=documented(404))
async def get_label_set(id: SetId, session: Session) -> LabelSetDetail:
    """Return a set with its rules, every version of its guideline, and how far it is."""
    return await _detail(session, id)


@router.put("/{id}", summary="Change a label set", responses=documented(404, 409))
async def change_label_set(
    id: SetId,
    body: LabelSetChange,
    session: Session,
    actor: Actor,
    if_match: Annotated[
        str | None, Header(description='The version of the guideline that was read, as 3 or "3"; omit it for a first.')
    ] = None,
) -> LabelSetDetail:
    """Change rules or guideline, close a set or open it again. Its features stay.

    Closing a blind set shows everybody its labels. A guideline becomes the next version; if another version than that
    of `If-Match` is current, nothing is changed and the answer is 409.
    """
    summary, _ = await find_label_set(session, id)
    old = Rules(summary.set.name, summary.set.needed, summary.set.blind, summary.set.order)
    given = {name: value for name in ("name", "needed", "blind", "order") if (value := getattr(body, name)) is not None}
    await change_set(
        session,
        id,
        actor=actor,
        rules=replace(old, **given) if given else None,
        guideline=_guideline(body.guideline) if body.guideline is not None else None,
        guideline_read=None if if_match is None else read_version(if_match, "guideline"),
        people=body.people,
        is_closed=body.closed,
    )
    return await _detail(session, id)


@router.post("/{id}/next", summary="The next feature to label", responses=documented(404, 409))
async def next_feature(id: SetId, session: Session, actor: Actor, body: NextIn | None = None) -> NextOut:
    """Lease the next feature: it is yours alone for ten minutes, and longer while you type.

    Asked again, it gives the same one until you label it or pass it over. You never get a feature that you have
    labelled, nor one that has as many labels as the set needs.
    """
    summary, sae = await find_label_set(session, id)
    lease = await flow.next_feature(session, sae, summary.set, actor, besides=body.besides if body else ())
    progress = await label_flow.flow_progress(session, summary.set, await ensure_person(session, actor))
    return NextOut(
        sae=sae.slug,
        feature=lease.feature if lease else None,
        expires_at=lease.expires_at if lease else None,
        mine=progress.mine,
        left=progress.left,
        per_hour=progress.per_hour,
    )


@router.post("/{id}/skip", status_code=204, summary="Pass a feature over", responses=documented(404, 409))
async def skip_feature(id: SetId, body: SkipIn, session: Session, actor: Actor) -> None:
    """Pass a feature over: it comes back to you last, and others can get it at once."""
    summary, _ = await find_label_set(session, id)
    await flow.skip(session, summary.set, body.feature, actor)


@router.post("/{id}/undo", summary="Take back what you did last", responses=documented(404, 409))
async def undo(id: SetId, session: Session, actor: Actor) -> UndoneOut:
    """Take back your last label in this set, or that you passed a feature over, and get that feature again.

    The label gets a revision that reads as the one before; a label that was new becomes discarded. Asked again, it goes
    further back, to other features too, as far as twelve hours.
    """
    summary, _ = await find_label_set(session, id)
    undone = await flow.take_back(session, summary.set, actor)
    if undone is None:
        return UndoneOut(feature=None, label=None)
    return UndoneOut(feature=undone.feature, label=LabelOut.of(undone.label) if undone.label else None)


@router.put(
    "/{id}/features/{feature}/draft",
    status_code=204,
    summary="Keep what you are typing",
    responses=documented(404, 409),
)
async def keep_draft(id: SetId, feature: FeatureNumber, body: DraftIn, session: Session, actor: Actor) -> None:
    """Keep an unfinished label for yourself, and your lease of the feature; submitting the label removes it."""
    summary, _ = await find_label_set(session, id)
    await flow.keep_draft(session, summary.set, feature, actor, body.model_dump())


@router.get("/{id}/features/{feature}/draft", summary="What you were typing", responses=documented(404))
async def get_draft(id: SetId, feature: FeatureNumber, session: Session, actor: Actor) -> DraftIn:
    """Return your own unfinished label of a feature."""
    summary, _ = await find_label_set(session, id)
    fields = await label_flow.get_draft(session, summary.set.id, feature, actor.person_id)
    if fields is None:
        raise NotFound("You have no draft of this feature.")
    return DraftIn.model_validate(fields)


async def _detail(session: AsyncSession, set_id: int) -> LabelSetDetail:
    summary, _ = await find_label_set(session, set_id)
    versions = [GuidelineOut.of(view) for view in await queries.list_guidelines(session, set_id)]
    asked = [AskedOut(person=name, features=count) for name, count in await queries.list_assignments(session, set_id)]
    return LabelSetDetail(
        **LabelSetOut.fields_of(summary), guideline=versions[0] if versions else None, guidelines=versions, people=asked
    )


def _guideline(given: GuidelineIn) -> GuidelineText:
    return GuidelineText(given.text, tuple(given.categories))
