"""The migration lock: one holder among tasks, threads and processes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.record import Record
from automigrator.errors import LockTimeoutError
from automigrator.testing.backends.look import LookCases
from automigrator.testing.conformance import FREE_S, TABLE, backend_of, case, silent
from automigrator.testing.processes import Process

_SHORT_S = 0.2

_FOREVER_S = 3600.0

_FAILURES = ({"kind": "revision", "message": "no", "state": "clean"},)


class LockCases(LookCases):
    """A lock that is tried again and again, never queued for."""

    __test__ = False

    @case
    async def test_it_offers_what_it_declares(self) -> None:
        """A part that is not declared is not tested, and one that is declared is there."""
        backend = await self.filled()
        found = {"examiner"} if backend.examiner([TABLE]) is not None else set[str]()
        async with backend.lock([TABLE], FREE_S, silent) as hold:
            found |= {name for name in ("snapshots", "sides") if getattr(hold, name) is not None}
        declared, dialect = set[str](backend.offers), self.fresh.url().get_backend_name()
        assert found == declared, (
            f"`offers` declares {_listed(declared)}, and the backend has {_listed(found)}"
        )
        assert backend.name == dialect, f"its name is {backend.name!r}, the dialect's {dialect!r}"

    @case
    async def test_a_lock_says_who_leads_and_since_when(self) -> None:
        backend = await self.filled()
        async with backend.lock([TABLE], FREE_S, silent) as hold:
            assert hold.leader and hold.waited_s >= 0 and hold.since > 0
            await hold.confirm("revision 1 of 2")
            lost = asyncio.ensure_future(hold.until_lost())
            done, _ = await asyncio.wait([lost], timeout=_SHORT_S)
            assert not done, "a lock that is held was said to be lost"
            lost.cancel()
            await asyncio.wait([lost])

    @case
    async def test_one_task_at_a_time(self) -> None:
        backend = await self.filled()
        told: list[tuple[float, str]] = []
        async with backend.lock([TABLE], FREE_S, silent) as hold:
            await hold.confirm("revision 1 of 2")
            waiting = lambda seconds, leader: told.append((seconds, leader))  # noqa: E731
            await self._excluded(self.backend().lock([TABLE], _SHORT_S, waiting))
        assert told and all(leader for _, leader in told), "who waits is told who leads"
        async with self.backend().lock([TABLE], FREE_S, silent):
            pass

    @case
    async def test_who_waits_gets_it_when_it_is_released(self) -> None:
        await self.filled()
        held = [asyncio.Event(), asyncio.Event()]
        order: list[int] = []

        async def follower() -> None:
            async with self.backend().lock([TABLE], FREE_S, lambda *_: held[1].set()) as hold:
                order.append(2)
                assert hold.waited_s > 0, "it waited, and says that it did not"

        async with self.backend().lock([TABLE], FREE_S, silent):
            task = asyncio.ensure_future(follower())
            await asyncio.wait_for(held[1].wait(), FREE_S)
            order.append(1)
        await task
        assert order == [1, 2]

    @case
    async def test_who_is_cancelled_while_it_waits_does_not_get_it(self) -> None:
        await self.filled()
        waits = asyncio.Event()

        async def follower() -> None:
            async with self.backend().lock([TABLE], FREE_S, lambda *_: waits.set()):
                raise AssertionError("a cancelled waiter holds the lock")

        async with self.backend().lock([TABLE], FREE_S, silent):
            task = asyncio.ensure_future(follower())
            await asyncio.wait_for(waits.wait(), FREE_S)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task
        async with self.backend().lock([TABLE], FREE_S, silent):
            pass

    @case
    async def test_a_holder_that_fails_or_is_cancelled_lets_it_go(self) -> None:
        await self.filled()
        for error in (RuntimeError(), asyncio.CancelledError()):
            try:
                async with self.backend().lock([TABLE], FREE_S, silent):
                    raise error
            except (RuntimeError, asyncio.CancelledError) as raised:
                came_out = raised
            assert came_out is error, f"{error!r} inside the lock came out as {came_out!r}"
        async with self.backend().lock([TABLE], FREE_S, silent):
            pass

    @case
    async def test_two_databases_have_a_lock_each(self) -> None:
        first, second = await self.filled("first"), await self.filled("second")
        async with first.lock([TABLE], FREE_S, silent), second.lock([TABLE], FREE_S, silent):
            pass

    @case
    async def test_another_loop_in_another_thread_is_excluded(self) -> None:
        backend = await self.filled()
        answers: list[BaseException | None] = []

        def thread() -> None:
            try:
                asyncio.run(self._excluded(self.backend().lock([TABLE], _SHORT_S, silent)))
            except AssertionError as error:
                answers.append(error)
            else:
                answers.append(None)

        async with backend.lock([TABLE], FREE_S, silent):
            other = threading.Thread(target=thread)
            other.start()
            await asyncio.to_thread(other.join)
        assert answers == [None], answers

    @case
    async def test_a_process_excludes_others_until_it_is_killed(self) -> None:
        """With SIGKILL: whoever comes next has the lock, without anybody's help."""
        await self.filled()
        process = Process(_hold, self.fresh.url().render_as_string(hide_password=False))
        try:
            assert await asyncio.to_thread(process.told) == "held"
            await self._excluded(self.backend().lock([TABLE], _SHORT_S, silent))
            process.kill()
            async with self.backend().lock([TABLE], FREE_S, silent):
                pass
        finally:
            process.close()

    @case
    async def test_a_record_survives_until_it_is_taken_back(self) -> None:
        await self.filled()
        record = Record("plan", "failed", "somebody", _FAILURES)
        began = time.time()
        async with self.backend().lock([TABLE], FREE_S, silent) as hold:
            assert await hold.last() is None, "there was no leader before, and it left a record"
            await hold.leave(record)
        async with self.backend().lock([TABLE], FREE_S, silent) as hold:
            left = await hold.last()
            assert left is not None, "what a leader left is gone"
            assert (left.plan, left.outcome) == (record.plan, record.outcome), left
            assert [dict(each) for each in left.failures] == [dict(each) for each in _FAILURES]
            assert left.at > 0 and hold.since > 0, f"a record is of {left.at}, not of {began}"
            await hold.leave(None)
            assert await hold.last() is None
        async with self.backend().lock([TABLE], FREE_S, silent) as hold:
            assert await hold.last() is None, "a record that was taken back is there again"

    @case(needs="examiner")
    async def test_what_a_database_declares_survives_until_it_is_taken_back(self) -> None:
        """Older code reads it without the lock."""
        await self.filled()
        examiner = self.backend().examiner([TABLE])
        assert examiner is not None
        declared = Declaration(("r2",), ("r1",), ("r1", "r2"), "2.0")
        assert await examiner.declared() == (), "nothing was declared yet"
        async with self.backend().lock([TABLE], FREE_S, silent) as hold:
            await hold.declare([declared])
            assert await hold.last() is None, "a declaration is no leader's record"
        assert await examiner.declared() == (declared,)
        async with self.backend().lock([TABLE], FREE_S, silent) as hold:
            await hold.declare([])
        assert await examiner.declared() == (), "what was taken back is there again"

    @case(needs="examiner")
    async def test_an_examiner_says_who_holds_the_lock_without_taking_it(self) -> None:
        await self.filled()
        examiner = self.backend().examiner([TABLE])
        assert examiner is not None
        assert await examiner.holder() is None, "nobody holds it"
        async with self.backend().lock([TABLE], FREE_S, silent):
            assert await examiner.holder(), "somebody holds it"
        assert await examiner.holder() is None, "it was let go of"
        assert await examiner.debris() == (), "a sound database has no debris"
        assert await examiner.existing([(None, "no_such_table")]) == ()

    async def _excluded(self, lock: Any) -> None:
        try:
            async with lock:
                pass
        except LockTimeoutError as error:
            said = str(error)
        else:
            raise AssertionError("two hold the lock of one database")
        assert "still held by" in said, f"the error does not say who leads: {said}"


def _listed(parts: set[str]) -> str:
    return ", ".join(sorted(parts)) or "nothing"


def _hold(tell: Callable[[Any], None], url: str) -> None:
    """In a process of its own: hold the lock until somebody kills it."""

    async def work() -> None:
        async with backend_of(url).lock([TABLE], FREE_S, silent):
            tell("held")
            await asyncio.sleep(_FOREVER_S)

    asyncio.run(work())
