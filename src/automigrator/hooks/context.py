"""What a hook sees of one target's part of a run, and the acts it may ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.snapshots import Copying, Snapshot
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import RefusedError
from automigrator.events.notifier import Progress
from automigrator.failure import Failure
from automigrator.hooks.calls import acting
from automigrator.hooks.effects import Effect, may_act
from automigrator.status import PendingRevision
from automigrator.target import Target

if TYPE_CHECKING:
    from automigrator.runner.state import Course
from automigrator.retention import stamp


class Rebuild(Protocol):
    """How a fresh database takes the target's place; see `Run.recreate_database`."""

    def __call__(
        self, run: Run, *, set_aside: bool, disconnect_others: bool
    ) -> Awaitable[str | None]: ...


class Run:
    """One target's part of a run; what a plugin's declared `effect` does not cover is refused.

    `before` and `wanted` are heads. `transactional` says that a failed attempt rolls back by
    itself, whole: one transaction, and no revision that commits in the middle.
    """

    def __init__(
        self, target: Target, backend: Backend, progress: Progress, rebuild: Rebuild
    ) -> None:
        self.target = target
        self.pending: tuple[PendingRevision, ...] = ()
        self.before: tuple[str, ...] = ()
        self.wanted: tuple[str, ...] = ()
        self.empty = False
        """Whether there is nothing to lose: no revision and no table."""
        self.attempt = 0
        self.transactional = False
        self.failure: Failure | None = None
        self.notes: list[str] = []
        self.tables: tuple[VersionTable, ...] = ()
        self.taken: Snapshot | None = None
        self.copying = False
        """Whether a snapshot was begun: a cancellation may come when its journal is open."""
        self.restored = False
        self.rebuilt = False
        self.unfinished = False
        """Whether a restore was begun and has not ended well: the next start ends it."""
        self.locked = False
        self.stopped = False
        """Whether so many starts have failed that this one touches nothing."""
        self._backend = backend
        self._progress = progress
        self._rebuild = rebuild
        self._course: Course
        self._effect: Effect = "none"

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    @property
    def id(self) -> str:
        """What events and log records of this run have in common."""
        return self._progress.run

    @property
    def database(self) -> str:
        """The kind of database: `sqlite`, `postgresql`."""
        return self._backend.name

    @property
    def in_memory(self) -> bool:
        """Whether the database lives in the application's own connection alone."""
        return self._backend.in_place

    def note(self, text: str) -> None:
        """Put a line into the report and the log."""
        self.notes.append(text)
        self._progress("note", self.name, text=text)

    async def snapshot(
        self,
        *,
        folder: Path | None = None,
        disconnect_others: bool = False,
        how: Copying = "auto",
        binaries: Path | None = None,
    ) -> Snapshot:
        """Copy the target's data and verify the copy; once a run, then the same is returned.

        On PostgreSQL `how` may insist on a template copy or on a dump, and `binaries` say where
        pg_dump is. Raises RefusedError when it cannot be made safely.
        """
        self._need_lock("take a snapshot")
        if self.taken is None:
            told = self._progress.step("snapshot-started", "snapshot-failed", self.target)
            with acting("take a snapshot"), told as seconds:
                self.copying = True
                self.taken = await self._backend.snapshot(
                    stamp(),
                    self.before,
                    self.wanted,
                    self.tables,
                    atomic=self.transactional,
                    folder=folder,
                    disconnect_others=disconnect_others,
                    how=how,
                    binaries=binaries,
                )
            place = self.taken.place
            self._progress("snapshot-taken", self.name, place=place, seconds=seconds())
        return self.taken

    async def prune_snapshots(
        self,
        keep: int | None = None,
        *,
        max_age: timedelta | None = None,
        folder: Path | None = None,
    ) -> tuple[str, ...]:
        """Delete the target's snapshots beyond the newest `keep` and those older than `max_age`.

        Never this run's own, nor the last good one, whatever the limits are; None sets none. On
        PostgreSQL also of what restores have replaced. Returns what was deleted.
        """
        self._need_lock("prune snapshots")
        with acting("prune snapshots"):
            return await self._backend.prune(keep, max_age=max_age, folder=folder)

    async def prune_set_aside(
        self, keep: int | None = None, *, max_age: timedelta | None = None
    ) -> tuple[str, ...]:
        """The same for the old databases that `recreate_database` has set aside."""
        self._need_lock("prune what was set aside")
        with acting("prune what was set aside"):
            return await self._backend.prune_set_aside(keep, max_age=max_age)

    async def restore(self, *, disconnect_others: bool = False) -> None:
        """Put this run's own snapshot back, after a failure that left changes behind.

        Raises RefusedError when there is none, or the plugin does not declare
        `effect = "reverting"`.
        """
        failure = self._allowed("reverting", "restore a snapshot")
        if self.taken is None:
            raise RefusedError("no snapshot was taken in this run; nothing was changed")
        place = self.taken.place
        told = self._progress.step("restore-started", "restore-failed", self.target, place=place)
        unfinished = self._left_to_the_next_start(place)
        with acting("restore a snapshot"), told as seconds, unfinished:
            self.unfinished = True
            kept = await self._backend.restore(self.taken, disconnect_others=disconnect_others)
            if kept is not None:
                self.note(
                    "what the database held until it was put back, and with it what others wrote "
                    f"meanwhile, is in {kept}"
                )
            heads = (await self._backend.look(list(self.tables))).all_heads()
            if heads != self.taken.heads:
                raise RuntimeError(
                    f"put back from {place}, the database is at {heads}, "
                    f"not at {self.taken.heads}; the next start restores it again"
                )
        self.unfinished = False
        self.restored = True
        self._course.undone()
        self._course.applied.clear()
        kind = failure.kind
        self._progress("restored", self.name, place=place, kind=kind, seconds=seconds())

    async def recreate_database(
        self, *, set_aside: bool = True, disconnect_others: bool = False
    ) -> str | None:
        """Build and migrate a fresh database on the side, and let it take the target's place.

        Returns where the old data was set aside, None when it was thrown away. Raises
        RefusedError, the old database untouched, when the plugin does not declare
        `effect = "discarding"`, or when the fresh database cannot be migrated either.
        """
        self._allowed("discarding", "replace the database")
        told = self._progress.step("recreate-started", "recreate-failed", self.target)
        with acting("replace the database"), told as seconds:
            aside = await self._rebuild(
                self, set_aside=set_aside, disconnect_others=disconnect_others
            )
        self.rebuilt = True
        self._course.undone()
        kept = aside or "deleted"
        self._progress("recreated", self.name, aside=kept, seconds=seconds())
        return aside

    @contextmanager
    def _left_to_the_next_start(self, place: str) -> Iterator[None]:
        """Say what becomes of the database when a restore fails."""
        try:
            yield
        except Exception:
            self.note(
                "not put back: the database stays as the failed migration left it; before "
                f"anything else the next start tries to put {place} back"
            )
            raise

    @contextmanager
    def acting(self, effect: Effect) -> Iterator[None]:
        """Within, acts of `effect` are allowed."""
        self._effect = effect
        try:
            yield
        finally:
            self._effect = "none"

    def _allowed(self, effect: Effect, act: str) -> Failure:
        self._need_lock(act)
        failure = self.failure
        if failure is None:
            raise RefusedError(f"cannot {act}: nothing has failed; nothing was changed")
        if self._effect != effect:
            raise RefusedError(
                f"cannot {act}: the plugin does not declare effect = {effect!r}; "
                "nothing was changed"
            )
        if not may_act(effect, failure):
            raise RefusedError(
                f"cannot {act} after a failure of kind {failure.kind} that left the database "
                f"{failure.state}; nothing was changed"
            )
        return failure

    def _need_lock(self, act: str) -> None:
        if not self.locked:
            raise RefusedError(f"cannot {act} without the migration lock; nothing was changed")
        if self.stopped:
            raise RefusedError(f"cannot {act} after too many failed starts; nothing was changed")
