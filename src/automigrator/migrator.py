"""The public face: bring every database of an application to the revision its code expects."""

from __future__ import annotations

# a start with nothing to do comes here, too: what it does not need is imported where it is used
import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from automigrator.errors import ConfigurationError, MigrationError
from automigrator.report import Report, TargetReport
from automigrator.runner import modes
from automigrator.runner.fast_path import current, nothing_to_do
from automigrator.runner.modes import checked, followed, skipped
from automigrator.runner.session import named, opened, validated
from automigrator.runner.signals import until_signalled
from automigrator.support.concurrency import in_thread
from automigrator.target import (
    Ahead,
    LastResort,
    Target,
    check_ahead,
    check_last_resort,
    check_limit,
    check_max_failed_starts,
    check_rehearse,
    chosen,
)

if TYPE_CHECKING:
    from automigrator.events.notifier import Notifier
    from automigrator.events.stream import EventStream, Subscription
    from automigrator.hooks.context import Run
    from automigrator.hooks.registry import Hooks
    from automigrator.hooks.strategies import StrategySpec
    from automigrator.rehearsal import Rehearsal
    from automigrator.report import Outcome
    from automigrator.runner.checkup import Checkup
    from automigrator.runner.session import Session
    from automigrator.runner.state import RunState
    from automigrator.runner.status import Models
    from automigrator.runner.time_limit import RunLimit
    from automigrator.status import Plan, Status

logger = logging.getLogger("automigrator")

EVENT_LIMIT = 10_000

"""Events a subscription keeps for a slow reader."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class Migrator:
    """Brings databases to the revisions that the code expects, when asked to.

    `recovery` names installed strategies in the order they are asked: a name, a `(name, options)`
    pair or an instance. `plugins` are in-house objects with `@hookimpl` methods, asked before
    them and given `hook_timeout` seconds a call. `allow_partial` lets a strategy continue on a
    half-migrated database. After `max_failed_starts` in a row at the same revisions (0: never) a
    start touches nothing, and `last_resort` says what follows: `"ask"` the plugins, `"abort"` or
    `"continue"`. After `run_timeout` seconds (None: no limit) a run undoes what it is at and fails.
    On a database that newer code has migrated the application does not start, or with
    `ahead="serve"` it does, with a warning. With `rehearse=True` what is pending is applied to a
    copy first, and the database itself touched only when that worked. SIGTERM and SIGINT end a
    run, unless `stop_on_signals` is False. Raises ConfigurationError.

    To customise a step, override one of `is_enabled`, `create_database`, `migrate_target` and
    `recreate_database` in a subclass.
    """

    def __init__(
        self,
        *targets: Target,
        mode: modes.Mode | None = None,
        recovery: Sequence[StrategySpec] = (),
        plugins: Sequence[object] = (),
        allow_partial: bool = False,
        hook_timeout: float = 60.0,
        max_failed_starts: int = 5,
        last_resort: LastResort = "ask",
        ahead: Ahead = "refuse",
        rehearse: bool | Rehearsal = False,
        run_timeout: float | None = None,
        stop_on_signals: bool = True,
    ) -> None:
        check_max_failed_starts(max_failed_starts)
        check_last_resort(last_resort)
        check_ahead(ahead)
        check_limit("run_timeout", run_timeout)
        check_rehearse(rehearse)
        self.targets = validated(targets)
        self.mode = modes.validated(mode)
        self.recovery = recovery
        self.allow_partial = allow_partial
        self.max_failed_starts = max_failed_starts
        self.last_resort = last_resort
        self.ahead: Ahead = ahead
        self.run_timeout = run_timeout
        self.rehearse = rehearse
        self.stop_on_signals = stop_on_signals
        self._plugins, self._hook_timeout = plugins, hook_timeout
        if plugins:
            self._hooks.listened  # noqa: B018 - a wrong plugin is refused here
        self._kept = AsyncExitStack()
        self._looked: Session | None = None
        self._joined: dict[str, Hooks] | None = None
        self._how_far = ""
        self._states: dict[Run, RunState] = {}

    # What an application calls.

    async def run(self) -> Report:
        """Bring every target to its revision, if the gate lets it; see `Report`.

        Raises MigrationError when a target failed and no plugin said to go on, PendingError in
        mode `check`, FollowTimeoutError in mode `wait`, ConfigurationError. A cancellation stops
        the statement that is running and is raised again. SIGTERM and SIGINT do the same, unless
        `stop_on_signals` is False, and StoppedError is raised.
        """
        if not self.stop_on_signals:
            return await self._run()
        return await until_signalled(self._run(), lambda: self._how_far)

    async def _run(self) -> Report:
        self._how_far = "nothing was changed"
        began = time.monotonic()
        try:
            if not self.is_enabled():
                return skipped(self._progress())
            mode = modes.resolve(self.mode)
            if mode == "skip":  # a subclass knows better
                mode = "migrate"
            async with self._kept:
                done = await self._current(mode)
                if len(done) == len(self.targets):
                    return Report(done, time.monotonic() - began)
                return await self._told(mode, done, began)
        finally:
            self._looked = None
            if "_stream" in vars(self):
                self._stream.end()
            if "_hooks" in vars(self):
                await self._hooks.aclose()

    def run_sync(self) -> Report:
        """`run()` for code without an event loop. Raises what it raises."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.run())
        raise ConfigurationError("an event loop is running here: await run() instead of run_sync()")

    async def check(self, *, models: Models | None = None) -> Status:
        """How every target stands; changes nothing.

        `models`, a MetaData or several, or for several targets a mapping from their names, are
        compared with what the migrations made, as `alembic check` does. Raises PluginError for a
        wrong strategy, and ConfigurationError.
        """
        from automigrator.runner.status import status

        await self._armed()
        return await status(self.targets, self.ahead, models)

    async def plan(self, *, sql: bool = False) -> tuple[Plan, ...]:
        """The pending revisions of every target, with their SQL on request; changes nothing.

        Raises what looking at the database or the history raises.
        """
        from automigrator.runner.status import planned

        return tuple(
            [await planned(each, each.ahead or self.ahead, sql=sql) for each in self.targets]
        )

    async def doctor(self, *, repair: bool = False) -> Checkup:
        """A close look at every target; changes nothing, unless `repair` says so.

        Then what is provably debris is removed, under the lock, and what is not is left and told.
        """
        from automigrator.runner.doctor import checkup

        return await checkup(self.targets, self.ahead, repair=repair)

    async def rollback(self, revision: str, *, target: str | None = None) -> TargetReport:
        """Downgrade one target to `revision`, under the lock; the gate does not govern it.

        `target` is a target's name, needed when there are several. No plugin is asked about a
        failure. Raises ConfigurationError, and MigrationError with the report of what failed.
        """
        from automigrator.runner.rollback import roll_back

        chosen = named(self.targets, target)
        try:
            async with self._state(chosen) as state:
                report = state.report(await roll_back(state, revision))
        finally:
            await self._hooks.aclose()
        _succeeded(Report((report,), report.elapsed_s))
        return report

    async def clear(self, *, target: str | None = None) -> None:
        """Forget how leaders failed and how many starts did, so that the next one tries again,
        and which older code works with the database, until the next migration.

        Every target's, without `target`. Raises what taking the lock raises.
        """
        chosen = self.targets if target is None else (named(self.targets, target),)
        for each in chosen:
            async with opened(each) as session:
                if not (await session.backend.look([session.table])).exists:
                    continue
                lock = session.backend.lock([session.table], each.lock_timeout, lambda *_: None)
                async with lock as hold:
                    await hold.leave(None)
                    await hold.declare(())

    def events(self) -> Subscription:
        """Everything that happens in the run to come, or in the rest of the one under way.

        `async for event in migrator.events()`: each call is a subscription of its own, holds
        10,000 unread events at most, and ends with the run.
        """
        return self._stream.subscribe(EVENT_LIMIT)

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """An ASGI lifespan: `FastAPI(lifespan=migrator.lifespan)`."""
        await self.run()
        yield

    def wrap(self, lifespan: Lifespan) -> Lifespan:
        """A lifespan that migrates before `lifespan` starts the application."""

        @asynccontextmanager
        async def migrated(app: Any) -> AsyncIterator[Any]:
            await self.run()
            async with lifespan(app) as state:
                yield state

        return migrated

    # What a subclass may override.

    def is_enabled(self) -> bool:
        """Whether `run()` does anything: `mode`, else `RUN_MIGRATIONS`, else no."""
        return modes.resolve(self.mode) != "skip"

    async def create_database(self, run: Run) -> bool:
        """Create a target's absent database; False when somebody else just did."""
        return await self._states[run].session.backend.create()

    async def migrate_target(self, run: Run) -> TargetReport:
        """One target's whole part of a run: look, lock, migrate, recover, report."""
        state = self._states[run]
        looked = state.session is self._looked
        if not looked and (heads := await nothing_to_do(state.session)):
            run.before = run.wanted = state.after = heads
            return state.report("current")
        bring_to_head = await in_thread(_bring_to_head)
        return state.report(await bring_to_head(state))

    async def recreate_database(
        self, run: Run, *, set_aside: bool, disconnect_others: bool
    ) -> str | None:
        """Replace a target's database by a fresh, migrated one; returns where the old one is."""
        from automigrator.runner.side_database import rebuild

        state = self._states[run]
        return await rebuild(state, set_aside=set_aside, disconnect_others=disconnect_others)

    # The modes of run().

    async def _current(self, mode: modes.Mode) -> tuple[TargetReport, ...]:
        """The reports of the first targets, as long as they lack nothing.

        None where somebody would notice: the events of such a start cost as much as all the rest.
        """
        noticed = self._plugins or "_stream" in vars(self) or logger.isEnabledFor(logging.INFO)
        overridden = type(self).migrate_target is not Migrator.migrate_target
        if mode != "migrate" or noticed or overridden or self.run_timeout is not None:
            return ()
        done, self._looked = await current(self.targets, self._kept)
        return done

    async def _told(self, mode: modes.Mode, done: tuple[TargetReport, ...], began: float) -> Report:
        from automigrator.runner.lifecycle import looked_within, run_told

        async def work(tell: Notifier) -> Report:
            if mode == "migrate":
                return _succeeded(await self._migrated(tell, done, began))
            if mode == "check":
                looked = checked(self.check)
            else:
                limit = max(target.lock_timeout for target in self.targets)
                looked = followed(self.check, tell, limit)
            return _succeeded(await looked_within(self.run_timeout, self.targets, looked))

        return await run_told(self._progress(), mode, self.targets, work)

    async def _migrated(
        self, tell: Notifier, done: tuple[TargetReport, ...], began: float
    ) -> Report:
        from automigrator.runner.lifecycle import target_told

        limit = _limit(self.run_timeout)
        reports = list(done)
        for target in self.targets[len(done) :]:
            if any(report.outcome == "failed" for report in reports):
                reports.append(TargetReport(target.name, "not-run"))
                continue
            async with self._state(target, tell.run, limit) as state:
                reports.append(await target_told(state, self.migrate_target))
        return Report(tuple(reports), time.monotonic() - began)

    @asynccontextmanager
    async def _state(
        self, target: Target, run_id: str = "", limit: RunLimit | None = None
    ) -> AsyncIterator[RunState]:
        from automigrator.hooks.context import Run
        from automigrator.runner.state import Policy, RunState

        async with AsyncExitStack() as stack:
            if (session := self._looked) is not None and session.target is target:
                stack.push_async_exit(self._kept.pop_all())
            else:
                session = await stack.enter_async_context(opened(target))
            progress = self._progress(run_id)
            run = Run(
                target,
                session.backend,
                progress,
                self.recreate_database,
                lambda act: state.undone(act),
            )
            most, choice = target.max_failed_starts, target.last_resort
            policy = Policy(
                self.allow_partial,
                self.max_failed_starts if most is None else most,
                self.last_resort if choice is None else choice,
                target.ahead or self.ahead,
                chosen(target.rehearse, self.rehearse),
            )
            state = self._states[run] = RunState(session, run, progress, self, policy, limit)
            try:
                yield state
            except asyncio.CancelledError:
                self._how_far = f"{target.name}: {state.how_far}"
                raise
            finally:
                del self._states[run]

    @cached_property
    def _stream(self) -> EventStream:
        from automigrator.events.stream import EventStream

        return EventStream()

    @cached_property
    def _hooks(self) -> Hooks:
        from automigrator.hooks.registry import Hooks

        return Hooks(self._plugins, (), deadline_s=self._hook_timeout)

    def _progress(self, run_id: str = "") -> Notifier:
        from automigrator.events.notifier import Notifier

        return Notifier(self._stream, self._hooks, run_id)

    async def hooks_of(self, target: Target) -> Hooks:
        """The in-house plugins and the target's strategies. Raises PluginError."""
        return (await self._armed())[target.name]

    async def _armed(self) -> dict[str, Hooks]:
        """Load every target's strategies, once: a wrong one stops the run before it begins."""
        if self._joined is None:
            specs = {
                t.name: self.recovery if t.recovery is None else t.recovery for t in self.targets
            }

            def joined() -> dict[str, Hooks]:
                from automigrator.hooks import strategies  # local: a strategy may not be needed

                return {
                    name: self._hooks.with_strategies(strategies.load(spec))
                    for name, spec in specs.items()
                }

            self._joined = await in_thread(joined)
        return self._joined


def _bring_to_head() -> Callable[[RunState], Awaitable[Outcome]]:
    # it imports Alembic, for a tenth of a second, and a start with nothing to do never needs it
    from automigrator.runner.pipeline import bring_to_head

    return bring_to_head


def _limit(seconds: float | None) -> RunLimit | None:
    if seconds is None:
        return None
    from automigrator.runner.time_limit import RunLimit  # local: most runs have no limit

    return RunLimit(seconds)


def _succeeded(report: Report) -> Report:
    """The report, unless a target failed; raises MigrationError then."""
    for target in report.targets:
        if target.outcome == "failed":
            failure = target.failures[-1]
            raise MigrationError(f"{target.name}: {failure}", report) from failure.error
    return report
