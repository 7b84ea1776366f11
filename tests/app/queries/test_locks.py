from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.queries.sql.locks import is_run_locked, run_lock

COUNT_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


async def test_a_run_is_locked_while_a_process_holds_it(engine: AsyncEngine) -> None:
    for run_id in (1, 7, 2**31 - 1):  # keys of both signs
        assert not await is_run_locked(engine, run_id)
        async with run_lock(engine, run_id) as held:
            assert held
            assert await is_run_locked(engine, run_id)
            assert not await is_run_locked(engine, run_id - 1)
        assert not await is_run_locked(engine, run_id)


async def test_asking_about_a_run_does_not_keep_a_process_from_starting_it(engine: AsyncEngine) -> None:
    held: list[int] = []

    def count_locks(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement != COUNT_LOCKS:
            held.append(connection.exec_driver_sql(COUNT_LOCKS).scalar_one())

    event.listen(engine.sync_engine, "after_cursor_execute", count_locks)
    await is_run_locked(engine, 7)
    assert held
    assert not any(held)
