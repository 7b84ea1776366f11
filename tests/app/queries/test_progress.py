"""How far a label set is, how fast, and what is stuck."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.queries.label_sets import ensure_set
from app.queries.people import ensure_name
from app.queries.progress import DAYS, set_progress
from app.tables import Label, LabelDraft, LabelLease, LabelRevision
from tests.factories import Synthetic
from tests.labelling import SHARED, label, label_together, make_set


async def test_progress_counts_and_what_is_stuck(engine: AsyncEngine, made: Synthetic) -> None:
    of = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    old = datetime.now(UTC) - timedelta(days=3)
    async with transaction(create_sessionmaker(engine)) as session:
        linus = await ensure_name(session, "linus")
        lease = {"set_id": of.id, "person_id": linus, "expires_at": func.now()}
        await session.execute(insert(LabelLease).values(**lease, feature=18, leased_at=old))
        await session.execute(insert(LabelLease).values(**lease, feature=19))
        draft = {"label_set_id": of.id, "person_id": linus, "fields": {}}
        await session.execute(insert(LabelDraft).values(**draft, feature=7, updated_at=old))
        await session.execute(insert(LabelDraft).values(**draft, feature=8))
        found = await set_progress(session, of)

    assert (found.features, found.done, found.started, found.left) == (24, SHARED + 1, SHARED + 2, 24 - SHARED - 1)
    assert (found.submitted, found.cant_tell, found.drafts) == (2 * SHARED + 6 + 3, 3, 3)
    assert [(person.name, person.submitted, person.cant_tell, person.drafts) for person in found.people] == [
        ("ada", SHARED + 2, 1, 0),
        ("grace", SHARED + 1, 1, 1),
        ("linus", 6, 1, 2),
    ]
    assert found.days[-1] == (datetime.now(UTC).date(), found.submitted)
    assert len(found.days) == DAYS and sum(labels for _, labels in found.days) == found.submitted
    assert [(entry.feature, entry.person, entry.since) for entry in found.held] == [(18, "linus", old)]
    assert [(entry.feature, entry.person) for entry in found.drafted] == [(7, "linus")]
    assert found.untold == (20,)


async def test_pace_is_the_median_between_first_submissions_without_pauses(
    engine: AsyncEngine, made: Synthetic
) -> None:
    start = datetime.now(UTC).replace(hour=9) - timedelta(days=2)  # what comes three hours later is of the same day
    async with transaction(create_sessionmaker(engine)) as session:
        of = await ensure_set(session, made.sae.id)
        seconds = 0
        for feature, took in enumerate((0, 20, 40, 3 * 3600, 60)):
            seconds += took
            written = await label(session, made.sae, feature, "ada", "dates", label_set="default")
            at = {"changed_at": start + timedelta(seconds=seconds)}
            await session.execute(update(LabelRevision).where(LabelRevision.label_id == written.id).values(at))
        await label(session, made.sae, 0, "ada", "a later change", label_set="default", version=1)
        await label(session, made.sae, 1, "grace", "dates", label_set="default")
        found = await set_progress(session, of)
        assert await session.scalar(select(func.count()).select_from(Label)) == 6
    assert (found.features, found.left) == (None, None)
    assert [(person.name, person.seconds) for person in found.people] == [("ada", 40), ("grace", None)]
    assert dict(found.days)[start.date()] >= 4


async def test_an_empty_set_has_no_progress(engine: AsyncEngine, made: Synthetic) -> None:
    of = await make_set(engine, made.sae)
    async with transaction(create_sessionmaker(engine)) as session:
        found = await set_progress(session, of)
    assert (found.submitted, found.done, found.left, found.people, found.untold) == (0, 0, 24, (), ())
    assert {labels for _, labels in found.days} == {0}
