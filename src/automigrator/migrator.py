"""The public face: bring every database of an application to the revision its code expects."""

from __future__ import annotations

# a start with nothing to do comes here, too: what it does not need is imported where it is used
import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cached_property, partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from automigrator.errors import ConfigurationError, MigrationError
from automigrator.operations import Operations
from automigrator.report import Report, TargetReport
from automigrator.runner import modes
from automigrator.runner.fast_path import current, nothing_to_do
from automigrator.runner.session import validated
from automigrator.runner.signals import not_begun, until_signalled
from automigrator.support.concurrency import ensure_asyncio, in_thread, running_loop
from automigrator.target import Target, check_policy
from automigrator.timeouts import of_a_run

if TYPE_CHECKING:
    from automigrator.events.announcer import Announcer
    from automigrator.events.notifier import Notifier
    from automigrator.events.stream import Subscription
    from automigrator.hooks.context import Run
    from automigrator.hooks.registry import Hooks
    from automigrator.hooks.strategies import StrategySpec
    from automigrator.rehearsal import Rehearsal
    from automigrator.runner.replays import Replays
    from automigrator.runner.session import Session
    from automigrator.runner.state import RunState
    from automigrator.runner.time_limit import RunLimit
    from automigrator.target import Ahead, LastResort
    from automigrator.timeouts import Timeouts

logger = logging.getLogger("automigrator")

P = ParamSpec("P")
State = TypeVar("State")


class Migrator(Operations):
    """Brings databases to the revisions that the code expects, when asked to.

    `targets`: one or several, each with a name of its own.
    `mode`: `"migrate"`, `"check"`, `"wait"` or `"skip"`; default: `RUN_MIGRATIONS` says.
    `recovery`: strategies in the order in which they are asked: names of installed ones,
    `(name, options)` pairs, or objects; default: none.
    `plugins`: in-house objects with `@hookimpl` methods, asked before strategies; default: none.
    `allow_partial`: let a strategy continue on a half-migrated database; default False.
    `timeouts`: limits of time, for its targets too where they say nothing; see `Timeouts`.
    `hook_timeout`, `run_timeout`: two of these limits, until 1.0; default: as of `Timeouts`.
    `max_failed_starts`: starts in a row that may fail at the same revisions before one touches
    nothing; default 5, 0 sets no limit.
    `last_resort`: what such a start does: `"ask"` the plugins (default), `"abort"`, `"continue"`.
    `ahead`: on a database that newer code has migrated, `"refuse"` to start (default) or `"serve"`.
    `rehearse`: apply the pending revisions to a copy first: True, or a `Rehearsal`; default False.
    `stop_on_signals`: let SIGTERM and SIGINT end a run; default True.
    `announce`: tell people on stderr what a run does: True, False, or None (default), which does
    so where the application has set up no logging that automigrator's records reach.

    To customise a step, override `is_enabled`, `create_database`, `migrate_target` or
    `recreate_database` in a subclass. Raises ConfigurationError.
    """

    replay: Replays | None = None
    """A fleet's, which applies revisions without env.py where that is proved to be the same."""

    def __init__(
        self,
        *targets: Target,
        mode: modes.Mode | None = None,
        recovery: Sequence[StrategySpec] = (),
        plugins: Sequence[object] = (),
        allow_partial: bool = False,
        timeouts: Timeouts | None = None,
        hook_timeout: float | None = None,
        max_failed_starts: int = 5,
        last_resort: LastResort = "ask",
        ahead: Ahead = "refuse",
        rehearse: bool | Rehearsal = False,
        run_timeout: float | None = None,
        stop_on_signals: bool = True,
        announce: bool | None = None,
    ) -> None:
        check_policy(max_failed_starts, last_resort, ahead, rehearse)
        if announce not in (None, True, False):
            raise ConfigurationError(f"announce must be True, False or None, not {announce!r}")
        limits = of_a_run(timeouts, hook_timeout, run_timeout)
        self.targets = tuple(each.limited(limits) for each in validated(targets))
        self._every = self.targets
        self.mode = modes.validated(mode)
        self.allow_partial = allow_partial
        self.max_failed_starts, self.last_resort = max_failed_starts, last_resort
        self.ahead: Ahead = ahead
        self.timeouts, self.run_timeout, self._run_limit = limits, limits.run, ""
        self.rehearse = rehearse
        self.stop_on_signals = stop_on_signals
        self.announce = announce
        self._plugins, self._hook_timeout = plugins, limits.hook
        self._recovery = {
            each.name: recovery if each.recovery is None else each.recovery for each in self.targets
        }
        self._hooks: Mapping[str, Hooks] | None = None
        if plugins:
            self._in_house  # noqa: B018 - a wrong plugin is refused here
        self.report: Report | None = None
        """The last run's report, also where the run raised; None before the first has ended."""
        self._subscriptions: list[Subscription] = []
        self._how_far = ""
        self._states: dict[Run, RunState] = {}

    # What an application calls.

    async def run(self, *, mode: modes.Mode | None = None) -> Report:
        """Bring every target to its revision, if the gate lets it; see `Report`.

        `mode`: overrides the Migrator's for this run, and the gate with it; default: the
        Migrator's. However the run ends, `report` has its report afterwards.

        Raises MigrationError when a target failed and no plugin said to go on, PendingError in
        mode `check`, FollowTimeoutError in mode `wait`, ConfigurationError. A cancellation stops
        the statement that is running and is raised again. SIGTERM and SIGINT do the same, unless
        `stop_on_signals` is False, and StoppedError is raised.
        """
        ensure_asyncio()
        work = self._reported(modes.validated(mode))
        try:
            if not self.stop_on_signals:
                return await work
            return await until_signalled(work, lambda: self._how_far)
        except MigrationError as error:
            # it says all that a person needs; how we came there is no help
            raise error.with_traceback(None) from None

    async def _reported(self, mode: modes.Mode | None) -> Report:
        """Keep the report of a run, however it ends."""
        began = time.monotonic()
        reports: list[TargetReport] = []
        try:
            self.report = await self._run(mode, began, reports)
        except BaseException as error:
            from automigrator.runner.targets import ended_early

            self.report = ended_early(self.targets, reports, error, began)
            raise
        return self.report

    async def _run(
        self, mode: modes.Mode | None, began: float, reports: list[TargetReport]
    ) -> Report:
        self._how_far = "nothing was changed"
        try:
            if mode == "skip" or (mode is None and not self.is_enabled()):
                return await modes.skipped(self._notifier(), self.targets)
            mode = mode or modes.resolve(self.mode)
            if mode == "skip":  # a subclass knows better
                mode = "migrate"
            async with AsyncExitStack() as kept:
                quick = mode == "migrate" and not self._noticed
                done, looked = await current(self.targets if quick else (), kept)
                reports += done
                if len(done) == len(self.targets):
                    return Report(done, time.monotonic() - began)
                return await self._told(mode, began, reports, looked)
        finally:
            while self._subscriptions:
                self._subscriptions.pop().end()
            if "_in_house" in vars(self):
                await self._in_house.aclose()

    def run_sync(self, *, mode: modes.Mode | None = None) -> Report:
        """`run()` for code without an event loop. Raises what it raises."""
        if running_loop() is not None:
            raise ConfigurationError(
                "an event loop is running here: await run() instead of run_sync()"
            )
        return asyncio.run(self.run(mode=mode))

    def events(self) -> Subscription:
        """Everything that happens in the run to come, or in the rest of the one under way.

        `async for event in migrator.events()`: each call is a subscription of its own, holds
        10,000 unread events at most, and ends with the run.
        """
        from automigrator.events.stream import Subscription

        self._subscriptions.append(Subscription())
        return self._subscriptions[-1]

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Context manager: an application's lifespan, as `FastAPI(lifespan=migrator.lifespan)`.

        `app`: what a framework passes; it is not used. Raises what `run()` raises.
        """
        await self.run()
        yield

    def wrap(
        self, lifespan: Callable[P, AbstractAsyncContextManager[State]]
    ) -> Callable[P, AbstractAsyncContextManager[State]]:
        """A lifespan that migrates before `lifespan` starts the application.

        It takes what `lifespan` takes, and passes it on.
        """

        # FastStream reads the signature and passes what it asks for
        @asynccontextmanager
        @wraps(lifespan)
        async def migrated(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[State]:
            await self.run()
            async with lifespan(*args, **kwargs) as state:
                yield state

        return migrated

    def without_recovery(self) -> Migrator:
        """The same migrator with its plugins, but without any recovery strategy.

        It is a copy: what it reports is not this one's `report`.
        """
        bare = copy.copy(self)
        bare._recovery, bare._hooks = dict.fromkeys(self._recovery, ()), None
        return bare

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
        if not state.looked and (heads := await nothing_to_do(state.session)):
            run.before = run.wanted = state.after = heads
            return state.report("current")
        # it imports Alembic, for a tenth of a second, and a start with nothing to do never needs it
        await in_thread(partial(import_module, "automigrator.runner.pipeline"))
        from automigrator.runner.pipeline import bring_to_head

        return state.report(await bring_to_head(state))

    async def recreate_database(
        self, run: Run, *, set_aside: bool, disconnect_others: bool, also: Sequence[str] = ()
    ) -> str | None:
        """Replace a target's database by a fresh, migrated one; returns where the old one is."""
        from automigrator.runner.side_database import rebuild

        return await rebuild(self._states[run], set_aside, disconnect_others, tuple(also))

    async def hooks_of(self, target: Target) -> Hooks:
        """Return the in-house plugins and the target's strategies. Raises PluginError."""
        return (await self._loaded())[target.name]

    # The plugins; a start with nothing to do and nobody to tell needs no module of theirs.

    @cached_property
    def _in_house(self) -> Hooks:
        """The in-house plugins alone."""
        from automigrator.hooks.registry import Hooks

        return Hooks(self._plugins, (), deadline_s=self._hook_timeout)

    async def _loaded(self) -> Mapping[str, Hooks]:
        """Load every target's strategies, once, before anything begins. Raises PluginError."""
        if self._hooks is None:
            self._hooks = await in_thread(partial(self._in_house.by_target, self._recovery))
        return self._hooks

    @cached_property
    def _announcer(self) -> Announcer | None:
        """What tells people; None where only the log is to."""
        from automigrator.events.announcer import Announcer

        return None if self.announce is False else Announcer(always=self.announce is True)

    # The modes of run().

    @property
    def _noticed(self) -> bool:
        """Whether somebody notices a quick start: its events would cost as much as all the rest."""
        heard = self._plugins or self._subscriptions or logger.isEnabledFor(logging.INFO)
        overridden = type(self).migrate_target is not Migrator.migrate_target
        return bool(heard) or overridden or self.run_timeout is not None

    async def _told(
        self, mode: modes.Mode, began: float, reports: list[TargetReport], looked: Session | None
    ) -> Report:
        from automigrator.runner.targets import looked_within, run_told, succeeded, targets_told
        from automigrator.runner.time_limit import RunLimit

        async def work(tell: Notifier) -> Report:
            if mode == "migrate":
                limit = RunLimit(self.run_timeout, self._run_limit)
                state = partial(self._state, run_id=tell.run, limit=limit)
                await targets_told(self.targets[len(reports) :], looked, state, reports)
                return succeeded(Report(tuple(reports), time.monotonic() - began))
            if mode == "check":
                looking = modes.checked(self.check)
            else:
                limit_s = max(target.lock_timeout for target in self.targets)
                looking = modes.followed(self.check, self.targets, tell, limit_s)
            limits = self.run_timeout, self.targets, looking, self._run_limit
            return succeeded(await looked_within(*limits))

        return await run_told(self._notifier(), mode, self.targets, work)

    @asynccontextmanager
    async def _state(
        self,
        session: Session,
        run_id: str = "",
        limit: RunLimit | None = None,
        *,
        looked: bool = False,
    ) -> AsyncIterator[RunState]:
        from automigrator.runner.state import RunState

        tell = self._notifier(run_id)
        state = RunState(self, session, tell, self._in_house, limit, looked=looked)
        self._states[state.run] = state
        try:
            yield state
        except asyncio.CancelledError:
            how_far = state.how_far or not_begun(state.phase.what, rollback=state.run.rollback)
            self._how_far = f"{state.run.name}: {how_far}"
            raise
        finally:
            del self._states[state.run]

    def _notifier(self, run_id: str = "") -> Notifier:
        from automigrator.events.notifier import Notifier

        return Notifier(self._subscriptions, self._in_house, run_id, self._announcer)
