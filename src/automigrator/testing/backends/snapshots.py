"""Snapshots: equal row by row, put back as often as one likes, pruned only where they are ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.sides import Sides
from automigrator.backends.contract.snapshots import Snapshot, Snapshots
from automigrator.retention import Limits
from automigrator.testing.backends.lock import LockCases
from automigrator.testing.conformance import (
    FREE_S,
    TABLE,
    backend_of,
    case,
    nothing_is_open,
    same,
    silent,
)
from automigrator.testing.contents import Contents, contents, execute, with_notes

DAMAGE = (
    "DELETE FROM notes WHERE id < 100",
    "CREATE TABLE half (id INTEGER)",
    "UPDATE alembic_version SET version_num = 'half'",
)

"""What a revision may leave half done."""


class SnapshotCases(LockCases):
    """A snapshot is a copy of the whole target, verified, and its restore is idempotent."""

    __test__ = False

    @asynccontextmanager
    async def locked(self, name: str = "app") -> AsyncIterator[Hold]:
        """Context manager: hold the lock of a new backend, as a leader has it."""
        backend = self.backend(name)
        await backend.look([TABLE])
        async with backend.lock([TABLE], FREE_S, silent) as hold:
            yield hold

    @asynccontextmanager
    async def copying(self, name: str = "app") -> AsyncIterator[tuple[Hold, Snapshots]]:
        """Context manager: the same with its snapshots."""
        async with self.locked(name) as hold:
            assert hold.snapshots is not None, "the backend declares snapshots, its lock has none"
            yield hold, hold.snapshots

    @asynccontextmanager
    async def siding(self, name: str = "app") -> AsyncIterator[tuple[Hold, Sides]]:
        """Context manager: the same with its databases on the side."""
        async with self.locked(name) as hold:
            assert hold.sides is not None, "the backend declares sides, and its lock has none"
            yield hold, hold.sides

    async def copied(self, snapshot: Snapshot, name: str = "app") -> Contents:
        return await contents(self.fresh.url(name).set(database=snapshot.place))

    @case(needs="snapshots")
    async def test_a_snapshot_is_equal_row_by_row(self) -> None:
        await self.filled()
        async with self.copying() as (hold, snapshots):
            snapshot = await snapshots.take("1", ("r1",), ("r2",), [TABLE])
            assert (snapshot.heads, snapshot.stamp) == (("r1",), "1")
            same(await self.copied(snapshot), with_notes(), "the snapshot")
            same(await contents(self.fresh.url()), with_notes(), "a snapshot was taken, and")
            await hold.close_journal()
        await nothing_is_open(self.fresh.url(), "after a snapshot")

    @case(needs="snapshots")
    async def test_a_database_at_other_heads_is_not_copied(self) -> None:
        """Whoever migrated it meanwhile would lose that by a restore."""
        await self.filled(revision="elsewhere")
        before = await self.fresh.places()
        async with self.copying() as (_, snapshots):
            try:
                await snapshots.take("1", ("r1",), ("r2",), [TABLE])
            except Exception:  # noqa: BLE001 - which one is the backend's to choose
                pass
            else:
                raise AssertionError("a snapshot at other heads than were seen was taken")
        assert await self.fresh.places() == before, "a snapshot that was refused is there"
        await nothing_is_open(self.fresh.url(), "after a snapshot that was refused")

    @case(needs="sides")
    async def test_a_copy_on_the_side_is_equal_row_by_row_and_gone_afterwards(self) -> None:
        await self.filled()
        before = await self.fresh.places()
        async with self.siding() as (_, sides):
            async with sides.copy("20260101T000000000000Z") as side:
                assert side.place in await self.fresh.places() - before
                same(await contents(side.url), with_notes(), "the copy on the side")
                await execute(side.url, *DAMAGE)
                same(await contents(self.fresh.url()), with_notes(), "the copy was changed, and")
            assert await self.fresh.places() == before, "the copy on the side is still there"
            try:
                async with sides.copy("20260101T000000000001Z"):
                    raise KeyError
            except KeyError:
                pass
            assert await self.fresh.places() == before, "after an error, the copy is still there"
        await nothing_is_open(self.fresh.url(), "after a copy on the side")

    @case(needs="snapshots")
    async def test_a_restore_brings_every_row_back_and_may_be_repeated(self) -> None:
        await self.filled()
        url = self.fresh.url()
        async with self.copying() as (hold, snapshots):
            snapshot = await snapshots.take("1", ("r1",), ("r2",), [TABLE])
            for _ in range(2):
                await execute(url, *DAMAGE)
                await snapshots.restore(snapshot)
                same(await contents(url), with_notes(), "restored")
                await snapshots.restore(snapshot)
                same(await contents(url), with_notes(), "restored again")
            same(await self.copied(snapshot), with_notes(), "the snapshot after a restore")
            await hold.close_journal()
        await nothing_is_open(url, "after a restore")

    @case(needs="snapshots")
    async def test_what_is_no_snapshot_of_this_run_is_not_put_back(self) -> None:
        await self.filled()
        async with self.copying() as (hold, snapshots):
            snapshot = await snapshots.take("1", ("r1",), ("r2",), [TABLE])
            await hold.close_journal()
        await execute(self.fresh.url(), "DELETE FROM notes WHERE id = 7")
        async with self.copying() as (hold, snapshots):
            try:
                await snapshots.restore(snapshot)
            except Exception:  # noqa: BLE001 - RefusedError, or what the backend has for it
                pass
            else:
                raise AssertionError("a snapshot of another run was put back: newer rows are lost")
        assert (
            len((await contents(self.fresh.url()))["notes"][1]) == len(with_notes()["notes"][1]) - 1
        )

    @case(needs="snapshots")
    async def test_an_open_snapshot_is_seen_by_the_next_start_until_it_is_closed(self) -> None:
        await self.filled()
        assert not await self._unfinished()
        async with self.copying() as (hold, snapshots):
            await snapshots.take("1", ("r1",), ("r2",), [TABLE])
            assert await self._unfinished(), "a start would not see that this one was killed"
            await hold.close_journal()
            assert not await self._unfinished(), "closed, and the next start would undo it"
            assert await hold.recover() is None

    @case(needs="snapshots")
    async def test_pruning_deletes_the_oldest_and_only_its_own(self) -> None:
        neighbours = ("app2", "app_r1", "ap")
        for name in ("app", *neighbours):
            await self.filled(name)
        kept = {name: await self._snapshots(name, "1") for name in neighbours}
        *old, newest = await self._snapshots("app", "1", "2", "3")
        before = await self.fresh.places()
        async with self.copying() as (_, snapshots):
            assert await snapshots.prune(Limits(5)) == (), "there were fewer, and some were deleted"
            deleted = await snapshots.prune(Limits(1))
        assert set(deleted) == {snapshot.place for snapshot in old}, (
            f"of its three snapshots it was to keep the newest, and it deleted {deleted}"
        )
        gone = before - await self.fresh.places()
        assert gone == set(deleted), f"it says that it deleted {deleted}, and {gone} are gone"
        same(await self.copied(newest), await contents(self.fresh.url()), "the newest snapshot")
        for name, (snapshot,) in kept.items():
            same(await self.copied(snapshot, name), with_notes(), f"the snapshot of {name}")

    async def _snapshots(self, name: str, *stamps: str) -> list[Snapshot]:
        taken: list[Snapshot] = []
        for stamp in stamps:
            if taken:  # a backend may keep one of two copies that are the same
                gone = f"DELETE FROM notes WHERE id = {100 + int(stamp)}"
                await execute(self.fresh.url(name), gone)
            async with self.copying(name) as (hold, snapshots):
                at = f"2026010{stamp}T000000000000Z"
                taken.append(await snapshots.take(at, ("r1",), ("r2",), [TABLE]))
                await hold.close_journal()
        return taken

    async def _unfinished(self) -> bool:
        return (await backend_of(self.fresh.url()).look([TABLE])).unfinished
