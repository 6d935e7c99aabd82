"""What an application or an operator asks of its targets besides a run."""

from __future__ import annotations

# a start with nothing to do comes here, too: what it does not need is imported where it is used
from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from automigrator.errors import ConfigurationError
from automigrator.report import Report
from automigrator.runner.session import named, opened
from automigrator.support.concurrency import ensure_asyncio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta
    from pathlib import Path

    from sqlalchemy import URL

    from automigrator.backends.contract.snapshots import Copying, Snapshot
    from automigrator.hooks.registry import Hooks
    from automigrator.readiness import Readiness
    from automigrator.rehearsal import Rehearsal
    from automigrator.rehearsed import Rehearsed
    from automigrator.runner.operations.checkup import Checkup
    from automigrator.runner.operations.snapshots import Restored
    from automigrator.runner.operations.status import Models
    from automigrator.runner.session import Session
    from automigrator.runner.state import RunState
    from automigrator.status import Plans, Status
    from automigrator.target import Ahead, Target

T = TypeVar("T")


class Operations:
    """The part of a Migrator that is asked for explicitly: the gate does not govern it."""

    targets: tuple[Target, ...]
    ahead: Ahead
    max_failed_starts: int
    _every: tuple[Target, ...]
    """All targets, also those that the command line leaves out."""
    rehearse: bool | Rehearsal
    report: Report | None

    async def check(self, *, models: Models | None = None) -> Status:
        """How every target stands; changes nothing.

        `models`, a MetaData or several, or for several targets a mapping from their names, are
        compared with what the migrations made, as `alembic check` does. Raises PluginError for a
        wrong strategy, and ConfigurationError.
        """
        from automigrator.runner.operations.status import status

        ensure_asyncio()
        await self._loaded()
        return await status(self.targets, self.ahead, self.max_failed_starts, models)

    async def plan(self, *, sql: bool = False) -> Plans:
        """The pending revisions of every target, with their SQL on request; changes nothing.

        `sql`: render the SQL, which `str` then shows; default False. Raises what looking at the
        database or the history raises.
        """
        from automigrator.runner.operations.status import planned
        from automigrator.status import Plans

        ensure_asyncio()
        plans = [await planned(each, each.ahead or self.ahead, sql=sql) for each in self.targets]
        return Plans(tuple(plans))

    async def doctor(self, *, repair: bool = False) -> Checkup:
        """A close look at every target; changes nothing, unless `repair` says so.

        Then what is provably debris is removed, under the lock, and what is not is left and told.
        Nothing is removed while another process holds the lock.
        """
        from automigrator.runner.operations.doctor import checkup

        ensure_asyncio()
        return await checkup(self.targets, self.ahead, self.max_failed_starts, repair=repair)

    async def rehearse_on(
        self,
        copy: str | URL,
        *,
        target: str | None = None,
        limits: Rehearsal | None = None,
        apart: bool = False,
    ) -> Rehearsed:
        """Apply a target's pending revisions to a copy of it, and measure what they do.

        `copy`: the URL of a restored or masked copy. It is migrated for good, and must be the
        database of no target. `target`: a target's name, needed when there are several.
        `limits`: what exceeds them is a finding; default: the target's own. `apart`: a target that
        cannot be reached counts as another database than the copy; default False: it is refused.
        What a revision raises is in the answer. Raises RefusedError, ConfigurationError, and what
        looking at the copy raises.
        """
        from automigrator.rehearsal import Rehearsal
        from automigrator.runner.operations.rehearsal import rehearsed_on
        from automigrator.support import urls
        from automigrator.target import chosen as choice

        ensure_asyncio()
        chosen = named(self.targets, target)
        limits = limits or choice(chosen.rehearse, self.rehearse) or Rehearsal()
        place = chosen._replace(database=urls.parse(copy), migrate_with=None, create=False)
        return await rehearsed_on(self._every, chosen, place, limits, apart=apart)

    async def rollback(self, revision: str, *, target: str | None = None) -> Report:
        """Downgrade one target to `revision`, under the lock; the gate does not govern it.

        `target` is a target's name, needed when there are several. Only strategies that revert are
        asked about a failure. Returns a report with that target alone, `reverted` where downgrades
        ran. Raises ConfigurationError, and MigrationError with the report.
        """
        from automigrator.runner.operations.rollback import roll_back
        from automigrator.runner.targets import succeeded

        ensure_asyncio()
        chosen = named(self.targets, target)
        try:
            async with opened(chosen) as session, self._state(session) as state:
                report = await roll_back(state, revision)
        finally:
            await self._in_house.aclose()
        return succeeded(Report((report,), report.elapsed_s, rollback=True))

    @property
    def ready(self) -> bool:
        """Whether the last run has ended, and let the application start; asks no database.

        A run that the gate skipped counts, and one that ended `degraded`; see `readiness`.
        """
        from automigrator.readiness import serves

        return serves(self.report)

    async def readiness(self, *, look: bool = False, limit: float = 2.0) -> Readiness:
        """What a health endpoint answers: true where `ready` is, with the reason in words.

        `look`: ask the databases now, one SELECT each where they lack nothing: true where every one
        is at the revision that the code expects; default False: the last run says.
        `limit`: seconds for that; default 2. Raises nothing for what is wrong with a database.
        """
        from automigrator.readiness import Readiness

        last = Readiness.after(self.report)
        if not look:
            return last
        from automigrator.runner.operations.readiness import looked

        ensure_asyncio()
        return await looked(last, self.targets, self.check, limit)

    async def clear(self, *, target: str | None = None, declarations: bool = False) -> None:
        """Forget how leaders failed and how many starts did, so that the next one tries again.

        `target`: a target's name; default: every target. `declarations`: forget as well which older
        code works with the database, so that such code is refused until the next migration; default
        False. Raises what taking the lock raises.
        """
        from automigrator.runner.records.leader_record import forget

        ensure_asyncio()
        for each in self.targets if target is None else (named(self.targets, target),):
            async with opened(each) as session:
                await forget(session, declarations=declarations)

    async def accept(self, *, target: str | None = None) -> dict[str, tuple[str, ...]]:
        """Take the files of applied revisions as they are now, edited or not.

        Every target's, without `target`. Returns the edited revisions of each, by its name. Raises
        what taking the lock raises.
        """
        from automigrator.runner.records.edits import accept

        ensure_asyncio()
        edited = {}
        for each in self.targets if target is None else (named(self.targets, target),):
            async with opened(each) as session:
                edited[each.name] = await accept(session)
        return edited

    async def dump_schema(
        self,
        file: str | Path | None = None,
        *,
        target: str | None = None,
        binaries: str | Path | None = None,
    ) -> Path:
        """Write the schema file of one target, from a new database that the revisions have made.

        `file`: where to; default: `Target(bootstrap=)`. `target`: a target's name, needed when
        there are several. `binaries`: the folder of pg_dump; default: a strategy's, else the PATH.
        Raises RefusedError, no file written, where SQL does not make what the revisions make, and
        what these raise.
        """
        from automigrator.runner.operations.schema import dump, path_of
        from automigrator.runner.operations.snapshots import path_of as folder_of

        path, folder = path_of(named(self.targets, target), file), folder_of(binaries)
        await self._operated(target, lambda state: dump(state, path, folder))
        return path

    async def check_schema(
        self, file: str | Path | None = None, *, target: str | None = None
    ) -> tuple[str, ...]:
        """In what the database of a schema file differs from that of the revisions; none: equal.

        The arguments are as in `dump_schema`. Both databases are new ones, beside the target's.
        """
        from automigrator.runner.operations.schema import check, path_of

        path = path_of(named(self.targets, target), file)
        return await self._operated(target, lambda state: check(state, path))

    async def snapshots(
        self, *, target: str | None = None, folder: str | Path | None = None
    ) -> tuple[Snapshot, ...]:
        """The copies of one target that automigrator keeps, newest first; changes nothing.

        `target`: a target's name, needed when there are several. `folder`: where copies may be,
        besides the usual place and the strategies' own folders. Raises what looking raises.
        """
        from automigrator.runner.operations.snapshots import listed

        ensure_asyncio()
        chosen = named(self.targets, target)
        hooks = (await self._loaded())[chosen.name]
        async with opened(chosen) as session:
            return await listed(session, hooks, folder)

    async def take_snapshot(
        self,
        *,
        target: str | None = None,
        folder: str | Path | None = None,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: str | Path | None = None,
    ) -> Snapshot:
        """Copy one target's data under the lock, and verify the copy; no migration undoes it.

        `target`: a target's name, needed when there are several. The rest is as in
        `Run.snapshot`, but a dump is made beside whoever works on the database; only where nobody
        does, it is tried whether it can be put back. What a killed process left is ended before.
        Raises RefusedError, and what taking the lock raises.
        """
        from automigrator.backends.contract.snapshots import SnapshotOptions
        from automigrator.runner.operations.snapshots import path_of, take

        options = SnapshotOptions(path_of(folder), disconnect_others, how, path_of(binaries))
        return await self._operated(target, lambda state: take(state, options))

    async def restore_snapshot(
        self,
        place: str | Path,
        *,
        target: str | None = None,
        folder: str | Path | None = None,
        disconnect_others: bool = False,
        any_heads: bool = False,
        binaries: str | Path | None = None,
    ) -> Restored:
        """Put a copy of one target back, under the lock, and keep what it replaces.

        `place`: as `snapshots` lists it, or "newest": the newest whole snapshot. `target`: a
        target's name, needed when there are several. `folder`: where copies may be.
        `disconnect_others`: end sessions in the way (PostgreSQL); default False. `any_heads`:
        whether the copy may be at revisions that this code does not know; default False.
        `binaries`: the folder of psql and pg_restore; default: a strategy's, else the PATH. Raises
        RefusedError, the database as it was, and what taking the lock raises.
        """
        from automigrator.runner.operations.snapshots import RestoreOptions, path_of, restore

        options = RestoreOptions(path_of(folder), disconnect_others, any_heads, path_of(binaries))
        return await self._operated(target, lambda state: restore(state, str(place), options))

    async def prune_snapshots(
        self,
        keep: int | None = None,
        *,
        max_age: timedelta | float | None = None,
        keep_replaced: int | None = None,
        keep_purged: int | None = None,
        folder: str | Path | None = None,
        target: str | None = None,
    ) -> tuple[str, ...]:
        """Delete one target's copies beyond the limits, under the lock; returns their places.

        `keep`: how many of the newest snapshots stay. `max_age`: how old they may be, in days or
        as a timedelta. `keep_replaced`, `keep_purged`: how many stay of what restores, or purges,
        have kept; default: all. Damaged files that were set aside go by `keep_purged`. `folder`:
        where copies may be. `target`: a target's name, needed when there are several. None sets no
        limit. The newest stays, and so does what an open journal needs. Raises ConfigurationError
        without a limit, and ValueError for a wrong one.
        """
        from automigrator.retention import Limits
        from automigrator.runner.operations.snapshots import prune

        limits = Limits(keep, max_age), Limits(keep_replaced), Limits(keep_purged)
        if not any(limits):
            raise ConfigurationError(
                "prune_snapshots needs a limit: keep=, max_age=, keep_replaced= or keep_purged="
            )
        return await self._operated(target, lambda state: prune(state, folder, *limits))

    async def _operated(self, target: str | None, act: Callable[[RunState], Awaitable[T]]) -> T:
        ensure_asyncio()
        chosen = named(self.targets, target)
        try:
            async with opened(chosen) as session, self._state(session) as state:
                return await act(state)
        finally:
            await self._in_house.aclose()

    # What a Migrator knows.

    @property
    @abstractmethod
    def _in_house(self) -> Hooks: ...

    @abstractmethod
    async def _loaded(self) -> Mapping[str, Hooks]: ...

    @abstractmethod
    def _state(self, session: Session) -> AbstractAsyncContextManager[RunState]: ...
