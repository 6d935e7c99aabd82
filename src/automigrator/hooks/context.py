"""What a hook sees of one target's part of a run, and the acts it may ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

# what only an act needs is imported there: a start with nothing to do comes here, too
from automigrator.errors import RefusedError
from automigrator.hooks.acts import Acts
from automigrator.hooks.calls import acting

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from automigrator.backends.contract.backend import Backend
    from automigrator.backends.contract.lock import Hold
    from automigrator.backends.contract.snapshots import Copying, Snapshot
    from automigrator.backends.contract.values import VersionTable
    from automigrator.events.notifier import Notifier
    from automigrator.failure import Failure
    from automigrator.hooks.acts import Kind
    from automigrator.hooks.effects import Effect
    from automigrator.status import PendingRevision
    from automigrator.target import Target

T = TypeVar("T")


class Rebuild(Protocol):
    """How a fresh database takes the target's place; see `Run.recreate_database`."""

    def __call__(
        self, run: Run, *, set_aside: bool, disconnect_others: bool, also: Sequence[str] = ()
    ) -> Awaitable[str | None]: ...


class Run:
    """One target's part of a run; it refuses acts that a plugin's `effect` does not declare.

    `pending`: the revisions to apply, in order. `before`, `wanted`: heads. `attempt`: counts from
    1. `transactional`: a failed attempt rolls back whole, by itself: one transaction, and no
    revision that commits in the middle. `empty`: no revision and no table, nothing to lose.
    `failure`: what is left to answer for. `notes`: lines of the report so far. `rollback`: it is a
    `rollback()`, and `pending` are the revisions to undo.
    """

    def __init__(
        self,
        target: Target,
        backend: Backend,
        progress: Notifier,
        rebuild: Rebuild,
        undone: Callable[[Kind], None],
    ) -> None:
        self.target = target
        self.describe: Callable[[], tuple[PendingRevision, ...]] = tuple
        """Makes `pending`, which is read from every file, for those who ask for it."""
        self.before: tuple[str, ...] = ()
        self.wanted: tuple[str, ...] = ()
        self.empty = False
        self.rollback = False
        self.attempt = 0
        self.transactional = False
        self.failure: Failure | None = None
        self.notes: list[str] = []
        self.tables: tuple[VersionTable, ...] = ()
        self.acts = Acts()
        self.hold: Hold | None = None
        """The migration lock, as long as it is held."""
        self.stopped = ""
        """Why this run touches nothing, whatever its plugins ask for; empty where it may."""
        self.taken: Snapshot | None = None
        """This run's snapshot."""
        self._backend = backend
        self._progress = progress
        self._rebuild = rebuild
        self._undone = undone
        self._effect: Effect = "none"
        self._python_errors = False

    @property
    def pending(self) -> tuple[PendingRevision, ...]:
        """See the class."""
        return self.describe()

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

    @property
    def locked(self) -> bool:
        """Whether the migration lock is held."""
        return self.hold is not None

    @property
    def restored(self) -> bool:
        """Whether this run's snapshot was put back."""
        return self.acts.done("restore")

    @property
    def rebuilt(self) -> bool:
        """Whether a fresh database took the target's place."""
        return self.acts.done("recreate")

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
        """Copy the target's data and verify the copy; a second call returns the same copy.

        `folder`: where the copy goes; default: beside the database. `disconnect_others`: end
        sessions in the way; default False. PostgreSQL: `how` is `"auto"` (default), `"template"`
        or `"dump"`, `binaries` the folder of pg_dump; default: the PATH. Raises RefusedError when
        no copy can be made safely.
        """
        hold = self._need_lock("take a snapshot")
        if self.taken is None:
            snapshots = self.offered(hold.snapshots, "snapshots")
            from automigrator.backends.contract.snapshots import SnapshotOptions
            from automigrator.retention import stamp

            options = SnapshotOptions(folder, disconnect_others, how, binaries)
            told = self._progress.step("snapshot-started", "snapshot-failed", self.target)
            with acting("take a snapshot"), told as seconds, self.acts.act("snapshot"):
                self.taken = await snapshots.take(
                    stamp(),
                    self.before,
                    self.wanted,
                    self.tables,
                    options,
                    atomic=self.transactional,
                    # on the way down a head in between may be one that stays
                    steps=tuple(
                        dict.fromkeys((*(each.revision for each in self.pending), *self.wanted))
                    ),
                )
            self._progress("snapshot-taken", self.name, place=self.taken.place, seconds=seconds())
        return self.taken

    async def prune_snapshots(
        self,
        keep: int | None = None,
        *,
        max_age: timedelta | None = None,
        folder: Path | None = None,
    ) -> tuple[str, ...]:
        """Delete the target's snapshots beyond the limits, and return them.

        `keep`: how many of the newest stay. `max_age`: how old they may be. `folder`: where they
        are. None sets no limit. This run's own and the last good one stay.
        """
        hold = self._need_lock("prune snapshots")
        snapshots = self.offered(hold.snapshots, "snapshots")
        from automigrator.retention import Limits

        with acting("prune snapshots"):
            return await snapshots.prune(Limits(keep, max_age), folder)

    async def prune_replaced(
        self,
        keep: int | None = None,
        *,
        max_age: timedelta | None = None,
        folder: Path | None = None,
    ) -> tuple[str, ...]:
        """Delete what restores have replaced, like `prune_snapshots`; somebody may have written it.

        What this run has kept stays.
        """
        hold = self._need_lock("prune what was replaced")
        snapshots = self.offered(hold.snapshots, "snapshots")
        from automigrator.retention import Limits

        with acting("prune what was replaced"):
            return await snapshots.prune_replaced(Limits(keep, max_age), folder)

    async def prune_set_aside(
        self, keep: int | None = None, *, max_age: timedelta | None = None
    ) -> tuple[str, ...]:
        """Delete old databases that `recreate_database` set aside, like `prune_snapshots`."""
        hold = self._need_lock("prune what was set aside")
        sides = self.offered(hold.sides, "databases on the side")
        from automigrator.retention import Limits

        with acting("prune what was set aside"):
            return await sides.prune_set_aside(Limits(keep, max_age))

    async def restore(self, *, disconnect_others: bool = False) -> None:
        """Put this run's own snapshot back, after a failure that left changes behind.

        `disconnect_others`: end sessions in the way; default False. Raises RefusedError when
        there is no snapshot, or the plugin does not declare `effect = "reverting"`.
        """
        failure, hold = self._allowed("reverting", "restore a snapshot")
        snapshots = self.offered(hold.snapshots, "snapshots")
        if self.taken is None:
            raise RefusedError("no snapshot was taken in this run; nothing was changed")
        place = self.taken.place
        told = self._progress.step("restore-started", "restore-failed", self.target, place=place)
        with acting("restore a snapshot"), told as seconds, self.acts.act("restore"):
            try:
                await hold.confirm()
                await self._ensure_unfinished(hold)
                kept = await snapshots.restore(self.taken, disconnect_others=disconnect_others)
                if kept is not None:
                    self.note(
                        "what the database held until it was put back, and with it what others "
                        f"wrote meanwhile, is in {kept}"
                    )
                heads = (await hold.look(self.tables)).all_heads()
                if heads != self.taken.heads:
                    raise RuntimeError(
                        f"put back from {place}, the database is at {heads}, "
                        f"not at {self.taken.heads}; the next start restores it again"
                    )
            except Exception:
                self.note(
                    "not put back: the database stays as the failed migration left it; before "
                    f"anything else the next start tries to put {place} back"
                )
                raise
        self._undone("restore")
        self._progress("restored", self.name, place=place, kind=failure.kind, seconds=seconds())

    async def _ensure_unfinished(self, hold: Hold) -> None:
        """Raise RefusedError where the migration has ended, or nobody can tell."""
        if self.wanted == self.before:
            return
        try:
            heads = (await hold.look(self.tables)).all_heads()
        except Exception as error:
            if self._backend.classify(error).kind == "corrupt":
                return  # what is put back replaces that
            raise RefusedError(
                "the database cannot be looked at, and a migration that has ended is never put "
                "back; nothing was changed"
            ) from error
        if heads == tuple(sorted(self.wanted)):
            raise RefusedError(
                f"the database is at {', '.join(heads) or 'base'}, where the migration was to "
                "lead, and is not put back; nothing was changed"
            )

    async def recreate_database(
        self,
        *,
        set_aside: bool = True,
        disconnect_others: bool = False,
        also: Sequence[str] = (),
    ) -> str | None:
        """Build and migrate a fresh database on the side, and let it take the target's place.

        `set_aside`: keep the old data under another name; default True. `disconnect_others`: end
        sessions in the way; default False. `also`: names of tables, with or without a schema, that
        may be replaced although neither the revisions nor `bootstrap` make them. Returns where the
        old data is, None when it was deleted. Raises RefusedError, the old database untouched, when
        the plugin does not declare `effect = "discarding"`, the database holds other tables than
        these, or the fresh one cannot be migrated either.
        """
        self._allowed("discarding", "replace the database")
        told = self._progress.step("recreate-started", "recreate-failed", self.target)
        with acting("replace the database"), told as seconds, self.acts.act("recreate"):
            more = {"also": tuple(also)} if also else {}  # a subclass may know of none
            aside = await self._rebuild(
                self, set_aside=set_aside, disconnect_others=disconnect_others, **more
            )
        self._undone("recreate")
        self._progress("recreated", self.name, aside=aside or "deleted", seconds=seconds())
        return aside

    @contextmanager
    def acting(self, effect: Effect, *, python_errors: bool = False) -> Iterator[None]:
        """Context manager: acts of `effect` are allowed; see `effects.may_act`."""
        self._effect, self._python_errors = effect, python_errors
        try:
            yield
        finally:
            self._effect, self._python_errors = "none", False

    def _allowed(self, effect: Effect, act: str) -> tuple[Failure, Hold]:
        hold = self._need_lock(act)
        failure = self.failure
        if failure is None:
            raise _refused(act, ": nothing has failed")
        if self._effect != effect:
            raise _refused(act, f": the plugin does not declare effect = {effect!r}")
        from automigrator.hooks.effects import may_act

        if not may_act(effect, failure, python_errors=self._python_errors):
            left = f"a failure of kind {failure.kind} that left the database {failure.state}"
            if effect == "discarding":
                left = f"a failure of kind {failure.kind} that blames the {failure.blames}"
            raise _refused(act, f" after {left}")
        return failure, hold

    def _need_lock(self, act: str) -> Hold:
        if self.hold is None:
            raise _refused(act, " without the migration lock")
        if self.stopped:
            raise _refused(act, f" {self.stopped}")
        return self.hold

    def offered(self, part: T | None, what: str) -> T:
        """Return a part of the lock's hold. Raises RefusedError where the backend has none."""
        if part is None:
            if self.in_memory:
                raise RefusedError(
                    f"a database in memory has no {what}; nothing was changed. It is rebuilt by "
                    "restarting the application"
                )
            raise RefusedError(
                f"the backend of {self.database} offers no {what}; nothing was changed. Go "
                "without: Target(recovery=[...]) and Target(rehearse=False) are for one target"
            )
        return part


def _refused(act: str, why: str) -> RefusedError:
    return RefusedError(f"cannot {act}{why}; nothing was changed")
