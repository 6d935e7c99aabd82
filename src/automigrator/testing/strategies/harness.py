"""One start of the application with a strategy, and everything it did and told."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from automigrator.errors import MigrationError
from automigrator.events.event import Event
from automigrator.hooks.context import Run
from automigrator.hooks.effects import Effect, effect_of
from automigrator.hooks.spec import hookimpl
from automigrator.hooks.strategies import StrategySpec
from automigrator.migrator import Migrator
from automigrator.report import TargetReport
from automigrator.testing.strategies.application import Application

LIMIT_S = 120.0

"""Nothing here takes so long."""

_BEAT_S = 0.01


@dataclass(frozen=True)
class Act:
    """What a plugin asked a run for; `kind` and `state` are the failure's, None before one."""

    name: str
    kind: str | None
    state: str | None

    def beyond(self, effect: Effect) -> str | None:
        """What is wrong with it, by the effect that the strategy declares."""
        needed = {"restore": "reverting", "recreate_database": "discarding"}.get(self.name)
        if needed is not None and effect != needed:
            return f"it called run.{self.name}() and declares effect = {effect!r}"
        if self.name == "restore" and self.state == "clean":
            return "it called run.restore() where the database was clean"
        return None


@dataclass
class Started:
    """How a start ended; `told` is all that a person or a machine may read of it."""

    report: TargetReport
    events: list[Event] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    told: str = ""
    stall_s: float = 0.0

    def data_of(self, name: str) -> list[Any]:
        return [event.data for event in self.events if event.name == name]

    def seconds_between(self, first: str, last: str) -> float:
        """From the first event of one name to the last of another; 0 where there is none."""
        begins = [event.at for event in self.events if event.name == first]
        ends = [event.at for event in self.events if event.name == last]
        return max(ends[-1] - begins[0], 0.0) if begins and ends else 0.0


class Watching:
    """An in-house plugin that keeps every event, and passes it on."""

    def __init__(self, then: Callable[[Event], None] = lambda event: None) -> None:
        self.events: list[Event] = []
        self._then = then

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.events.append(event)
        self._then(event)


class Watched(Migrator):
    """Keeps what its plugins ask their runs for."""

    acts: list[Act]

    async def migrate_target(self, run: Run) -> TargetReport:
        watch(run, self.acts)
        return await super().migrate_target(run)


def watch(run: Run, acts: list[Act]) -> None:
    """Keep in `acts` what is asked of this run."""
    for name in ("snapshot", "restore", "recreate_database"):
        setattr(run, name, _kept(run, name, acts))


def _kept(run: Run, name: str, acts: list[Act]) -> Callable[..., Any]:
    ask = getattr(run, name)

    def asked(*args: Any, **options: Any) -> Any:
        failure = run.failure
        known = (failure.kind, failure.state) if failure is not None else (None, None)
        acts.append(Act(name, *known))
        return ask(*args, **options)

    return asked


async def start(
    application: Application,
    recovery: Sequence[StrategySpec],
    *,
    then: Callable[[Event], None] = lambda event: None,
    limit_s: float = LIMIT_S,
) -> Started:
    """Start it once; a failed migration is an answer. Fails when it does not end."""
    watching = Watching(then)
    migrator = Watched(application.target(), mode="migrate", recovery=recovery, plugins=[watching])
    migrator.acts = []
    own = [type(each).__module__.split(".")[0] for each in recovery if not isinstance(each, str)]
    with _told("automigrator", *own) as records:
        heart = _Heart()
        beating = asyncio.create_task(heart.beat())
        try:
            async with asyncio.timeout(limit_s):
                report, said = (await migrator.run()), ""
        except MigrationError as error:
            report, said = error.report, "".join(_described(error))
        except TimeoutError as error:
            raise AssertionError(f"the run did not end within {limit_s:g} s") from error
        finally:
            beating.cancel()
            await asyncio.wait([beating])
    events = "\n".join(f"{event} {event.to_dict()!r}" for event in watching.events)
    texts = [str(report), json.dumps(report.to_dict()), said, events, *records]
    told = "\n".join(texts)
    return Started(report.targets[0], watching.events, migrator.acts, told, heart.missed_s)


def beyond(acts: Sequence[Act], strategy: object) -> list[str]:
    """What is wrong with what a strategy asked for."""
    effect = effect_of(strategy)
    return list(dict.fromkeys(filter(None, (act.beyond(effect) for act in acts))))


def _described(error: MigrationError) -> Iterator[str]:
    yield str(error)
    yield from error.__notes__ if hasattr(error, "__notes__") else ()


class _Heart:
    """Beats while the loop does nothing else; `missed_s` is the longest it did not."""

    missed_s = 0.0

    async def beat(self) -> None:
        while True:
            before = time.monotonic()
            try:
                await asyncio.sleep(_BEAT_S)
            finally:  # the run may end right after it was blocked
                self.missed_s = max(self.missed_s, time.monotonic() - before - _BEAT_S)


class _Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        extra = {key: value for key, value in vars(record).items() if key not in _USUAL}
        error = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self.texts.append(f"{record.getMessage()} {extra or ''} {error}")


_USUAL = frozenset(vars(logging.makeLogRecord({})))


@contextmanager
def _told(*loggers: str) -> Iterator[list[str]]:
    """What is logged within; at every level by these loggers, as configured by the others."""
    handler = _Keeping()
    levels = {name: logging.getLogger(name).level for name in loggers}
    logging.getLogger().addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield handler.texts
    finally:
        logging.getLogger().removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
