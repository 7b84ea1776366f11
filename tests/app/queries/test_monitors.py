"""What is kept of a monitor's scores while somebody changes or deletes the monitor."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import Conflict, NotFound
from app.queries.monitors import add_scores, change_monitor, delete_monitor, get_monitor, list_alerts
from app.services.inference_messages import LiveAlert
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


async def test_scores_by_a_candidate_that_was_exchanged_meanwhile_are_refused(
    made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with sessionmaker.begin() as session:
        kings = await get_monitor(session, await add_monitor(session, made.sae))
        assert kings is not None
        await change_monitor(session, kings.id, candidate="probe-mean")
    with pytest.raises(Conflict, match="another candidate in the meantime"):
        async with sessionmaker.begin() as session:
            await add_scores(session, kings.id, [0.5], [], source="scan", candidate=kings.candidate)


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


async def test_answers_that_watch_the_same_monitors_in_another_order_do_not_block_each_other(
    made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with sessionmaker.begin() as session:
        views = [await get_monitor(session, await add_monitor(session, made.sae, name=name)) for name in ("a", "b")]
    both = [UsableMonitor(view.id, view.name, view.keep_text, {}) for view in views if view is not None]
    alerts = [
        LiveAlert(
            monitor=one.name, score=2.0, threshold=1.0, position=0, token_id=3, generated=False, tokens=[(0, 3, 2.0)]
        )
        for one in both
    ]

    async def answer(number: int) -> None:
        async with sessionmaker.begin() as session:
            monitors = both if number % 2 else both[::-1]
            await keep_findings(session, monitors, made.sae.model, {"a": 2.0, "b": 2.0}, alerts, place=f"{number}")

    await asyncio.gather(*(answer(number) for number in range(20)))
    async with sessionmaker() as session:
        found = [await get_monitor(session, name) for name in ("a", "b")]
    assert [view.alerts for view in found if view is not None] == [20, 20]
