"""Leaders that are killed between a snapshot and its end: the next start finishes or undoes it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from automigrator.testing.backends.sides import NEW, SideCases
from automigrator.testing.backends.snapshots import DAMAGE
from automigrator.testing.conformance import (
    FREE_S,
    TABLE,
    backend_of,
    case,
    nothing_is_open,
    same,
    silent,
)
from automigrator.testing.contents import Contents, checksums, contents, execute, fill, with_notes
from automigrator.testing.processes import Process, die_after

_AT_WANTED = ("UPDATE alembic_version SET version_num = 'r2'", "DELETE FROM notes WHERE id = 3")


class KillCases(SideCases):
    """Real processes and SIGKILL."""

    __test__ = False

    kills: ClassVar[int] = 4
    """How many random moments for each act."""
    seed: ClassVar[int] = 4

    @case(needs="snapshots")
    async def test_killed_half_way_the_next_start_undoes_it(self) -> None:
        await self.filled()
        await self._killed("snapshot", DAMAGE)
        assert await self._recovered() is not None, "it does not say what was done"
        same(await contents(self.fresh.url()), with_notes(), "killed half way, and recovered")

    @case(needs="snapshots")
    async def test_killed_at_the_wanted_heads_the_next_start_keeps_it(self) -> None:
        await self.filled()
        await self._killed("snapshot", _AT_WANTED)
        before = await contents(self.fresh.url())
        await self._recovered()
        same(await contents(self.fresh.url()), before, "killed when all was done, and recovered")

    @case(needs="snapshots")
    async def test_killed_before_anything_changed_what_was_written_since_is_kept(self) -> None:
        """An application may have gone on with the old schema before the next start."""
        await self.filled()
        await self._killed("snapshot", ())
        await execute(self.fresh.url(), "DELETE FROM notes WHERE id = 5")
        before = await contents(self.fresh.url())
        await self._recovered()
        same(await contents(self.fresh.url()), before, "killed before anything, and recovered")

    @case(needs="snapshots")
    async def test_killed_while_it_restores_the_next_start_ends_it(self) -> None:
        await self._at_random("restore", lambda found, _: found == with_notes())

    @case(needs="sides")
    async def test_killed_while_the_side_takes_over_nothing_is_lost(self) -> None:
        await self._at_random(
            "take_over",
            lambda found, others: (
                found == with_notes() or (found == NEW and with_notes() in others)
            ),
        )

    @case(needs="sides")
    async def test_killed_with_a_copy_on_the_side_the_next_start_removes_it(self) -> None:
        await self.filled()
        before = await self.fresh.places()
        await self._killed("copied_side", ())
        assert await self.fresh.places() > before, "there was no copy to be left behind"
        await self._recovered()
        assert await self.fresh.places() == before, "the copy on the side is still there"
        same(await contents(self.fresh.url()), with_notes(), "killed beside a copy, and recovered")

    async def _at_random(self, act: str, right: Callable[[Contents, list[Contents]], bool]) -> None:
        draw = random.Random(self.seed)
        print(f"seed {self.seed}")
        longest_s = 0.3
        for number in range(self.kills):
            name = f"{act}{number}"
            await self.filled(name)
            delay_s = draw.uniform(0, longest_s)
            killed = await self._killed(act, DAMAGE if act == "restore" else (), name, delay_s)
            if not killed:
                longest_s = longest_s * 0.7  # it was over by then: draw from the time it takes
            await self._recovered(name)
            url = self.fresh.url(name)
            others = [
                await contents(url.set(database=place))
                for place in await self.fresh.places()
                if place != url.database and name in place
            ]
            found = await contents(url)
            assert right(found, others), (
                f"killed {delay_s * 1000:.0f} ms after {act} began, and recovered, there is "
                f"{checksums(found)}, and beside it {[checksums(each) for each in others]}"
            )

    async def _killed(
        self, act: str, damage: tuple[str, ...], name: str = "app", seconds: float | None = None
    ) -> bool:
        """A process that does it and is killed: after `seconds` of the act, or at its end."""
        url = self.fresh.url(name).render_as_string(hide_password=False)
        process = Process(_act, url, act, damage, seconds)
        return await asyncio.to_thread(process.ended)

    async def _recovered(self, name: str = "app") -> str | None:
        """What the next start is told; the one after it must find nothing."""
        async with self.locked(name) as hold:
            done = await hold.recover()
            await hold.close_journal()
        async with self.locked(name) as hold:
            again = await hold.recover()
        assert again is None, f"recovered, and the next start recovers once more: {again}"
        await nothing_is_open(self.fresh.url(name), "recovered")
        return done


def _act(
    tell: Callable[[Any], None],
    url: str,
    act: str,
    damage: tuple[str, ...],
    seconds: float | None,
) -> None:
    """In a process of its own."""

    async def work() -> None:
        backend = backend_of(url)
        async with AsyncExitStack() as stack:
            hold = await stack.enter_async_context(backend.lock([TABLE], FREE_S, silent))
            snapshots, sides = hold.snapshots, hold.sides
            if act == "take_over":
                assert sides is not None
                side = await stack.enter_async_context(sides.fresh("1"))
                await fill(side.url, "r2", ((1, "new"),))
                die_after(seconds or 0)
                await sides.take_over(side, "1", [TABLE])
                return
            if act == "copied_side":
                assert sides is not None
                await stack.enter_async_context(sides.copy("20260101T000000000000Z"))
                die_after(0)
            assert snapshots is not None
            snapshot = await snapshots.take("1", ("r1",), ("r2",), [TABLE], atomic=not damage)
            if damage:
                await execute(backend.access.url, *damage)
            die_after(seconds or 0)
            await snapshots.restore(snapshot)
            await hold.close_journal()

    asyncio.run(work())
