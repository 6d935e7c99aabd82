"""One target's part of a run: what it is at, what is known and done, and its report."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from automigrator.events.lock_wait import LockWait
from automigrator.hooks.calls import GRACE_S
from automigrator.hooks.context import Rebuild, Run
from automigrator.printable import escaped
from automigrator.report import Applied, TargetReport
from automigrator.runner.rehearsals.outcome import Rehearsals
from automigrator.runner.time_limit import RunLimit
from automigrator.support.concurrency import in_thread
from automigrator.target import chosen

if TYPE_CHECKING:  # a start with nothing to do needs none of it
    from automigrator.backends.contract.declarations import Declaration
    from automigrator.backends.contract.lock import Hold
    from automigrator.backends.contract.values import Place, Sight, StatementProgress, VersionTable
    from automigrator.events.notifier import Notifier
    from automigrator.failure import Failure, FailureKind, State
    from automigrator.hooks.acts import Kind
    from automigrator.hooks.decisions import Decisions
    from automigrator.hooks.registry import Hooks
    from automigrator.migrations.execution import Configured, Execution, Migration
    from automigrator.migrations.ways import Way
    from automigrator.rehearsal import Rehearsal
    from automigrator.report import Outcome
    from automigrator.runner.inspection import Finding
    from automigrator.runner.replays import Replays
    from automigrator.runner.session import Session
    from automigrator.runner.start import Start
    from automigrator.target import Ahead, LastResort, Target

    class Owner(Protocol):
        """The Migrator, as its targets' runs see it: options, plugins, overridable steps."""

        allow_partial: bool
        max_failed_starts: int
        last_resort: LastResort
        ahead: Ahead
        rehearse: bool | Rehearsal
        replay: Replays | None

        def create_database(self, run: Run) -> Awaitable[bool]: ...

        @property
        def recreate_database(self) -> Rebuild: ...

        def migrate_target(self, run: Run) -> Awaitable[TargetReport]: ...

        def hooks_of(self, target: Target) -> Awaitable[Hooks]: ...


class Left(NamedTuple):
    """What a failed attempt left in the database."""

    state: State = "clean"
    applied: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()
    revision: str | None = None
    hint: str = ""
    """How the state was found, where nothing was seen to be committed."""

    @classmethod
    def of(cls, failure: Failure) -> Left:
        return cls(failure.state, failure.applied, failure.debris)

    def after(self, earlier: Left) -> Left:
        """Return this on top of what an earlier attempt left."""
        from automigrator.failure import State  # local: only a failure needs it

        return Left(
            max(self.state, earlier.state, key=get_args(State).index),
            tuple(dict.fromkeys(earlier.applied + self.applied)),
            tuple(dict.fromkeys(earlier.debris + self.debris)),
            self.revision,
            self.hint,
        )


class Phase(NamedTuple):
    """What a run is at.

    `what`: for messages, after "the run was". `kind`: the failure's, where neither the error nor
    the driver says. `revisions`: the pending revisions run now.
    """

    what: str
    kind: FailureKind
    revisions: bool = False


_LOOKING = Phase("looking at the database", "unreachable")


class RunState:
    """Everything about one target's part of a run that its steps share."""

    hold: Hold
    """The lock, from when it was taken, even if it is lost; `run.hold` is set while it is held."""
    decisions: Decisions
    """What the plugins decide, once the strategies are loaded."""

    def __init__(
        self,
        owner: Owner,
        session: Session,
        progress: Notifier,
        hooks: Hooks,
        limit: RunLimit | None = None,
        *,
        looked: bool = False,
    ) -> None:
        self.hooks = hooks
        """The plugins: those of the application, and the strategies once they are loaded."""
        self.looked = looked
        """Whether it is known that there is something to do."""
        self.owner = owner
        self.session = session
        self.target = target = session.target
        self.backend = session.backend
        self.progress = progress
        self.run = Run(target, self.backend, progress, owner.recreate_database, self.undone)
        self.limit = limit or RunLimit(None)
        """The time that the whole run has."""
        most = target.max_failed_starts
        self.max_failed_starts = owner.max_failed_starts if most is None else most
        self.last_resort = target.last_resort or owner.last_resort
        self.ahead = target.ahead or owner.ahead
        self.rehearse = chosen(target.rehearse, owner.rehearse)
        self.unreached: Exception | None = None
        """Why the last look failed, while the server is waited for."""
        self.began = time.monotonic()
        self.phase = _LOOKING
        self.declared: Sequence[Declaration] | None = None
        """What the database declared before this run let it declare something else."""
        self.created = False
        """Whether this run has created the database."""
        self.wait = LockWait(self.enter, self.tell)
        self.finding: Finding | None = None
        self.plan = ""
        """A digest of the pending revisions; empty while they are not known."""
        self.may_commit = False
        """Whether the code of one of them may commit in its middle."""
        self.unfinished = False
        """Whether the last look saw a killed process's journal open."""
        self.replaced = False
        """Whether a process that was killed had put a fresh database in the target's place."""
        self.leads = True
        """Whether this run tried itself, so that its record is new."""
        self.rehearsal: Execution | None = None
        """What env.py did to the copy of a rehearsal that is under way, or has failed."""
        self.rehearsals = Rehearsals()
        self.execution: Execution | None = None
        """What env.py did in this attempt."""
        self.debris: tuple[str, ...] = ()
        """What lay about before this attempt began."""
        self.blockers: Callable[[], tuple[str, ...]] | None = None
        """Names those who were in the way, once that is watched."""
        self.after: tuple[str, ...] = ()
        self.applied: list[Applied] = []
        self._counted: set[str] = set()
        self.failures: list[Failure] = []
        self.earlier = Left()
        """The half that an earlier start left at the same revisions, as its record says."""
        self.lasting = Left()
        """What earlier attempts left, which makes a later one no cleaner."""
        self.unseen: tuple[Execution, Left] | None = None
        """What env.py did where nobody could look afterwards, and what had been left before."""
        self.how_far = ""
        """How far a run came that was cancelled; empty where it had begun nothing."""
        self.drive: str | None = None
        self.asks_env = False
        """Whether env.py is asked how it reaches the database, whatever is expected of it."""
        self._attempt_began: float | None = None

    @cached_property
    def start(self) -> Start:
        """How this start counts."""
        from automigrator.runner.start import Start  # local: only what migrates needs it

        return Start()

    @property
    def tables(self) -> tuple[VersionTable, ...]:
        """The version tables as far as they are known."""
        return self.finding.tables if self.finding is not None else (self.session.table,)

    def journal_open(self) -> bool:
        """Whether a journal is open that this run does not close itself."""
        acts = self.run.acts
        others = self.unfinished and self.run.taken is None
        return others or acts.open("restore") or acts.open("recover")

    async def look(self) -> Sight:
        """Read the heads, under the lock where it is held. Raises what reading raises."""
        sight = await (self.run.hold or self.backend).look(self.tables)
        self.unfinished = sight.unfinished
        return sight

    def enter(self, what: str, kind: FailureKind | None = None, *, revisions: bool = False) -> None:
        """Enter a phase; one without a kind is a part of the phase before it."""
        self.phase = Phase(what, kind or self.phase.kind, revisions)
        self.progress.enter(self.run.name, what)

    @contextmanager
    def at(self, what: str, kind: FailureKind) -> Iterator[None]:
        """Context manager: be in a phase, and back in the one before when nothing is raised."""
        before = self.phase
        self.enter(what, kind)
        yield
        self.phase = before

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Hold]:
        """Context manager: hold the migration lock, and tell."""
        looked_s = time.monotonic() - self.began
        async with self.session.lock(self.wait.goes_on) as hold:
            self.hold = self.run.hold = hold
            self.wait.seconds = hold.waited_s
            hold.since -= looked_s  # a leader that failed while this run only looked binds it, too
            self.tell("locked", waited_s=hold.waited_s)
            for note in hold.notes:
                self.run.note(note)
            if any(map(self.hooks.impls, ("before_migrate", "on_failure"))):
                # what they act with is imported while files can be opened
                await in_thread(lambda: (hold.snapshots, hold.sides))
            yield hold

    def tell(self, event: str, /, **data: Any) -> None:
        """Report an event of this target."""
        self.progress(event, self.run.name, **data)

    def hook_told(self, hook: str, plugin: str) -> AbstractContextManager[Callable[[], object]]:
        """Context manager: a plugin is asked, and that is told."""
        self.enter(f"in {hook} of {plugin}")
        return self.progress.hook(self.target, hook, plugin, GRACE_S)

    def planned(self) -> None:
        """Tell which revisions are pending, where somebody listens."""
        if not self.progress.wanted("planned"):
            return
        keys = ("revision", "down_revision", "doc")
        revisions = [{key: each.to_dict()[key] for key in keys} for each in self.run.pending]
        told = ", ".join(escaped(each["revision"]) for each in revisions) or "none"
        self.tell("planned", told=f"revisions pending: {told}", revisions=revisions)

    def attempt_started(self, pending: int) -> None:
        """Tell that the pending revisions are about to run."""
        if self._attempt_began is None:
            self._attempt_began = time.monotonic()
            self.tell("attempt-started", attempt=self.run.attempt, pending=pending)

    def attempt_finished(self, outcome: Literal["applied", "failed", "cancelled"]) -> None:
        """Tell how the attempt ended, if one was begun."""
        began, self._attempt_began = self._attempt_began, None
        if began is not None:
            attempt, seconds = self.run.attempt, time.monotonic() - began
            self.tell("attempt-finished", attempt=attempt, outcome=outcome, seconds=seconds)

    def started(self, revision: str, index: int, total: int) -> None:
        """Tell that a revision begins; `index` counts from 1."""
        self.tell("revision-started", revision=revision, index=index, total=total)

    def server_says(self, found: StatementProgress) -> None:
        """Tell how far a long statement is."""
        self.tell("progress", phase=found.phase, done=found.done, total=found.total)

    def done(self, revision: str, seconds: float) -> None:
        """Count a revision as applied, and tell."""
        if revision in self._counted:  # it was rolled back, and run anew
            self.applied[:] = [each for each in self.applied if each.revision != revision]
        self._counted.add(revision)
        self.applied.append(Applied(revision, seconds))
        self.ran(revision, seconds)

    def ran(self, revision: str, seconds: float) -> None:
        """Tell that a revision is done, here or on the side."""
        self.tell("revision-done", revision=revision, seconds=seconds)

    async def migration(self, place: Place | None = None) -> Migration:
        """What env.py is run for under the lock: the target, or a database on its side."""
        return await self.session.migration(self.hold, place)

    async def run_revisions(
        self,
        migration: Migration,
        way: Way,
        execution: Execution,
        done: Callable[[str, float], None],
        down_to: str | None = None,
        expected: Configured | None = None,
        agreed: Callable[[Configured], None] = lambda _: None,
    ) -> None:
        """Run env.py up to what the target asks for, or `down_to` a revision, as long as locked.

        The rest as in `Command`; `execution` is filled in. Raises what env.py and the lock raise.
        """
        # local: they import Alembic
        from automigrator.migrations.drive import drive
        from automigrator.migrations.execution import Command

        down, revision = down_to is not None, down_to or self.target.revision
        told = self.started, done, self.server_says, None, expected, agreed
        left = self.rehearsals.deferred if execution is self.execution else ()
        await drive(migration, way, Command(revision, True, down, *told, left), execution)

    def undone(self, act: Kind) -> None:
        """Forget what attempts left: the database is as it was before them, or a fresh one."""
        self.execution, self.rehearsal, self.lasting, self.unseen = None, None, Left(), None
        if act == "restore":
            self.lasting = self.earlier
            self.applied.clear()
            self.failures[:] = [each._replace(applied=()) for each in self.failures]

    def failed(self, failure: Failure, told: object) -> None:
        """Note a failure, and tell; `told` is the text for the log."""
        self.failures.append(failure)
        self.lasting = Left.of(failure)
        self.tell("failed", told=told, **failure.to_dict())

    def report(self, outcome: Outcome) -> TargetReport:
        """Say what became of the target."""
        run = self.run
        reached = outcome not in ("failed", "degraded", "cancelled")
        return TargetReport(
            run.name,
            outcome,
            before=run.before,
            after=self.after,
            applied=() if run.rollback else tuple(self.applied),
            reverted=tuple(self.applied) if run.rollback else (),
            attempts=run.attempt,
            failures=tuple(self.failures),
            drive=self.drive,
            leader=bool(self.applied) or run.rebuilt,
            waited_s=self.wait.seconds,
            elapsed_s=time.monotonic() - self.began,
            notes=tuple(run.notes),
            failed_starts=0 if reached else self.start.starts.count,
            state="clean" if reached else self.lasting.state,
            snapshot=run.taken.place if run.taken is not None else None,
            **self.rehearsals.told(),
        )
