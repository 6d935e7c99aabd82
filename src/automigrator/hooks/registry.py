"""The plugins of a run, and their hooks in the configured order."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automigrator.errors import HookError, OverdueError, PluginError
from automigrator.hooks.calls import GRACE_S, Around, Impl, blame_of, call, described, untold
from automigrator.support.concurrency import running_loop, shielded
from automigrator.support.loggers import logger_of

if TYPE_CHECKING:
    from automigrator.events.event import Event
    from automigrator.hooks.context import Run
    from automigrator.hooks.strategies import StrategySpec
    from automigrator.report import TargetReport

logger = logger_of(__name__)

BACKLOG = 1000

"""Events kept for a slow async `on_event`; beyond it the oldest are dropped."""


class Hooks:
    """The plugins of a run: in-house ones first, then strategies, each in configured order.

    `deadline_s` limits an in-house hook, and every `on_event`; `grace_s` limits how long `aclose`
    lets async `on_event` implementations finish. Raises PluginError for a plugin that cannot be
    used.
    """

    def __init__(
        self,
        in_house: Sequence[object],
        strategies: Sequence[tuple[str, object]],
        *,
        deadline_s: float = 60.0,
        grace_s: float = 5.0,
    ) -> None:
        plugins = [(blame_of(plugin), plugin, False) for plugin in in_house]
        plugins += [(name, plugin, True) for name, plugin in strategies]
        self._deadline_s = deadline_s
        self._grace_s = grace_s
        self._impls = _registered(plugins)
        self._logged: set[int] = set()
        self._muted: set[int] = set()
        self._waiting: dict[int, deque[Event]] = {}
        self._tellers: dict[int, asyncio.Task[None]] = {}

    def by_target(self, recovery: Mapping[str, Sequence[StrategySpec]]) -> dict[str, Hooks]:
        """For each target's name these plugins, and then the strategies that `recovery` names.

        They are told events in one queue. Raises PluginError for a strategy that cannot be used.
        """
        joined: dict[str, Hooks] = {}
        for target, specs in recovery.items():
            own: list[tuple[str, object, bool]] = []
            if specs not in ((), []):
                from automigrator.hooks import strategies  # local: it reads what is installed

                own = [(name, strategy, True) for name, strategy in strategies.load(specs)]
            joined[target] = copy.copy(self)
            joined[target]._impls = self._impls + _registered(own, self._impls)
        return joined

    @property
    def listened(self) -> bool:
        """Whether any plugin wants events."""
        return bool(self.impls("on_event"))

    @property
    def binaries(self) -> Path | None:
        """The folder of client programs that a strategy has as `binaries`: the first that has."""
        given = (getattr(impl.plugin, "binaries", None) for impl in self._impls if impl.strategy)
        return next((Path(each) for each in given if isinstance(each, str | Path)), None)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of copies that strategies have as `folder`."""
        given = (getattr(impl.plugin, "folder", None) for impl in self._impls if impl.strategy)
        found = [Path(each) for each in given if isinstance(each, str | Path)]
        return tuple(dict.fromkeys(found))

    async def before_migrate(self, run: Run, around: Around = untold) -> None:
        """Call every plugin. Raises the first HookError."""
        for impl in self.impls("before_migrate"):
            await self.call(impl, around, run=run)

    async def after_migrate(
        self, run: Run, report: TargetReport, around: Around = untold
    ) -> tuple[str, ...]:
        """Call every plugin; returns their errors as notes for the report."""
        notes = []
        for impl in self.impls("after_migrate"):
            try:
                await self.call(impl, around, run=run, report=report._replace())
            except HookError as error:
                notes.append(str(error))
        return tuple(notes)

    async def after_run(
        self, run: Run, report: TargetReport, around: Around = untold, within_s: float | None = None
    ) -> tuple[str, ...]:
        """Call every plugin, after a cancellation as well; returns their errors as notes.

        `within_s`: seconds for each of them, where that is less than its deadline. Each gets a copy
        of the report. Raises CancelledError at the end where it was cancelled.
        """
        notes, cancelled = [], False
        for impl in self.impls("after_run"):
            work = self._call(impl, around, within_s, run=run, report=report._replace())
            try:
                await (shielded(work) if cancelled else work)
            except asyncio.CancelledError:
                cancelled, within_s = True, GRACE_S
            except HookError as error:
                notes.append(str(error))
        if cancelled:
            raise asyncio.CancelledError
        return tuple(notes)

    def impls(self, hook: str) -> list[Impl]:
        """The implementations of a hook to `call`, in order."""
        return [impl for impl in self._impls if impl.hook == hook]

    async def call(self, impl: Impl, around: Around = untold, /, **arguments: Any) -> object:
        """Call `impl` within `around`. Raises HookError.

        The deadline is for in-house hooks and for observers: a restore has none.
        """
        return await self._call(impl, around, None, **arguments)

    async def _call(
        self, impl: Impl, around: Around, within_s: float | None, /, **arguments: Any
    ) -> object:
        limits = [within_s, None if impl.unlimited else self._deadline_s]
        deadline_s = min((each for each in limits if each is not None), default=None)
        with around(impl.hook, impl.blame) as given_up:
            return await call(impl, deadline_s, given_up, arguments)

    def emit(self, event: Event) -> None:
        """Tell sync listeners at once and async ones soon, from the event loop's thread."""
        for impl in self.impls("on_event"):
            if id(impl) in self._muted:
                continue
            if not impl.asynchronous:
                self._tell_sync(impl, event)
                continue
            if running_loop() is None:
                continue  # it was closed during a run: nobody is left to await a listener
            waiting = self._waiting.setdefault(id(impl), deque(maxlen=BACKLOG))
            waiting.append(event)
            teller = self._tellers.get(id(impl))
            if teller is None or teller.done():
                self._tellers[id(impl)] = asyncio.create_task(
                    self._tell(impl, waiting), name=f"automigrator on_event of {impl.blame}"
                )

    async def aclose(self) -> None:
        """Let async listeners finish within `grace_s`, then cancel them."""
        busy = [teller for teller in self._tellers.values() if not teller.done()]
        self._tellers.clear()
        if not busy:
            return
        try:
            await asyncio.wait(busy, timeout=self._grace_s)
        finally:
            self._waiting.clear()
            for teller in busy:
                teller.cancel()
        # Bounded too: a listener may swallow its cancellation.
        await asyncio.wait(busy, timeout=self._grace_s)

    async def _tell(self, impl: Impl, waiting: deque[Event]) -> None:
        while waiting:
            try:
                await self.call(impl, event=waiting.popleft())
            except HookError as error:
                if isinstance(error, OverdueError):
                    # Else a hung listener would hold up the run once per event.
                    self._muted.add(id(impl))
                    waiting.clear()
                self._log_once(impl, error)

    def _tell_sync(self, impl: Impl, event: Event) -> None:
        try:
            result = impl.function(**impl.accepted({"event": event}))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a listener changes nothing
            self._log_once(impl, impl.failed(f"raised {described(error)}"))
            return
        if isinstance(result, Coroutine):
            result.close()
            mistake = "returned a coroutine from a plain function; declare it async def"
            self._log_once(impl, impl.failed(mistake))

    def _log_once(self, impl: Impl, error: HookError) -> None:
        if id(impl.plugin) in self._logged:
            return
        self._logged.add(id(impl.plugin))
        more = "it is told no more" if id(impl) in self._muted else "later errors are not logged"
        logger.error("%s; %s", error, more)


def _registered(
    plugins: Sequence[tuple[str, object, bool]], others: Sequence[Impl] = ()
) -> list[Impl]:
    """The implementations of new plugins. Raises PluginError for one that is there already."""
    known = {id(impl.plugin) for impl in others}
    for name, plugin, _ in plugins:
        if id(plugin) in known:
            raise PluginError(f"the same {name} object is configured twice; leave one out")
        known.add(id(plugin))
    if not plugins:
        return []
    from automigrator.hooks.validation import registered  # local: it imports pluggy

    return registered(plugins)
