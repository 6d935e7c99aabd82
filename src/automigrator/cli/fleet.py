"""The commands about a fleet: run, check, status, retry, quarantine, pause, resume."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automigrator.cli import factory
from automigrator.cli.confirmation import confirm
from automigrator.cli.invocation import Left, Subject, answered_by
from automigrator.cli.options import Group, Options, common
from automigrator.cli.output import Answer, Output
from automigrator.cli.source import Found, Source, found_fleet
from automigrator.exits import Exit
from automigrator.printable import escaped, joined
from automigrator.target import passwords_of

if TYPE_CHECKING:
    from automigrator.fleet import Fleet, FleetReport
    from automigrator.fleet.status import FleetStatus

TOLD = ("tenant-failed", "fleet-progress", "fleet-paused", "fleet-resumed", "group-started")
"""The events that a person is shown while a fleet runs."""


class FleetCall:
    """What a command's work is given: the fleet, what was asked for, where to print."""

    def __init__(self, fleet: Fleet, options: Options, output: Output) -> None:
        self.fleet, self.options, self.output = fleet, options, output

    async def confirm(self, what: str) -> None:
        """Have the fleet's name typed before something is changed; see `confirm`."""
        await confirm(self.output, self.options, [self.fleet.name], what, "")


Work = Callable[[FleetCall], Awaitable[Answer]]


class _OfFleet(Subject):
    """The application's fleet."""

    def __init__(self, work: Work, options: Options, output: Output, command: str) -> None:
        super().__init__(options, output, command)
        self._work = work
        self._fleet: Fleet | None = None

    def found(self) -> Found:
        return found_fleet(self.options, os.environ, Path.cwd())

    def made(self, source: Source) -> object:
        from automigrator.fleet import Fleet  # local: the other commands need none

        return factory.imported(source, Fleet)

    async def answer(
        self, value: Any, source: Source, left: Left, limit: asyncio.Timeout
    ) -> Answer:
        from automigrator.fleet import Fleet

        self._fleet = fleet = await factory.settled(value, source, Fleet)
        fleet.stop_on_signals = False  # the command listens itself
        try:
            return await self._work(FleetCall(fleet, self.options, self.output))
        finally:
            targets = fleet.targets()
            self.output.secrets += tuple({each for t in targets for each in passwords_of(t)})
            await factory.close(targets)

    def how_far(self) -> str:
        if self._fleet is None or self.command != "fleet run":
            return "nothing was changed"
        return f"{self._fleet.how_far()}; the next run goes on with the others"


def _answered(context: click.Context, work: Work) -> int:
    return answered_by(context, partial(_OfFleet, work))


@click.group(cls=Group)
@common
def fleet() -> None:
    """Migrate many tenants, and see to those that failed.

    The fleet is the application's own: --app package.module:fleet, AUTOMIGRATOR_FLEET, or fleet =
    in [tool.automigrator] of pyproject.toml.
    """


@fleet.command()
@common
@click.pass_context
def run(context: click.Context) -> int:
    """Migrate every tenant.

    RUN_MIGRATIONS is ignored: calling the command is the permission. A tenant that fails is kept
    in quarantine, and the others go on. The exit code is 5 where one has failed, 4 where one is
    degraded or in quarantine, 0 where all are at head.
    """
    return _answered(context, _run)


async def _run(call: FleetCall) -> Answer:
    async with _shown(call):
        report = await call.fleet.run(mode="migrate")
    return Answer(report, str(report), _code(report))


def _code(report: FleetReport) -> Exit:
    if report.at_head:
        return Exit.OK
    return Exit.FAILED if report.of("failed") else Exit.DEGRADED


@asynccontextmanager
async def _shown(call: FleetCall) -> AsyncIterator[None]:
    """Context manager: show what happens to the fleet, on stderr."""
    from automigrator.fleet.progress import sentence

    events = call.fleet.events()

    async def show() -> None:
        async for event in events:
            if event.name in TOLD:
                call.output.note(sentence(event))

    task = asyncio.create_task(show())
    try:
        yield
    finally:
        events.end()
        await task


@fleet.command()
@common
@click.pass_context
def check(context: click.Context) -> int:
    """Answer by exit code: is every tenant up to date?

    0 where every tenant is, 3 where something is pending, 5 where a run would fail. Nothing is
    changed.
    """

    async def work(call: FleetCall) -> Answer:
        status = await call.fleet.check()
        return Answer(status, str(status), _of_status(status))

    return _answered(context, work)


def _of_status(status: FleetStatus) -> Exit:
    if status.problems:
        return Exit.FAILED
    return Exit.OK if status.current else Exit.PENDING


@fleet.command()
@common
@click.pass_context
def plan(context: click.Context) -> int:
    """List the pending revisions, by groups of tenants.

    Nothing is changed, and no revision is run.
    """

    async def work(call: FleetCall) -> Answer:
        plan = await call.fleet.plan()
        return Answer(plan, str(plan))

    return _answered(context, work)


@fleet.command()
@common
@click.pass_context
def status(context: click.Context) -> int:
    """Show what the ledger says of every tenant.

    No tenant is asked, and nothing is changed: see check for a verdict.
    """

    async def work(call: FleetCall) -> Answer:
        status = await call.fleet.status()
        return Answer(status, str(status))

    return _answered(context, work)


@fleet.command()
@click.argument("names", nargs=-1, metavar="[TENANT]...")
@click.option("--all", "every", is_flag=True, help="Every tenant in quarantine.")
@common
@click.pass_context
def retry(context: click.Context, names: tuple[str, ...], every: bool) -> int:
    """End the quarantine of tenants.

    The next run tries them again.
    """
    if bool(names) == every:
        raise click.UsageError("say whose: name tenants, or give --all")

    async def work(call: FleetCall) -> Answer:
        call.fleet.ledger.ensure_durable("retry")
        if every:
            await call.confirm(
                f"The quarantine of every tenant of {escaped(call.fleet.name)} ends, and the next "
                "run tries all of them again"
            )
        released = await call.fleet.retry(*names)
        told = [f"{name}: the next run tries it again" for name in released]
        told += [f"{name}: it was in no quarantine" for name in names if name not in released]
        return Answer({"released": list(released)}, joined(told or ["no tenant is in quarantine"]))

    return _answered(context, work)


@fleet.command()
@click.argument("names", nargs=-1, metavar="[TENANT]...")
@common
@click.pass_context
def quarantine(context: click.Context, names: tuple[str, ...]) -> int:
    """List the tenants in quarantine, or put some there.

    A tenant that is named stays out of every run until `fleet retry`.
    """

    async def work(call: FleetCall) -> Answer:
        call.fleet.ledger.ensure_durable("quarantine")
        if names:
            await call.fleet.quarantine(*names)
        held = (await call.fleet.status()).quarantined
        told = [f"{name}: {why}" for name, why in held.items()]
        return Answer({"quarantined": dict(held)}, joined(told or ["no tenant is in quarantine"]))

    return _answered(context, work)


@fleet.command()
@common
@click.pass_context
def pause(context: click.Context) -> int:
    """Begin no further tenant, in any process that runs the fleet.

    Tenants that were begun are finished. `fleet resume` lets it go on.
    """
    return _answered(context, partial(_paused, paused=True))


@fleet.command()
@common
@click.pass_context
def resume(context: click.Context) -> int:
    """Go on after pause."""
    return _answered(context, partial(_paused, paused=False))


async def _paused(call: FleetCall, paused: bool) -> Answer:
    call.fleet.ledger.ensure_durable("pause" if paused else "resume")
    await (call.fleet.pause() if paused else call.fleet.resume())
    text = "paused: no further tenant is begun until fleet resume" if paused else "resumed"
    return Answer({"paused": paused}, text)
