"""Saved edits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.models import ModelInfo, model_info
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json
from app.tables import LanguageModel, SavedEdit, SavedEditSae


@dataclass(frozen=True, slots=True)
class EditSae:
    """An SAE that an edit changes features of; `id` is None once it was deleted."""

    slug: str
    id: int | None


@dataclass(frozen=True, slots=True)
class EditView:
    """A saved edit, without its file. The JSON values are as `app.services.edits` defines them."""

    id: int
    name: str
    title: str
    author: str
    owner_id: int
    notes: str
    model: ModelInfo
    saes: tuple[EditSae, ...]
    interventions: tuple[Mapping[str, Any], ...]
    prompts: tuple[Mapping[str, Any], ...]
    checks: Mapping[str, Any]
    measured: Mapping[str, Any] | None
    measured_at: datetime | None
    run_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEdit:
    """An edit to store; `saes` are ids and slugs, the first one first."""

    title: str
    author: str
    owner_id: int
    notes: str
    model_id: int
    saes: Sequence[tuple[int, str]]
    interventions: Sequence[Mapping[str, Any]]
    prompts: Sequence[Mapping[str, Any]]
    checks: Mapping[str, Any]
    file: str


async def add_edit(session: AsyncSession, name: str, new: NewEdit) -> bool:
    """Store an edit; False if there is one of this name."""
    row = {
        "name": name,
        "title": new.title,
        "author": new.author,
        "owner_id": new.owner_id,
        "notes": new.notes,
        "model_id": new.model_id,
        "interventions": clean_json(list(new.interventions)),
        "prompts": clean_json(list(new.prompts)),
        "checks": clean_json(new.checks),
        "file": new.file,
    }
    number = await session.scalar(insert(SavedEdit).values(row).on_conflict_do_nothing().returning(SavedEdit.id))
    if number is None:
        return False
    saes = [
        {"edit_id": number, "place": place, "sae_id": sae_id, "slug": slug}
        for place, (sae_id, slug) in enumerate(new.saes)
    ]
    await session.execute(insert(SavedEditSae).values(saes))
    return True


async def get_edit(session: AsyncSession, name: str) -> EditView | None:
    """Return an edit."""
    return next(iter(await _edits(session, select(SavedEdit).where(SavedEdit.name == name))), None)


async def list_edits(
    session: AsyncSession, *, limit: int, before: int | None = None, sae_id: int | None = None
) -> tuple[list[EditView], int | None]:
    """Return the newest edits and where the next page begins; those older than the edit `before`, of one SAE or all."""
    query = select(SavedEdit).order_by(SavedEdit.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(SavedEdit.id < before)
    if sae_id is not None:
        query = query.where(SavedEdit.id.in_(select(SavedEditSae.edit_id).where(SavedEditSae.sae_id == sae_id)))
    found, more = one_page(await _edits(session, query), limit)
    return found, found[-1].id if more else None


async def edit_file(session: AsyncSession, name: str) -> str | None:
    """Return the file that `sae_core.apply_edits` reads, as it was saved."""
    return await session.scalar(select(SavedEdit.file).where(SavedEdit.name == name))


async def change_edit(session: AsyncSession, name: str, *, title: str, notes: str, checks: Mapping[str, Any]) -> None:
    """Change what may change: its title, notes and checks."""
    values = {"title": title, "notes": notes, "checks": clean_json(checks)}
    await session.execute(update(SavedEdit).where(SavedEdit.name == name).values(values))


async def put_measurement(session: AsyncSession, edit_id: int, run_id: int, measured: Mapping[str, Any]) -> bool:
    """Store what a run measured; False if the edit is gone."""
    values = {"measured": clean_json(measured), "measured_at": func.now(), "run_id": run_id}
    changed = update(SavedEdit).where(SavedEdit.id == edit_id).values(values).returning(SavedEdit.id)
    return await session.scalar(changed) is not None


async def delete_edit(session: AsyncSession, name: str) -> None:
    """Delete an edit."""
    await session.execute(delete(SavedEdit).where(SavedEdit.name == name))


async def edits_of_sae(session: AsyncSession, sae_id: int) -> int:
    """Return the number of edits that change features of an SAE."""
    return await session.scalar(select(func.count()).where(SavedEditSae.sae_id == sae_id)) or 0


async def edits_of_model(session: AsyncSession, model_id: int) -> int:
    """Return the number of edits of a model."""
    return await session.scalar(select(func.count()).where(SavedEdit.model_id == model_id)) or 0


async def _edits(session: AsyncSession, query: Any) -> list[EditView]:
    rows = list(await session.scalars(query))
    saes = await session.scalars(
        select(SavedEditSae).where(SavedEditSae.edit_id.in_([row.id for row in rows])).order_by(SavedEditSae.place)
    )
    own: dict[int, list[EditSae]] = {}
    for sae in saes:
        own.setdefault(sae.edit_id, []).append(EditSae(sae.slug, sae.sae_id))
    known = await session.scalars(select(LanguageModel).where(LanguageModel.id.in_({row.model_id for row in rows})))
    models = {model.id: model_info(model) for model in known}
    return [_view(row, models[row.model_id], own.get(row.id, [])) for row in rows]


def _view(row: SavedEdit, model: ModelInfo, saes: Sequence[EditSae]) -> EditView:
    return EditView(
        id=row.id,
        name=row.name,
        title=row.title,
        author=row.author,
        owner_id=row.owner_id,
        notes=row.notes,
        model=model,
        saes=tuple(saes),
        interventions=tuple(row.interventions),
        prompts=tuple(row.prompts),
        checks=row.checks,
        measured=row.measured,
        measured_at=row.measured_at,
        run_id=row.run_id,
        created_at=row.created_at,
    )
