"""One living application: it is deployed, repaired, rolled back, used, and started again."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fuzz.configurations import Configuration, configurations, outcomes
from fuzz.disturbances import Disturbance, Fault, faults
from fuzz.histories import Drawn, History, Revision, deployments, deployments_or_none
from fuzz.judge import Rows, Scene, Told, losses, misfits, untruths
from fuzz.life import LivingDatabase, LivingFile, insertion, written
from fuzz.tally import Counts
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support import alembic_projects
from support.process_state import unchanged_process

from automigrator import MigrationError, Migrator, Target
from automigrator.report import TargetReport

MOST_REVISIONS = 18
RUN_LIMIT_S = 120.0
"""A run that takes longer does not end."""


@dataclass
class Session:
    """What the machines of one test share."""

    kind: str
    root: Path
    counts: Counts
    database: LivingDatabase | None = None
    templates: dict[str, Path] = field(default_factory=dict)

    def project(self, kind: str, root: Path, url: str) -> Path:
        """The folder of a project without revisions, copied from one made before."""
        if kind not in self.templates:
            template = self.root / f"template-{kind}"
            alembic_projects.project(template, kind, url, revisions=lambda folder: None)
            self.templates[kind] = template
        template = self.templates[kind]
        shutil.copytree(template, root)
        ini = root / "alembic.ini"
        ini.write_text(ini.read_text("utf-8").replace(str(template), str(root)), "utf-8")
        return root


class Violation(AssertionError):
    """Something that must not be, with all that led to it."""


class EnoughError(Exception):
    """Raised at the beginning of a life when there were runs enough."""


class LivingApplication(RuleBasedStateMachine):
    """Runs of a Migrator amid all that happens to an application and its database."""

    session: ClassVar[Session]

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.session.root))
        self.runner = asyncio.Runner()
        self.code, self.away = History(), History()
        """The revisions that are deployed, and those that a rollback has taken away."""
        self.every = History()
        """All that were ever written: what older code finds may be of newer."""
        self.rows = Rows(set(), set(), set(), set())
        self.serial = self.number = 0
        self.debris: set[str] = set()
        self.littered = False
        """Whether a run was cut off from its server: the next one removes what it left."""
        self.failed_in_a_row = 0
        self.story: list[str] = []
        self.place: LivingFile | LivingDatabase
        self.engine: AsyncEngine | None = None

    # what the application is

    @initialize(
        kind=st.sampled_from(["async", "per_migration", "per_migration", "cookbook_async"]),
        mode=st.sampled_from(["wal", "delete"]),
        absent=st.booleans(),
        given_engine=st.booleans(),
        drive=st.sampled_from(["auto", "auto", "own", "given"]),
        first=deployments,
    )
    def begin(
        self,
        kind: str,
        mode: str,
        absent: bool,
        given_engine: bool,
        drive: str,
        first: Sequence[Drawn],
    ) -> None:
        if self.session.counts.enough:
            raise EnoughError
        database = self.session.database
        if database is not None:
            database.lay(absent=absent)
            database.applications.clear()
            self.place = database
        else:
            self.place = LivingFile(self.root, mode, absent=absent)
        project = self.session.project(kind, self.root / "project", self.place.url)
        self.config = project / "alembic.ini"
        self.versions, self.tallies = project / "migrations" / "versions", project / "tallies"
        self.tallies.mkdir()
        self.given_engine, self.drive = given_engine, drive
        self.say(f"{self.session.kind} {mode} {kind} {drive} {absent=} {given_engine=}")
        self._deploy(first)

    def say(self, line: str) -> None:
        self.story.append(line)
        note(line)

    # deployments

    def _deploy(self, drawn: Sequence[Drawn]) -> None:
        if not drawn or len(self.every.revisions) >= MOST_REVISIONS:
            return
        for each in drawn:
            self.number += 1
            revision = self.code.grown(each, f"r{self.number}")
            self.code.revisions.append(revision)
            self.every.revisions.append(revision)
            self._write(revision)
            self.say(f"deploy {revision}")
        self.failed_in_a_row = 0

    def _write(self, revision: Revision) -> None:
        revision.write(self.versions, self.tallies / revision.id)

    @precondition(lambda self: len(self.code.revisions) > 1)
    @rule(keep=st.integers(1, 6))
    def deploy_older_code(self, keep: int) -> None:
        gone = self.code.revisions[keep:]
        if not gone:
            return
        for revision in gone:
            (self.versions / f"{revision.id}_.py").unlink()
        self.code.revisions = self.code.revisions[:keep]
        self.away.revisions = [*gone, *self.away.revisions]
        self.failed_in_a_row = 0
        self.say(f"older code: without {[each.id for each in gone]}")

    @precondition(lambda self: self.away.revisions)
    @rule()
    def deploy_newer_code(self) -> None:
        for revision in self.away.revisions:
            self._write(revision)
        self.code.revisions += self.away.revisions
        self.away.revisions = []
        self.failed_in_a_row = 0
        self.say("newer code again")

    @precondition(lambda self: any(each.failing for each in self.code.revisions))
    @rule()
    def repair(self) -> None:
        self._repair()

    def _repair(self) -> None:
        for history in (self.code, self.every, self.away):
            history.revisions = [
                each.mended() if each.failing else each for each in history.revisions
            ]
        for revision in self.code.revisions:
            self._write(revision)
        self.failed_in_a_row = 0
        self.say("repaired")

    # the application at work

    @rule(pooled=st.booleans())
    def use(self, pooled: bool) -> None:
        serial = self._serial()
        done = self._run(self._write_pooled(serial)) if pooled else self.place.write(serial)
        if done:
            self.rows.acknowledged |= set(written(serial))
        self.say(f"wrote {serial} {pooled=}: {done}")

    def _serial(self) -> int:
        self.serial += 1
        return self.serial

    async def _write_pooled(self, serial: int) -> bool:
        if isinstance(self.place, LivingFile) and not self.place.path.exists():
            return False
        engine = self._engine()
        for _ in range(3):  # a restored database costs an application its connections
            try:
                async with engine.begin() as connection:
                    if isinstance(self.place, LivingDatabase):
                        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()
                        self.place.applications.add(int(pid or 0))
                    for statement in insertion(serial):
                        await connection.execute(text(statement))
            except (SQLAlchemyError, OSError):
                continue
            return True
        return False

    def _engine(self) -> AsyncEngine:
        if self.engine is None:
            self.engine = create_async_engine(self.place.url, pool_pre_ping=True)
            if isinstance(self.place, LivingFile):

                @event.listens_for(self.engine.sync_engine, "connect")
                def enforce(connection: Any, record: Any) -> None:
                    connection.execute("PRAGMA foreign_keys=ON")

        return self.engine

    # what must change nothing

    @rule(what=st.sampled_from(["check", "plan", "doctor", "clear"]))
    def look(self, what: str) -> None:
        before = self._scene()
        migrator = Migrator(self._target(Configuration((), False, 0, 5.0)), mode="migrate")
        self.say(what)
        found = self._run(self._looked(migrator, what))
        if what == "clear":
            self.failed_in_a_row = 0
        after = self._scene()
        wrong = []
        if before.dump.without(set()) != after.dump.without(set()):
            wrong.append(f"{what}() has changed the database")
        if list(before.beside) != list(after.beside) or before.opened != after.opened:
            wrong.append(f"{what}() has changed what is beside: {before.beside} {after.beside}")
        known = before.dump.heads <= self.code.ids
        current = before.dump.heads == self.code.rows and not before.opened
        if what == "check" and not before.opened and found != current:
            wrong.append(f"check() says current={found}")
        if what == "plan" and known and set(found or ()) != self.code.pending(before.dump.heads):
            wrong.append(f"plan() says {found}")
        self.session.counts.looks[what] += 1
        self._judged(wrong)

    async def _looked(self, migrator: Migrator, what: str) -> Any:
        with unchanged_process():
            if what == "check":
                return (await migrator.check()).current
            if what == "doctor":
                return (await migrator.doctor()).healthy
            if what == "clear":
                return await migrator.clear()
            try:
                (plan,) = await migrator.plan()
            except Exception as error:  # noqa: BLE001 - a newer database has no plan
                return self.say(f"plan: {type(error).__name__}")
            finally:
                await _settled()
            return [each.revision for each in plan.revisions]

    # runs

    @rule(drawn=deployments_or_none, repaired=st.booleans(), configuration=configurations())
    def start(self, drawn: Sequence[Drawn], repaired: bool, configuration: Configuration) -> None:
        self._prepare(drawn, repaired)
        self._start([(configuration, Fault("none"))])

    @rule(
        drawn=deployments,
        repaired=st.booleans(),
        configuration=configurations(),
        fault=faults("cancel", "cancel", "terminate", "busy"),
    )
    def start_disturbed(
        self, drawn: Sequence[Drawn], repaired: bool, configuration: Configuration, fault: Fault
    ) -> None:
        self._prepare(drawn, repaired)
        self._start([(configuration, fault)])

    @rule(
        drawn=deployments,
        repaired=st.booleans(),
        configuration=configurations(),
        fault=faults("hook", "writes", "writes", "cancel"),
    )
    def start_with_others(
        self, drawn: Sequence[Drawn], repaired: bool, configuration: Configuration, fault: Fault
    ) -> None:
        self._prepare(drawn, repaired)
        self._start([(configuration, fault)])

    @rule(
        drawn=deployments_or_none,
        repaired=st.booleans(),
        one=configurations(),
        other=configurations(),
        fault=faults("none", "cancel", "hook"),
    )
    def start_two(
        self,
        drawn: Sequence[Drawn],
        repaired: bool,
        one: Configuration,
        other: Configuration,
        fault: Fault,
    ) -> None:
        self._prepare(drawn, repaired)
        self._start([(one, fault), (other, Fault("none"))])

    def _prepare(self, drawn: Sequence[Drawn], repaired: bool) -> None:
        """Another deployment, in which what was broken may be repaired."""
        if repaired and any(each.failing for each in self.code.revisions):
            self._repair()
        self._deploy(drawn)

    def _start(self, starts: Sequence[tuple[Configuration, Fault]]) -> None:
        starts = [(each, fault.on(self.session.kind)) for each, fault in starts]
        before = self._scene()
        new: set[str] = set()

        def write() -> None:
            serial = self._serial()
            self.rows.racing |= set(written(serial))
            if self.place.write(serial):
                new.update(written(serial))

        disturbances = [Disturbance(fault, self.place, write) for _, fault in starts]
        began = time.monotonic()
        self.say(f"run {' and '.join(f'{c} {f}' for c, f in starts)}")
        try:
            results = self._run(self._ran([c for c, _ in starts], disturbances))
        except TimeoutError as error:
            raise self._violation([f"it did not end within {RUN_LIMIT_S:g} s"]) from error
        except AssertionError as error:
            raise self._violation([str(error)]) from error
        self.session.counts.seconds += time.monotonic() - began
        self.rows.acknowledged |= new
        heard = frozenset(name for each in disturbances for name in each.names)
        told = []
        wrong = []
        for (configuration, fault), disturbance, result in zip(
            starts, disturbances, results, strict=True
        ):
            report: TargetReport | None = None
            if isinstance(result, TargetReport):
                report = result
            elif not isinstance(result, asyncio.CancelledError) or fault.kind != "cancel":
                wrong.append(f"it raised {result!r}")
            told.append(Told(configuration, disturbance, report, heard))
            self._count(fault, disturbance, report)
            ended = report.outcome if report is not None else "cancelled"
            self.say(f"  {ended} {disturbance.done} {disturbance.names} {report}")
        wrong += self._wrong(before, told, new)
        self._judged(wrong)

    def _count(self, fault: Fault, disturbance: Disturbance, report: TargetReport | None) -> None:
        counts = self.session.counts
        counts.runs += 1
        counts.outcomes[report.outcome if report is not None else "cancelled"] += 1
        counts.faults[fault.kind if disturbance.done else "none"] += 1

    async def _ran(
        self, configurations: Sequence[Configuration], disturbances: Sequence[Disturbance]
    ) -> Sequence[object]:
        """The report of each run, or what it raised."""
        targets = [self._target(configuration) for configuration in configurations]
        before = asyncio.all_tasks()
        with unchanged_process():
            async with asyncio.timeout(RUN_LIMIT_S):
                for configuration, target, disturbance in zip(
                    configurations, targets, disturbances, strict=True
                ):
                    migrator = Migrator(
                        target,
                        mode="migrate",
                        recovery=configuration.recovery,
                        plugins=[disturbance],
                        allow_partial=configuration.allow_partial,
                        max_failed_starts=configuration.max_failed_starts,
                    )
                    disturbance.task = asyncio.create_task(migrator.run())
                tasks = [each.task for each in disturbances if each.task is not None]
                await asyncio.wait(tasks)
            for disturbance in disturbances:
                disturbance.over()
            await _settled()
            left = asyncio.all_tasks() - before
            assert not left, f"tasks are left: {left}"
        return [_result(task) for task in tasks]

    def _target(self, configuration: Configuration) -> Target:
        database: Any = self._engine() if self.given_engine else self.place.url
        return Target(
            database,
            self.config,
            name="app",
            drive=self.drive,  # type: ignore[arg-type]  # drawn
            lock_timeout=60.0,
            connect_timeout=20.0,
            retry_timeout=configuration.retry_timeout,
        )

    # the judgement

    def _wrong(self, before: Scene, told: Sequence[Told], new: set[str]) -> list[str]:
        wrong = []
        if held := self.place.held():
            wrong.append(held)
        after = self._scene()
        kinds = {each.disturbance.fault.kind for each in told if each.disturbance.done}
        losing = any(each.body == "loses" for each in self.code.revisions)
        self._debris(before, after, told)
        wrong += misfits(self.every, after.dump, self.rows, self.debris)
        wrong += losses(before, after, told, self.rows, self.place.dump, losing=losing, new=new)
        if len(told) == 1:
            wrong += untruths(self.code, before, after, told[0], new)
            wrong += self._unexpected(before, told[0])
        else:
            wrong += self._two(after, told)
        strays = [name for kind, name in after.beside if kind == "stray"]
        if "terminate" in kinds:
            self.littered = True
        if (strays or after.opened) and not self.littered:
            wrong.append(f"{strays} were left, and a journal is open: {after.opened}")
        if not strays and not after.opened:
            self.littered = False
        elif not kinds and "locked" in told[0].heard and _reached(told[0].report):
            wrong.append(f"{strays} were left by an earlier run, and stay")
        self._failed_in_a_row(told)
        return wrong

    def _debris(self, before: Scene, after: Scene, told: Sequence[Told]) -> None:
        """Tables that a revision has committed before it failed may stay."""
        committed = {t for each in self.every.revisions if each.commits for t in each.tables}
        there = after.dump.user_tables
        self.debris &= there
        last = [n for each in told for n in each.disturbance.names]
        restored = "restored" in last and "recreated" not in last and len(told) == 1
        report = told[0].report
        clean = len(told) == 1 and told[0].clean
        if (
            restored
            and report is not None
            and "attempt-started" not in last[last.index("restored") :]
        ):
            self.debris &= before.dump.user_tables
        elif not clean:
            self.debris |= committed & there

    def _unexpected(self, before: Scene, told: Told) -> list[str]:
        """An outcome that the small model does not have."""
        disturbance, configuration = told.disturbance, told.configuration
        if disturbance.done and not disturbance.fault.harmless:
            return []
        if before.opened or told.report is None:
            return []
        allowed = outcomes(
            self.code, before.dump.heads, configuration, bool(before.dump.tables.get("notes"))
        )
        if configuration.max_failed_starts and self.failed_in_a_row:
            allowed |= {"failed", "degraded"}
        others = self.session.kind == "postgresql" and not self.given_engine and self.engine
        if others and not configuration.disconnects:
            allowed |= {"failed", "degraded"}
        if told.report.outcome in allowed:
            return []
        return [f"{told.report.outcome}, which is none of {allowed}"]

    def _two(self, after: Scene, told: Sequence[Told]) -> list[str]:
        """Of two runs at once one at least tells the end; what they applied is there."""
        reports = [each.report for each in told if each.report is not None]
        heads = tuple(sorted(after.dump.heads))
        if not reports:
            return ["neither of two runs has told anything"]
        wrong = []
        if not any(tuple(report.after) == heads for report in reports):
            wrong.append(f"neither says that the database is at {heads}")
        applied = [each.revision for report in reports for each in report.applied]
        if len(set(applied)) != len(applied) and "recreated" not in told[0].heard:
            wrong.append(f"two runs say that they applied {applied}")
        if any(r.outcome in ("migrated", "recovered") for r in reports) and (
            after.dump.heads != self.code.rows
        ):
            wrong.append(f"one has migrated, and the database is at {heads}")
        return wrong

    def _failed_in_a_row(self, told: Sequence[Told]) -> None:
        for each in told:
            if each.report is not None and each.report.outcome in ("failed", "degraded"):
                self.failed_in_a_row += 1
            elif each.report is None:
                continue
            else:
                self.failed_in_a_row = 0

    def _judged(self, wrong: Sequence[str]) -> None:
        if wrong:
            raise self._violation(wrong)

    def _violation(self, wrong: Sequence[str]) -> Violation:
        said = "\n".join(["; ".join(wrong), *(f"    {line}" for line in self.story)])
        self.session.counts.violations.append(said)
        return Violation(said)

    # the rest

    def _scene(self) -> Scene:
        return Scene(self.place.dump(), tuple(self.place.beside()), self.place.opened())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        if self.engine is not None:
            self._run(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.root, ignore_errors=True)


def _result(task: asyncio.Task[Any]) -> object:
    if task.cancelled():
        return asyncio.CancelledError()
    error = task.exception()
    if isinstance(error, MigrationError):
        return error.report.targets[0]
    return error if error is not None else task.result().targets[0]


def _reached(report: TargetReport | None) -> bool:
    return report is not None and report.outcome in ("migrated", "recovered", "current")


async def _settled() -> None:
    """Let what has ended end: a connection's thread, a task that has answered."""
    mine = asyncio.current_task()
    deadline = time.monotonic() + 5
    while (others := asyncio.all_tasks() - {mine}) and time.monotonic() < deadline:
        await asyncio.wait(others, timeout=0.1)
