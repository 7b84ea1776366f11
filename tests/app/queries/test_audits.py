"""Audits as they are stored and read."""

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.audits import delete_audit, get_audit, list_audits, raw_values
from app.services.audit_results import AuditResult
from app.tables import Sae
from tests.audits import RAW, add_audit, audited
from tests.factories import Synthetic, add_run


async def test_an_audit_comes_back_and_outlives_its_sae(session: AsyncSession, made: Synthetic) -> None:
    runs = [(await add_run(session)).id for _ in range(3)]
    ids = [await add_audit(session, made.sae, run) for run in runs]
    again = await add_audit(session, made.sae, runs[0], measure=audited().measure.model_dump() | {"value": 0.7})
    assert again == ids[0]
    page, before = await list_audits(session, limit=2, sae_id=made.sae.id)
    rest, end = await list_audits(session, limit=2, before=before)
    assert ([one.id for one in (*page, *rest)], end) == (ids[::-1], None)
    assert (rest[0].score, rest[0].interval, rest[0].pairs, rest[0].owner) == (0.7, [0.55, 0.65], 400, "ada")
    await session.execute(delete(Sae).where(Sae.id == made.sae.id))
    view = await get_audit(session, ids[1])
    assert view is not None
    assert (view.sae_id, view.sae) == (None, made.sae.slug)
    assert AuditResult.model_validate(view.result) == audited()
    assert await raw_values(session, ids[1]) == RAW
    await delete_audit(session, ids[1])
    assert await get_audit(session, ids[1]) is None
