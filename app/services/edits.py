"""Rules of saved edits.

What an edit does never changes, so a link to it stays true; its title, notes and checks may. An edit is
its owner's, as with lists.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries import edits as queries
from app.queries.edits import EditView, NewEdit
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import storable
from app.services.actors import Actor, ensure_person
from app.services.generation import saes_to_change
from app.services.inference import InferenceClient
from app.services.inference_messages import EditRequest, InterventionChoice, PlacedIntervention, SaeRef
from app.services.labels import tidy_name
from app.services.texts import trim, unix_lines

MAX_INTERVENTIONS = 64
MAX_NOTES = 4_000
MAX_PROMPTS = 50
MAX_CHECKS = 100
"""Per list."""
MAX_TEXT = 20_000
"""Characters of a prompt, or of what a model writes."""

_LONGEST_NAME = 60
_SAME_NAMES = 1_000

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EditIntervention(InterventionChoice):
    """One change of a feature or a direction, and the SAE that it is about."""

    sae: Annotated[str | None, Field(description="Another SAE of the same model; null for the edit's own.")] = None

    def placed(self, place: int) -> PlacedIntervention:
        """Return it for the inference process."""
        return PlacedIntervention(**self.model_dump(exclude={"sae"}), sae=place)


class EditPrompt(_Body):
    """A prompt, and what the model writes after it."""

    text: Text
    before: Annotated[str, Field(max_length=MAX_TEXT, description="As the model is.")] = ""
    after: Annotated[str, Field(max_length=MAX_TEXT, description="With the edit.")] = ""


class FactCheck(_Body):
    """A prompt, and what the edited model should and should not continue it with."""

    prompt: Text
    expected: Text
    forbidden: Annotated[str | None, Field(min_length=1, max_length=MAX_TEXT)] = None


class Checks(_Body):
    """The prompts on which an edit of a fact is measured."""

    prompts: Annotated[
        list[FactCheck], Field(max_length=MAX_CHECKS, description="That the edit was made for: efficacy.")
    ] = []
    paraphrases: Annotated[list[FactCheck], Field(max_length=MAX_CHECKS, description="The same in other words.")] = []
    neighbours: Annotated[list[FactCheck], Field(max_length=MAX_CHECKS, description="Facts that must stay.")] = []
    control: Annotated[
        list[Text],
        Field(max_length=MAX_CHECKS, description="Unrelated prompts; a list that SeeSAE has where none is given."),
    ] = []


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An edit that somebody wants to save."""

    title: str
    interventions: Sequence[EditIntervention]
    prompts: Sequence[EditPrompt] = ()
    checks: Checks = field(default_factory=Checks)
    notes: str = ""


async def save_edit(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, draft: Draft, *, actor: Actor
) -> EditView:
    """Keep interventions under a name that is made from the title; the inference process writes the file.

    Args:
        sae: of the interventions that name no other.

    Raises:
        Unprocessable: something of it makes no sense, or cannot be stored.
        NotFound: there is no such SAE.
        NoWeights: an SAE was imported as statistics only.
        InferenceDown: the inference process does not answer.
    """
    title, author, notes = tidy_name("edit", draft.title), tidy_name("author", actor.name), _tidy_notes(draft.notes)
    _check_storable([*draft.prompts, draft.checks, *draft.interventions])
    if not 0 < len(draft.interventions) <= MAX_INTERVENTIONS:
        raise Unprocessable(f"An edit has 1 to {MAX_INTERVENTIONS} interventions.")
    slugs = list(dict.fromkeys(one.sae or sae.slug for one in draft.interventions))
    saes = await saes_to_change(session, sae, slugs)
    await session.commit()  # the model may have to be loaded: no connection is held for that long
    placed = [one.placed(slugs.index(one.sae or sae.slug)) for one in draft.interventions]
    request = EditRequest(saes=[SaeRef.of(one) for one in saes], name=title, interventions=placed)
    file = (await inference.edit(request)).file  # before the first write, which would hold a connection meanwhile
    new = NewEdit(
        title=title,
        author=author,
        owner_id=await ensure_person(session, replace(actor, name=author)),
        notes=notes,
        model_id=saes[0].model.id,
        saes=[(one.id, one.slug) for one in saes],
        interventions=[one.model_dump(mode="json") | {"sae": one.sae or sae.slug} for one in draft.interventions],
        prompts=[one.model_dump() for one in draft.prompts],
        checks=draft.checks.model_dump(),
        file=file,
    )
    return await find_edit(session, await _add(session, new))


async def _add(session: AsyncSession, new: NewEdit) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", new.title.lower())[:_LONGEST_NAME].strip("-") or "edit"
    for number in range(1, _SAME_NAMES):
        name = stem if number == 1 else f"{stem}-{number}"
        if await queries.add_edit(session, name, new):
            return name
    raise Unprocessable(f"There are {_SAME_NAMES:,} edits named “{stem}”. Give this one another title.")


async def find_edit(session: AsyncSession, name: str) -> EditView:
    """Return an edit.

    Raises:
        NotFound: there is none, or it was deleted.
    """
    found = await queries.get_edit(session, name) if storable(name) else None
    if found is None:
        raise NotFound(f"There is no edit “{name[:80]}”. It may have been deleted. All edits are at /edits.")
    return found


async def change_edit(
    session: AsyncSession, name: str, *, actor: Actor, title: str, notes: str, checks: Checks
) -> EditView:
    """Change title, notes and checks; what the edit does and its name stay.

    Raises:
        NotFound: there is no such edit.
        Forbidden: it is somebody else's.
        Unprocessable: they cannot be stored.
    """
    await _edit_to_change(session, name, actor)
    _check_storable([checks])
    title = tidy_name("edit", title)
    await queries.change_edit(session, name, title=title, notes=_tidy_notes(notes), checks=checks.model_dump())
    return await find_edit(session, name)


async def delete_edit(session: AsyncSession, name: str, *, actor: Actor) -> None:
    """Delete an edit, for good.

    Raises:
        NotFound: there is none.
        Forbidden: it is somebody else's.
    """
    await _edit_to_change(session, name, actor)
    await queries.delete_edit(session, name)


async def _edit_to_change(session: AsyncSession, name: str, actor: Actor) -> None:
    edit = await find_edit(session, name)
    actor.check_change(edit.owner_id, "This edit", edit.author)


async def edit_file(session: AsyncSession, edit: EditView) -> dict[str, Any]:
    """Return the file that `sae_core.apply_edits` reads, with the evidence, which it passes over."""
    saved = await queries.edit_file(session, edit.name)
    assert saved is not None
    evidence = {
        "title": edit.title,
        "author": edit.author,
        "created_at": edit.created_at.isoformat(),
        "notes": edit.notes,
        "prompts": list(edit.prompts),
        "checks": edit.checks,
        "measured": edit.measured,
    }
    return {**json.loads(saved), "evidence": evidence}


def _tidy_notes(notes: str) -> str:
    notes = trim(unix_lines(notes))
    if len(notes) > MAX_NOTES or not storable(notes):
        raise Unprocessable(f"Notes may have {MAX_NOTES:,} characters, and no NUL.")
    return notes


def _check_storable(bodies: Sequence[BaseModel]) -> None:
    if not all(_is_storable(body.model_dump(mode="python")) for body in bodies):
        raise Unprocessable("A prompt has a NUL or half a character, which cannot be stored: remove it, then save.")


def _is_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_storable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_storable, value))
    return not isinstance(value, str) or storable(value)
