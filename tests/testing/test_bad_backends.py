"""A suite that cannot fail proves nothing: each of these backends is wrong, and is told how."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Backend, Waiting
from automigrator.backends.contract.sides import Side
from automigrator.backends.contract.snapshots import Snapshot
from automigrator.backends.contract.values import Sight, Verdict, VersionTable
from automigrator.backends.sqlite.backend import SQLite
from automigrator.backends.sqlite.hold import SQLiteHold
from automigrator.retention import Limits
from automigrator.target import Target
from automigrator.testing import BackendConformance
from automigrator.testing.contents import execute


class CreatesByLooking(SQLite):
    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        await self.create()
        return await super().look(tables)


class LocksNobodyOut(SQLite):
    @asynccontextmanager
    async def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AsyncIterator[SQLiteHold]:
        assert self.file is not None
        self.file = self.file.with_name(f"{id(self)}.db")
        async with super().lock(tables, timeout_s, waiting) as hold:
            yield hold


class Holding(SQLite):
    """What its lock yields is changed by `spoil`."""

    def spoil(self, hold: Any) -> None: ...

    @asynccontextmanager
    async def lock(
        self, tables: Sequence[VersionTable], timeout_s: float, waiting: Waiting
    ) -> AsyncIterator[SQLiteHold]:
        async with super().lock(tables, timeout_s, waiting) as hold:
            self.spoil(hold)
            yield hold


async def nothing(*args: Any, **options: Any) -> None:
    return None


class SnapshotsLackRows(Holding):
    def spoil(self, hold: Any) -> None:
        take = hold.snapshots.take

        async def lacking(*args: Any, **options: Any) -> Snapshot:
            snapshot: Snapshot = await take(*args, **options)
            url = self.access.url.set(database=snapshot.place)
            await execute(url, "DELETE FROM notes WHERE id = 100")
            return snapshot

        hold.snapshots.take = lacking


class RestoresNothing(Holding):
    def spoil(self, hold: Any) -> None:
        hold.snapshots.restore = nothing


class RecoversNothing(Holding):
    def spoil(self, hold: Any) -> None:
        hold.recover = nothing


class LeavesItsCopies(Holding):
    def spoil(self, hold: Any) -> None:
        copy = hold.sides.copy

        @asynccontextmanager
        async def leaving(*args: Any) -> AsyncIterator[Side]:
            async with copy(*args) as side:
                side.needed = True  # what it is not
                yield side

        hold.sides.copy = leaving


class ForgetsToClose(Holding):
    def spoil(self, hold: Any) -> None:
        hold.close_journal = nothing


class PrunesItsNeighbours(Holding):
    def spoil(self, hold: Any) -> None:
        async def prune(limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
            assert self.file is not None
            found = sorted(self.file.parent.glob(f"{self.file.stem}*.snapshot-*"))
            old = found[: -(limits.keep or 0) or None]
            for path in old:
                path.unlink()
            return tuple(map(str, old))

        hold.snapshots.prune = prune


class DropsWhatItReplaces(Holding):
    def spoil(self, hold: Any) -> None:
        take_over = hold.sides.take_over

        async def dropping(*args: Any, **options: Any) -> str:
            await take_over(*args, **{**options, "set_aside": False})
            return f"{self.file}.purged"

        hold.sides.take_over = dropping


class GuessesByTheText(SQLite):
    def classify(self, error: BaseException) -> Verdict:
        return Verdict("disk-full") if "disk" in str(error) else super().classify(error)


class DeclaresWhatItLacks(Holding):
    def spoil(self, hold: Any) -> None:
        hold.snapshots = None


class DeclaresTooLittle(SQLite):
    offers = frozenset({"snapshots"})


class DeclaresWhatNobodyKnows(SQLite):
    offers = frozenset({"snapshot", "sides", "examiner"})  # type: ignore[arg-type]


class BlocksTheLoop(SQLite):
    limit_s = 0.2

    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        threading.Event().wait()
        raise AssertionError


class NeverAnswers(SQLite):
    limit_s = 0.2

    async def look(self, tables: Sequence[VersionTable], *, heads_only: bool = False) -> Sight:
        await asyncio.Event().wait()
        raise AssertionError


class _Bad(BackendConformance):
    __test__ = False
    kind: type[SQLite]

    def backend(self, name: str = "app") -> Backend:
        return self.kind(Access(Target(self.fresh.url(name), self.folder)))


def no_fixture(name: str) -> NoReturn:
    raise LookupError(name)


@pytest.mark.long(
    "LocksNobodyOut", "BlocksTheLoop", "LeavesItsCopies", "PrunesItsNeighbours", "ForgetsToClose"
)
@pytest.mark.parametrize(
    ("kind", "case", "told"),
    [
        (
            CreatesByLooking,
            "test_an_absent_database_is_an_answer_and_stays_absent",
            "an absent database was seen",
        ),
        (LocksNobodyOut, "test_one_task_at_a_time", "two hold the lock of one database"),
        (
            LocksNobodyOut,
            "test_another_loop_in_another_thread_is_excluded",
            "two hold the lock of one database",
        ),
        (
            LocksNobodyOut,
            "test_a_process_excludes_others_until_it_is_killed",
            "two hold the lock of one database",
        ),
        (SnapshotsLackRows, "test_a_snapshot_is_equal_row_by_row", "the snapshot: there is"),
        (
            RestoresNothing,
            "test_a_restore_brings_every_row_back_and_may_be_repeated",
            "restored: there is",
        ),
        (
            RecoversNothing,
            "test_killed_half_way_the_next_start_undoes_it",
            "recovered, a journal is left open",
        ),
        (
            LeavesItsCopies,
            "test_a_copy_on_the_side_is_equal_row_by_row_and_gone_afterwards",
            "the copy on the side is still there",
        ),
        (ForgetsToClose, "test_a_snapshot_is_equal_row_by_row", "a journal is left open"),
        (
            PrunesItsNeighbours,
            "test_pruning_deletes_the_oldest_and_only_its_own",
            "it was to keep the newest, and it deleted",
        ),
        (
            DropsWhatItReplaces,
            "test_the_side_takes_over_and_the_old_data_is_set_aside",
            "the old data is said to be in",
        ),
        (
            DeclaresWhatItLacks,
            "test_a_snapshot_is_equal_row_by_row",
            "the backend declares snapshots, its lock has none",
        ),
        (
            DeclaresTooLittle,
            "test_it_offers_what_it_declares",
            "`offers` declares snapshots, and the backend has examiner, sides, snapshots",
        ),
        (
            DeclaresWhatNobodyKnows,
            "test_it_offers_what_it_declares",
            "`offers` declares examiner, sides, snapshot, and the backend has",
        ),
        (
            BlocksTheLoop,
            "test_an_absent_database_is_an_answer_and_stays_absent",
            "not over after 0.2 s, and the event loop is blocked at",
        ),
        (
            NeverAnswers,
            "test_an_absent_database_is_an_answer_and_stays_absent",
            "not over after 0.2 s; it waited at",
        ),
        (
            GuessesByTheText,
            "test_what_the_driver_does_not_say_is_not_guessed",
            "classify(RuntimeError('disk full, they say')) is None",
        ),
    ],
)
def test_a_wrong_backend_is_told_what_is_wrong(
    kind: type[SQLite], case: str, told: str, tmp_path: Path
) -> None:
    suite = _Bad()
    suite.kind = kind
    suite.limit_s = getattr(kind, "limit_s", suite.limit_s)  # type: ignore[misc]
    with suite.opened("sqlite", tmp_path, no_fixture), pytest.raises(AssertionError) as info:
        getattr(suite, case)()
    assert told in str(info.value)
