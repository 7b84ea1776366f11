"""What is kept of a monitor's scores while somebody changes or deletes the monitor."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import NotFound
from app.queries.monitors import add_scores, change_monitor, delete_monitor, get_monitor, list_alerts
from app.services.live_monitors import UsableMonitor, keep_findings
from tests.factories import Synthetic
from tests.monitors import add_alerts, add_monitor


async def test_scores_of_a_monitor_that_was_deleted_meanwhile_are_refused_with_a_reason(
    made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with sessionmaker.begin() as session:
        kings = await get_monitor(session, await add_monitor(session, made.sae))
        assert kings is not None
    async with sessionmaker.begin() as other:
        await delete_monitor(other, kings.id)
    with pytest.raises(NotFound, match="deleted in the meantime"):
        async with sessionmaker.begin() as session:
            await add_scores(session, kings.id, [0.5], [], source="check")


async def test_an_answer_goes_on_when_one_of_its_monitors_is_deleted(
    made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with sessionmaker.begin() as session:
        views = [await get_monitor(session, await add_monitor(session, made.sae, name=name)) for name in ("a", "b")]
        gone, here = (UsableMonitor(view.id, view.name, view.keep_text, {}) for view in views if view is not None)
        await delete_monitor(session, gone.id)
    async with sessionmaker.begin() as session:
        await keep_findings(session, [gone, here], made.sae.model, {"a": 0.5, "b": 0.25}, [], place="cmpl-1")
    async with sessionmaker() as session:
        kept = await get_monitor(session, "b")
        assert kept is not None
        assert kept.checked == 1


async def test_what_was_scored_before_texts_were_kept_no_longer_is_stored_without_them(
    made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with sessionmaker.begin() as session:
        kings = await get_monitor(session, await add_monitor(session, made.sae, keep_text=True))
        assert kings is not None
        await change_monitor(session, kings.id, keep_text=False)
        await add_alerts(session, "kings", number=1, text="in confidence")
        alerts, _ = await list_alerts(session, kings.id, limit=10)
    assert alerts[0].text is None
    assert "in confidence" not in str(alerts[0].tokens)
