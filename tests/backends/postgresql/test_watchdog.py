"""Work that is stopped: cancelled once, or asked to end until it has, and never asked later."""

from __future__ import annotations

import asyncio

import pytest

from automigrator.backends.postgresql.watchdog import Stoppable


async def test_work_that_is_asked_to_end_is_over_only_when_nobody_asks_any_more() -> None:
    """Or a late request would end what comes next: a DROP of what had been copied, say."""
    stoppable, told, said = Stoppable(), asyncio.Event(), []

    async def ask() -> None:
        told.set()
        await asyncio.sleep(0.05)  # the server has ended it, and the answer is still under way
        said.append("asked")

    working = asyncio.ensure_future(stoppable.asked(told.wait, ask))
    await asyncio.sleep(0)
    stoppable.stop()
    assert await working and said == ["asked"]


async def test_it_is_asked_again_where_it_had_not_begun_when_it_was_asked() -> None:
    stoppable, told = Stoppable(), asyncio.Event()
    asked: list[None] = []

    async def ask() -> None:
        asked.append(None)
        if len(asked) == 2:
            told.set()
        raise OSError("no connection to ask by")

    working = asyncio.ensure_future(stoppable.asked(told.wait, ask))
    await asyncio.sleep(0)
    stoppable.stop()
    assert await working and len(asked) == 2


async def test_work_that_is_not_stopped_is_not_asked_to_end() -> None:
    async def ask() -> None:
        raise AssertionError("nobody stopped it")

    async def work() -> int:
        return 7

    assert await Stoppable().asked(work, ask) == 7
    assert await Stoppable()(work()) == 7


async def test_once_stopped_nothing_more_is_begun() -> None:
    stoppable = Stoppable()
    stoppable.stop()

    async def work() -> None:
        raise AssertionError("it was stopped before")

    with pytest.raises(asyncio.CancelledError):
        await stoppable.asked(work, work)
    with pytest.raises(asyncio.CancelledError):
        await stoppable(work())


async def test_cancelled_work_may_take_its_time_to_clean_up() -> None:
    stoppable, cleaned = Stoppable(), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.8)
            cleaned.append("all of it")

    working = asyncio.ensure_future(stoppable(work()))
    await asyncio.sleep(0)
    stoppable.stop()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert cleaned == ["all of it"]
