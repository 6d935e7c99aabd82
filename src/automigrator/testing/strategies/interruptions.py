"""Starts that are killed, or cancelled, in the middle of what a strategy does."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from automigrator.errors import MigrationError
from automigrator.events.event import Event
from automigrator.hooks import calls
from automigrator.migrator import Migrator
from automigrator.target import Target
from automigrator.testing.conformance import case, nothing_is_open, same
from automigrator.testing.contents import Contents, checksums, contents
from automigrator.testing.processes import Process, die_after
from automigrator.testing.strategies.application import HALF_IN_THE_WAY, OLD, Application
from automigrator.testing.strategies.assertions import Outcomes
from automigrator.testing.strategies.harness import Watched, Watching, start

_STEPS = ("snapshot-taken", "failed", "restored", "recreated", "decided")

"""Events at which a start is interrupted, where they happen."""


@dataclass(frozen=True)
class Moment:
    """So many seconds after an event's first time."""

    event: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds * 1000:.0f} ms after {self.event!r}"


@dataclass(frozen=True)
class Maker:
    """Where a process of its own finds the class whose `make` returns the strategy."""

    file: str
    qualname: str

    @classmethod
    def of(cls, conformance: type) -> Maker:
        return cls(inspect.getfile(conformance), conformance.__qualname__)

    def make(self) -> object:
        name = f"_conformance_{Path(self.file).stem}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None and spec.loader is not None, self.file
        found: Any = importlib.util.module_from_spec(spec)
        sys.modules[name] = found
        spec.loader.exec_module(found)
        for part in self.qualname.split("."):
            found = getattr(found, part)
        return found().make()


class Interruptions(Outcomes):
    """A killed process is followed by another start, a cancelled one leaves nothing to do."""

    __test__ = False

    kills: ClassVar[int] = 2
    """How many random moments, beside one at every step."""
    seed: ClassVar[int] = 4

    @case
    async def test_killed_at_any_moment_the_next_start_loses_nothing(self) -> None:
        """Real processes and SIGKILL; the start after the next finds nothing left to undo."""
        moments, whole = await self._moments()
        for number, moment in enumerate(moments):
            application = await self.deployed(HALF_IN_THE_WAY, f"killed{number}")
            process = Process(
                _run_and_die,
                Maker.of(type(self)),
                application.url.render_as_string(hide_password=False),
                application.folder,
                moment,
            )
            killed = await asyncio.to_thread(process.ended)
            assert killed or moment.seconds, f"the process outlived its end {moment}"
            after = f"killed {moment} and started again" if killed else f"ended before {moment}"
            first = await start(application, [self.make()])
            found = await self.ended_well(application, HALF_IN_THE_WAY, first, after)
            as_whole(found, whole, after)
            await start(application, [self.make()])
            same(await contents(application.url), found, f"{after}, the start after that differs")

    @case
    async def test_cancelled_at_any_moment_nothing_is_left_open(self) -> None:
        moments, whole = await self._moments()
        for number, moment in enumerate(moments):
            application = await self.deployed(HALF_IN_THE_WAY, f"cancelled{number}")
            await self._cancelled(application, moment)
            after = f"cancelled {moment}"
            await self.judge(application, HALF_IN_THE_WAY, after)
            await nothing_is_open(application.url, after)
            again = await start(application, [self.make()])
            after += " and started again"
            as_whole(
                await self.ended_well(application, HALF_IN_THE_WAY, again, after), whole, after
            )

    async def _cancelled(self, application: Application, moment: Moment) -> None:
        cancelled_while_running = False

        def at_moment() -> None:
            nonlocal cancelled_while_running
            if not task.done() and not any(e.name == "target-finished" for e in watching.events):
                cancelled_while_running = task.cancel()

        loop = asyncio.get_running_loop()
        watching = Watching(_once(moment.event, lambda: loop.call_later(moment.seconds, at_moment)))
        migrator = Watched(
            application.target(), mode="migrate", recovery=[self.make()], plugins=[watching]
        )
        migrator.acts = []
        with _warned(calls.logger) as warnings:
            task = asyncio.ensure_future(migrator.run())
            await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        assert task.cancelled() or not cancelled_while_running, (
            f"cancelled {moment}, the run went on"
        )
        assert not warnings, (
            f"cancelled {moment}, an except has swallowed the CancelledError: {warnings[0]}"
        )
        if error is not None and not isinstance(error, MigrationError):
            raise error

    async def _moments(self) -> tuple[list[Moment], Contents]:
        """Every step of a start that nobody interrupts, moments between two, and how it ends."""
        application = await self.deployed(HALF_IN_THE_WAY, "whole")
        whole = await start(application, [self.make()])
        names = {event.name for event in whole.events}
        acting_s = whole.seconds_between("failed", "target-finished")
        draw = random.Random(self.seed)
        print(f"seed {self.seed}; from the failure to the end it takes {acting_s * 1000:.0f} ms")
        moments = [Moment(step) for step in _STEPS if step in names]
        moments += [Moment("failed", draw.uniform(0, acting_s)) for _ in range(self.kills)]
        return moments, await contents(application.url)


@contextmanager
def _warned(logger: logging.Logger) -> Iterator[list[str]]:
    """What a logger warns of within."""
    said: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Listening(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def as_whole(found: Contents, whole: Contents, after: str) -> None:
    """Fails where an interrupted start leaves what one that nobody interrupts repairs."""
    assert found in (OLD, whole), (
        f"{after}, there is {checksums(found)}; a start that nobody interrupts ends with "
        f"{checksums(whole)}"
    )


def _once(name: str, act: Callable[[], object]) -> Callable[[Event], None]:
    done = False

    def at_event(event: Event) -> None:
        nonlocal done
        if event.name == name and not done:
            done = True
            act()

    return at_event


def _run_and_die(
    tell: Callable[[Any], None], maker: Maker, url: str, folder: Path, moment: Moment
) -> None:
    """In a process of its own."""
    watching = Watching(_once(moment.event, lambda: die_after(moment.seconds)))
    target = Target(url, folder, name="app")
    migrator = Migrator(target, mode="migrate", recovery=[maker.make()], plugins=[watching])
    try:
        asyncio.run(migrator.run())
    except MigrationError:
        return
