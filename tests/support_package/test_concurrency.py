"""Work that is awaited to its end, work that is watched, and the time that waiting takes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable

import pytest

from automigrator.support.backoff import Backoff, Deadline
from automigrator.support.concurrency import background, beside, shielded, within


class Steps:
    """Work in two steps that says how far it came."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = False

    async def __call__(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        self.ended = True
        return "done"


async def cancelled_twice(awaiting: Awaitable[object], steps: Steps) -> None:
    task = asyncio.ensure_future(awaiting)
    await steps.begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    steps.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestShielded:
    async def test_the_work_ends_and_the_cancellation_is_raised(self) -> None:
        steps, stops = Steps(), itertools.count()
        await cancelled_twice(shielded(steps(), lambda: next(stops)), steps)
        assert steps.ended and next(stops) == 2

    async def test_the_result_and_the_error_pass_through(self) -> None:
        async def fail() -> None:
            raise ValueError("no")

        steps = Steps()
        steps.go_on.set()
        assert await shielded(steps()) == "done"
        with pytest.raises(ValueError, match="no"):
            await shielded(fail())


class TestBeside:
    async def test_work_that_is_done_first_gives_its_result(self) -> None:
        assert await beside(asyncio.sleep(0, "done"), asyncio.sleep(60)) == "done"

    async def test_a_watcher_that_raises_ends_the_work(self) -> None:
        async def lose() -> None:
            await asyncio.sleep(0)
            raise OSError("lost")

        work = asyncio.ensure_future(asyncio.sleep(60))
        with pytest.raises(OSError, match="lost"):
            await beside(work, asyncio.sleep(60), lose())
        assert work.cancelled()

    async def test_a_watcher_that_raises_wins_over_work_that_succeeds(self) -> None:
        async def lose() -> None:
            raise OSError("lost")

        steps = Steps()
        with pytest.raises(OSError, match="lost"):
            await beside(steps(), lose(), end=lambda task: steps.go_on.set())
        assert steps.ended

    async def test_a_watcher_that_returns_leaves_the_word_to_the_work(self) -> None:
        steps = Steps()
        told = beside(steps(), asyncio.sleep(0), end=lambda task: steps.go_on.set())
        assert await told == "done"

    async def test_the_work_is_ended_again_until_it_is_done(self) -> None:
        steps, calls = Steps(), itertools.count(1)

        def end(task: object) -> None:
            if next(calls) == 4:
                steps.go_on.set()

        watched = beside(steps(), asyncio.sleep(0), end=end, pauses=itertools.repeat(0.001))
        assert await watched == "done"

    async def test_a_cancellation_is_passed_on_and_raised(self) -> None:
        steps = Steps()
        watched = beside(steps(), asyncio.sleep(60), on_cancel=lambda task: None)
        await cancelled_twice(watched, steps)
        assert steps.ended


class TestBackground:
    async def test_it_ends_with_the_block(self) -> None:
        async with background(asyncio.sleep(60)) as task:
            await asyncio.sleep(0)
        assert task.cancelled()

    async def test_it_can_be_asked_to_end(self) -> None:
        steps = Steps()
        async with background(steps(), steps.go_on.set) as task:
            await asyncio.sleep(0)
        assert task.result() == "done"


class TestWithin:
    async def test_any_error_of_the_block_after_the_limit_becomes_one_error(self) -> None:
        async def ask() -> None:
            async with within(0.01, lambda: OSError("silent")):
                try:
                    await asyncio.sleep(60)
                finally:
                    raise ValueError("a driver's own")

        with pytest.raises(OSError, match="silent") as info:
            await ask()
        assert isinstance(info.value.__cause__, ValueError)

    async def test_an_error_before_the_limit_passes_through(self) -> None:
        async def refuse() -> None:
            async with within(60):
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await refuse()


def test_pauses_grow_up_to_the_longest_and_are_shortened_at_random() -> None:
    exact = Backoff(0.1, 0.5, jitter=0)
    assert [exact.pause() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    pauses = [Backoff(1.0, 1.0).pause() for _ in range(100)]
    assert all(0.5 <= pause <= 1 for pause in pauses) and len(set(pauses)) > 1


def test_a_deadline_says_what_is_left() -> None:
    assert 59 < Deadline(60).left() <= 60 and not Deadline(60).is_over()
    assert Deadline(0).left() == 0 and Deadline(0).is_over()
