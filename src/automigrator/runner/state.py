"""One target's way through a run: what is known and done so far, and what becomes its report."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

from automigrator.backends.contract.lock import FailedStarts
from automigrator.hooks.calls import GRACE_S
from automigrator.report import Applied, TargetReport

if TYPE_CHECKING:
    from automigrator.backends.contract.lock import Hold, Record
    from automigrator.backends.contract.values import VersionTable
    from automigrator.events.notifier import Progress
    from automigrator.failure import Failure, FailureKind, State
    from automigrator.hooks.context import Run
    from automigrator.hooks.registry import Hooks
    from automigrator.migrations.environment import Execution
    from automigrator.rehearsal import Rehearsal
    from automigrator.report import Outcome
    from automigrator.runner.inspection import Finding
    from automigrator.runner.session import Ground
    from automigrator.runner.time_limit import RunLimit
    from automigrator.target import Ahead, LastResort, Target


class Owner(Protocol):
    """What a course asks of its Migrator: the steps a subclass may override, and its plugins."""

    def create_database(self, run: Run) -> Awaitable[bool]: ...

    def hooks_of(self, target: Target) -> Awaitable[Hooks]: ...


class Left(NamedTuple):
    """What a failed attempt left in the database."""

    state: State = "clean"
    applied: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()
    revision: str | None = None

    @classmethod
    def of(cls, failure: Failure) -> Left:
        return cls(failure.state, failure.applied, failure.debris)

    def after(self, earlier: Left) -> Left:
        """This on top of what an earlier attempt left."""
        from automigrator.failure import State  # local: only a failure needs it

        return Left(
            max(self.state, earlier.state, key=get_args(State).index),
            tuple(dict.fromkeys(earlier.applied + self.applied)),
            tuple(dict.fromkeys(earlier.debris + self.debris)),
            self.revision,
        )


@dataclass(slots=True, eq=False, repr=False)
class Course:
    """Everything about one target's part of a run that its steps share."""

    ground: Ground
    run: Run
    progress: Progress
    owner: Owner
    allow_partial: bool
    max_failed_starts: int = 0
    last_resort: LastResort = "ask"
    ahead: Ahead = "refuse"
    limit: RunLimit | None = None
    """The time that the whole run has."""
    rehearse: Rehearsal | None = None
    hooks: Hooks = field(init=False)
    """The plugins, once the strategies are loaded."""
    began: float = field(default_factory=time.monotonic)
    at: str = "looking at the database"
    """What is waited for or done, for a run whose time is over meanwhile."""
    finding: Finding | None = None
    execution: Execution | None = None
    debris: tuple[str, ...] = ()
    """What lay about before this attempt began."""
    doing: FailureKind = "unreachable"
    """What a failure is when neither it nor the driver says."""
    prepared: bool = False
    """Whether `before_migrate` has been called and all went well."""
    stamped: bool = False
    """Whether the database was given a starting point other than base."""
    rehearsing: Execution | None = None
    """What env.py did to the copy of a rehearsal that is under way, or has failed."""
    rehearsed: str = ""
    """The plan that has passed its rehearsal."""
    rehearsed_s: float | None = None
    after: tuple[str, ...] = ()
    applied: list[Applied] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lasting: Left = field(default_factory=Left)
    """What earlier attempts left, which makes a later one no cleaner."""
    how_far: str = "nothing was migrated"
    """How far a run came that was cancelled."""
    drive: str | None = None
    blockers: Callable[[], tuple[str, ...]] | None = None
    """Says who was in the way, once that is watched."""
    hold: Hold | None = None
    plan: str = ""
    """A digest of what was pending; empty while that is not known."""
    followed: bool = False
    """Whether this process took over how a leader ended that it had waited for."""
    served: bool = False
    """Whether the database is newer than this code, and the application starts on it."""
    repaired: bool = False
    """Whether what a dead leader left was finished or undone."""
    found: Record | None = None
    """What earlier leaders left, as this one found it."""
    begun: bool = False
    """Whether this start has been held against those before it; once, however often it tries."""
    counted: bool = False
    """Whether this start is written down as failed, until it succeeds."""
    starts: FailedStarts = field(default_factory=FailedStarts)
    """The starts that failed in a row, this one included."""

    _attempt_began: float | None = None

    @property
    def tables(self) -> tuple[VersionTable, ...]:
        """The version tables as far as they are known."""
        return self.finding.tables if self.finding is not None else (self.ground.table,)

    def hook_told(self, hook: str, plugin: str) -> AbstractContextManager[Callable[[], object]]:
        """Within, a plugin is asked, and that is told."""
        self.at = f"in {hook} of {plugin}"
        return self.progress.hook(self.ground.target, hook, plugin, GRACE_S)

    def waiting(self, seconds: float, leader: str) -> None:
        """Tell that another process holds the lock."""
        what = f"the migration lock, held by {leader}"
        self.at = f"waiting for {what}"
        self.progress("waiting", self.run.name, on="lock", what=what, seconds=seconds)

    def attempt_started(self, pending: int) -> None:
        """Tell that the pending revisions are about to run."""
        self._attempt_began = time.monotonic()
        self.progress("attempt-started", self.run.name, attempt=self.run.attempt, pending=pending)

    def attempt_finished(self, outcome: Literal["applied", "failed", "cancelled"]) -> None:
        """Tell how the attempt ended, if one was begun."""
        began, self._attempt_began = self._attempt_began, None
        if began is not None:
            self.progress(
                "attempt-finished",
                self.run.name,
                attempt=self.run.attempt,
                outcome=outcome,
                seconds=time.monotonic() - began,
            )

    def started(self, revision: str, index: int, total: int) -> None:
        """Tell that a revision begins; `index` counts from 1."""
        self.progress(
            "revision-started", self.run.name, revision=revision, index=index, total=total
        )

    def done(self, revision: str, seconds: float) -> None:
        """Count a revision as applied, and tell."""
        self.applied.append(Applied(revision, seconds))
        self.ran(revision, seconds)

    def ran(self, revision: str, seconds: float) -> None:
        """Tell that a revision is done, here or on the side."""
        self.progress("revision-done", self.run.name, revision=revision, seconds=seconds)

    def undone(self) -> None:
        """Forget what attempts left: the database is as it was before them, or a fresh one."""
        self.execution, self.rehearsing, self.lasting = None, None, Left()

    def report(self, outcome: Outcome) -> TargetReport:
        """What became of the target."""
        run = self.run
        return TargetReport(
            run.name,
            outcome,
            before=run.before,
            after=self.after,
            applied=tuple(self.applied),
            attempts=run.attempt,
            failures=tuple(self.failures),
            drive=self.drive,
            leader=bool(self.applied) or run.rebuilt,
            waited_s=self.hold.waited_s if self.hold is not None else 0.0,
            elapsed_s=time.monotonic() - self.began,
            notes=tuple(run.notes),
            failed_starts=self.starts.count if outcome in ("failed", "degraded") else 0,
            rehearsed_s=self.rehearsed_s,
        )
