"""The face of a fleet: bring thousands of tenants to the revision the code expects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from automigrator._version import __version__
from automigrator.cohort import Cohort
from automigrator.errors import (
    ConfigurationError,
    FollowTimeoutError,
    MigrationError,
    PendingError,
)
from automigrator.fleet.control import store_of
from automigrator.fleet.executors.contract import Work
from automigrator.fleet.executors.local import Local
from automigrator.fleet.executors.registry import ExecutorSpec, load
from automigrator.fleet.ledger import ANY, Entry, Ledger, Memory
from automigrator.fleet.members import Apart, Members
from automigrator.fleet.operations import POLL_S, Operations
from automigrator.fleet.progress import Progress, quietly
from automigrator.fleet.report import FleetError, FleetReport, TenantReport
from automigrator.fleet.rollout import Limit, Rollout, Rules, staged
from automigrator.fleet.sign_up import SignUp
from automigrator.fleet.tenants import Making, Tenant, Tenants, read, why_no_name
from automigrator.migrator import Migrator
from automigrator.runner import modes
from automigrator.runner.signals import until_signalled
from automigrator.support.concurrency import background, ensure_asyncio, shielded
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import said
from automigrator.target import Database, Target, passwords_of

if TYPE_CHECKING:
    from automigrator.fleet.replay.replay import Replay
    from automigrator.hooks.strategies import StrategySpec
    from automigrator.rehearsal import Rehearsal
    from automigrator.target import Ahead, LastResort
    from automigrator.timeouts import Timeouts

logger = logger_of("automigrator.fleet")

PASSING = frozenset({"unreachable", "auth", "lock-timeout", "worker"})
"""Kinds of failure that say nothing about the tenant: the next run tries it again."""


class MigratorOptions(TypedDict, total=False):
    """The keywords of `Migrator`, which a Fleet takes as well, for each of its tenants."""

    mode: modes.Mode | None
    recovery: Sequence[StrategySpec]
    plugins: Sequence[object]
    allow_partial: bool
    timeouts: Timeouts | None
    hook_timeout: float | None
    max_failed_starts: int
    last_resort: LastResort
    ahead: Ahead
    rehearse: bool | Rehearsal
    run_timeout: float | None
    stop_on_signals: bool
    announce: bool | None


class Fleet(Operations):
    """Brings many tenants, a database or a schema each, to the revision that the code expects.

    `tenants`: a list of `Target` or `Tenant`; `schemas(...)`, `databases(...)` or `files(...)`; or
    a function that returns an async iterator. Each run reads them once, before it begins.
    `name`: of the fleet in its ledger, which several may share; default "fleet".
    `groups`, `canary`, `concurrency`, `per_server`, `max_failures`: see `Rules`.
    `executor`: where tenants are migrated: `"processes"`, `"shards"`, `"claims"`, an installed
    one's name, `(name, options)` or an `Executor`; default: this process, `concurrency` at a time.
    `control`: an engine or URL of a database that is no tenant's, for the ledger, or of a SQLite
    file; default: the ledger is in memory.
    `source`: where another process finds this fleet, `"package.module:attribute"`; default: only
    executors of this process can work.
    `replay`: send the tenants the SQL that is proved to give what their revisions give; default
    False: env.py is run for each.
    `options`: the keywords of `Migrator`, for each tenant; `timeouts.run` is the limit of one
    tenant, and `announce` is off unless it is True.

    Override `migrator_of` to customise a tenant's migrator. Raises ConfigurationError.
    """

    def __init__(
        self,
        tenants: Tenants,
        *,
        name: str = "fleet",
        groups: Sequence[str] = (),
        canary: int | Sequence[str] = 0,
        concurrency: int | Mapping[str, int] = 8,
        per_server: int | None = None,
        max_failures: Limit | Mapping[str, Limit] | None = None,
        executor: ExecutorSpec | None = None,
        control: Database | None = None,
        source: str | None = None,
        replay: bool = False,
        **options: Unpack[MigratorOptions],
    ) -> None:
        if why := why_no_name(name):
            raise ConfigurationError(f"name={name!r} is no name of a fleet: {why}")
        if source is not None and not all(source.partition(":")):
            raise ConfigurationError(f"source={source!r} should be package.module:attribute")
        self.name, self.source = name, source
        self.rules = Rules(groups, canary, concurrency, per_server, max_failures)
        self._options: Any = {"announce": False, **options}
        self._model = Migrator(
            Target("sqlite+aiosqlite:///absent", Path(__file__).parent), **self._options
        )
        self._options |= {"mode": "migrate", "stop_on_signals": False}
        self.stop_on_signals = self._model.stop_on_signals
        self.mode, self.ahead = self._model.mode, self._model.ahead
        self._executor = Local(self.rules.most_at_once) if executor is None else load(executor)
        self._cohort = Cohort()
        self._replay = _replay() if replay else None
        self._members = Members(read(tenants))
        self._control = None if control is None else store_of(control, name)
        self._apart = Apart(self._control)
        self.ledger = Ledger(self._control or Memory())
        self.progress = Progress()
        """How far the run is: `total`, `done`, `failed`, `running`, `seconds_left`."""
        self.report: FleetReport | None = None
        """The last run's report, also where the run raised; None before the first has ended."""
        self._sign_up = SignUp(self.migrator_of, self.bring)
        self._rollout: Rollout | None = None
        self._under_way = False

    # A run.

    async def run(self, *, mode: modes.Mode | None = None) -> FleetReport:
        """Bring every tenant to its revision, if the gate lets it; see `FleetReport`.

        A tenant that fails is reported, and kept in quarantine until its files change or
        `retry` is called; it stops neither the others nor the service, and nothing is raised for
        it. `mode`: overrides the fleet's for this run, and the gate with it.

        Raises FleetError when more tenants failed than `max_failures` lets; SourceError where the
        tenants cannot be read; PendingError in mode `check`, FollowTimeoutError in mode `wait`;
        ConfigurationError. A cancellation, SIGTERM or SIGINT stops the statements that are running,
        as `Migrator.run` does; `report` has the tenants' parts then, too.
        """
        ensure_asyncio()
        work = self._ran(modes.validated(mode))
        if not self.stop_on_signals:
            return await work
        return await until_signalled(work, self.how_far)

    async def _ran(self, mode: modes.Mode | None) -> FleetReport:
        if self._under_way:
            raise ConfigurationError("a run of this fleet is under way already; await that one")
        self._under_way = True
        began = time.monotonic()
        try:
            if mode is None and not self._model.is_enabled():
                mode = "skip"
            mode = mode or modes.resolve(self.mode)
            if mode == "skip":
                why = f"off: set {modes.VARIABLE}=1, or pass Fleet(mode='migrate'), to migrate"
                logger.warning("the fleet is %s", why)
                self.report = FleetReport(reason=why)
                return self.report
            if mode == "migrate":
                return await self._rolled_out(began)
            return await self._followed(mode, began)
        finally:
            self._under_way, self._rollout = False, None
            self.progress.end()

    async def _followed(self, mode: modes.Mode, began: float) -> FleetReport:
        """A run that changes nothing: modes `check` and `wait`."""
        limit_s = self._model.timeouts.lock
        while not (status := await self.check()).current:
            told: Any = (f"tenants lack migrations; nothing was changed\n{status}", status)
            if mode == "check":
                raise PendingError(*told)
            if time.monotonic() - began > limit_s:
                raise FollowTimeoutError(*told)
            await asyncio.sleep(POLL_S)
        tenants = tuple(TenantReport(each, "current") for each in self._members.known)
        self.report = FleetReport(tenants, time.monotonic() - began)
        return self.report

    async def _rolled_out(self, began: float) -> FleetReport:
        tenants, refused = await self._members.read()
        takes = self._executor.takes  # the others are somebody else's
        await self.ledger.open(self._apart_from_all)
        reports = [
            TenantReport.failed(each.name, "env", f"it is no tenant: {each.why}", each.advice)
            for each in refused
            if takes(each.name)
        ]
        async with self.ledger.writing():
            held = await self._held([each for each in tenants if takes(each.name)])
            ordered = {each.tenant for each in self.ledger.quarantined() if each.plan == ANY}
            failed = {name: name not in ordered for name in held}
            rest = [each for each in tenants if takes(each.name) and each.name not in held]
            current = await self._current(rest)
            reports += [await self._noted(TenantReport(each, "current")) for each in current]
            stages = staged(tenants, self.rules, failed, takes, current)
            total = sum(stage.todo for stage in stages) + len(held) + len(reports)
            self.progress.begin(total, len(stages))
            for each in (*reports, *held.values()):
                self.progress.ended(each, ran=False)

            async def ended(report: TenantReport) -> None:
                reports.append(await self._noted(report))

            self._rollout = rollout = Rollout(stages, self.rules, self.progress, ended)
            rollout.pause(await self.ledger.store.paused())
            try:
                async with background(self._obeying(rollout)):
                    await rollout.run(self, self._executor)
                if rollout.stopped:
                    reports += await self._seen(rollout.untried)
            finally:
                known = {each.name for each in reports}
                untried = [TenantReport(e, "not-run") for e in rollout.untried if e not in known]
                parts = (*reports, *held.values(), *untried)
                seconds = time.monotonic() - began
                self.report = report = FleetReport(parts, seconds, rollout.stopped)
                await shielded(self._executor.aclose())
                await shielded(self.aclose())
            await self.ledger.prune({await self._members.plan(each.target) for each in tenants})
        notes = [*self._executor.notes, *filter(None, [self.ledger.problem])]
        notes += self._replay.refusals if self._replay is not None else ()
        self.report = report = report._replace(notes=tuple(notes))
        told = {"outcome": report.outcome, "counts": report.counts, "seconds": report.elapsed_s}
        self.progress.say("fleet-finished", **told)
        if rollout.stopped:
            raise FleetError(str(report), report)
        return report

    async def _held(self, tenants: Sequence[Tenant]) -> dict[str, TenantReport]:
        """The reports of tenants in quarantine, which are looked at and not tried."""
        entries: dict[str, Entry] = {}
        for each in tenants:
            entry = self.ledger.of(each.name, await self._members.plan(each.target))
            if entry is not None and entry.state == "quarantined":
                entries[each.name] = entry
        quarantined = [each for each in tenants if each.name in entries]
        current = await self._current(quarantined, alone=True)
        held = {}
        for name, entry in entries.items():
            if name in current and entry.plan != ANY:
                await self.ledger.release(name)  # somebody has repaired it
                continue
            note = f"in quarantine: {entry.why}"
            held[name] = TenantReport(name, "quarantined", notes=(note,))
            self._members.note(name, "quarantined")
        return held

    async def _seen(self, names: Sequence[str]) -> list[TenantReport]:
        """The reports of those that are at head already, where no tenant is begun any more."""
        tenants = [await self._members.get(each) for each in names]
        found = await self._current(tenants, alone=True)
        return [await self._noted(TenantReport(each, "current")) for each in found]

    async def _noted(self, report: TenantReport) -> TenantReport:
        """Write down how a tenant's part ended; a failure that is its own quarantines it."""
        self._members.note(report.name, report.outcome)
        plan = await self._members.plan((await self._members.get(report.name)).target)
        if report.at_head:
            await self.ledger.note(report.name, plan, "done")
        elif report.outcome == "failed" and report.failure is not None:
            passes = report.failure.get("kind") in PASSING
            state: Any = "failed" if passes else "quarantined"
            await self.ledger.note(report.name, plan, state, report.failure)
            if not passes:
                note = "in quarantine from now on: it is not tried again until its files change"
                report = report._replace(notes=(*report.notes, f"{note}, or retry is called"))
        return report

    async def _obeying(self, rollout: Rollout) -> None:
        """Pause and go on as other processes say by the ledger, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                rollout.pause(await shielded(self.ledger.store.paused()))
            except Exception as error:  # noqa: BLE001 - it goes on as it was
                logger.debug("the ledger was not read: %s", said(error, ()))

    def how_far(self) -> str:
        """How many tenants the run has done, for one that is stopped."""
        progress = self.progress
        return f"{progress.done} of {progress.total} tenants were done"

    # What an executor asks for.

    async def bring(self, tenant: str) -> TenantReport:
        """Bring one tenant to head in this process; a failure is a report, never an error."""
        secrets: tuple[str, ...] = ()
        try:
            found = await self._members.get(tenant)
            secrets = passwords_of(found.target)
            await self._apart.ensure(found)
            report = await self._migrated(found)
            if report.failure is not None and report.failure["kind"] == "unversioned":
                new = await found.as_base()
                report = report if new is None else await self._migrated(new)
            return report
        except Exception as error:  # noqa: BLE001 - one tenant does not stop the others
            kind = getattr(error, "kind", None) or "env"
            advice = str(getattr(error, "advice", ""))
            return TenantReport.failed(tenant, kind, said(error, secrets), advice)

    async def _migrated(self, tenant: Tenant) -> TenantReport:
        with quietly():
            try:
                migrator = self.migrator_of(tenant)
                migrator.replay = self._replay
                report = await self._cohort.run(migrator, mode="migrate")
            except MigrationError as error:
                report = error.report
        return TenantReport.of(report.targets[0])

    async def work(self) -> Work:
        """What another process needs to bring tenants. Raises ConfigurationError."""
        if self.source is None:
            raise ConfigurationError(
                "another process cannot find this fleet; nothing was done. Say where it is, with "
                "Fleet(source='package.module:attribute')"
            )
        source = self._members.source
        if isinstance(source, Making):
            targets = list(source.models)
        else:
            targets = [each.target for each in (await self._members.read())[0]]
        plans = sorted({await self._members.plan(each) for each in targets})
        return Work(self.source, ",".join(plans), __version__)

    async def aclose(self) -> None:
        """Close the connections that tenants share; only who calls `bring` needs it."""
        await self._cohort.aclose()

    def migrator_of(self, tenant: Tenant) -> Migrator:
        """The migrator of one tenant; a subclass may make another one."""
        return Migrator(tenant.target, **self._options)


def _replay() -> Replay:
    from automigrator.fleet.replay.replay import Replay  # local: it imports Alembic

    return Replay()
