"""The backend that `docs/backends.md` walks through: an application on it, and the suite."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import registry
from support import alembic_projects, distributions

from automigrator import ConfigurationError, MigrationError, Migrator, Report, Target
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.sessions import Sessions

EXAMPLE = Path(__file__).parents[2] / "examples" / "backend"
PAGE = EXAMPLE.parents[1] / "docs" / "backends.md"
PROJECT = (EXAMPLE / "pyproject.toml").read_text("utf-8")
BROKEN = "op.create_table('half', sa.Column('id', sa.Integer)); op.execute('SELECT * FROM absent')"
COMMITTING = """
from automigrator.backends.contract.sessions import Sessions
from automigrator_exampledb import ExampleDB, ExampleSessions

class CommittingSessions(ExampleSessions):
    adopt = Sessions.adopt

    def configure_options(self, connection=None):
        return {"transactional_ddl": False}

class Committing(ExampleDB):
    transactional_ddl = False
    sessions = CommittingSessions()
"""
"""A backend whose CREATE TABLE commits."""

START = """
import asyncio, sys
from automigrator import Migrator, Target

url, config = sys.argv[1:]
print(asyncio.run(Migrator(Target(url, config), mode="migrate").run()).outcome)
"""
ATTRIBUTES = {"name", "transactional_ddl", "offers", "in_place", "snapshots", "sides"}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution, with `source` instead of the example's."""

    def installs(name: str = "automigrator_exampledb:ExampleDB", source: str = "") -> None:
        site, module = tmp_path / "site", name.partition(":")[0]
        project = PROJECT.replace("automigrator_exampledb:ExampleDB", name)
        distributions.install(project, site)
        if source:
            (site / f"{module}.py").write_text(source, "utf-8")
        monkeypatch.syspath_prepend(str(EXAMPLE))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setattr(registry, "impls", dict(registry.impls))

    return installs


class Application:
    """One whose database is of the example's kind."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "app.db"
        self.url = f"exampledb+aiosqlite:///{self.file}"
        self.project = alembic_projects.project(folder / "app", "cookbook_async", self.url)

    def add(self, revision: str, upgrade: str) -> None:
        alembic_projects.revision(self.project.versions, revision, "r3", upgrade=upgrade)

    def migrator(self, *recovery: Any, **options: Any) -> Migrator:
        target = Target(self.url, self.project.config, **options)
        return Migrator(target, mode="migrate", recovery=recovery)

    async def migrated(self) -> None:
        assert (await self.migrator().run()).outcome == "migrated"

    async def failed(self, *recovery: Any, **options: Any) -> Report:
        with pytest.raises(MigrationError) as info:
            await self.migrator(*recovery, **options).run()
        return info.value.report

    @property
    def heads(self) -> set[str]:
        return alembic_projects.heads(f"sqlite:///{self.file}")

    @property
    def tables(self) -> set[str]:
        return alembic_projects.tables(f"sqlite:///{self.file}")


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return Application(tmp_path)


class TestAnApplication:
    @pytest.fixture(autouse=True)
    def installed(self, install: Install) -> None:
        install()

    async def test_it_migrates_and_then_has_nothing_to_do(self, app: Application) -> None:
        await app.migrated()
        assert app.heads == {"r3"}
        assert (await app.migrator().run()).outcome == "current"

    async def test_check_and_plan_change_nothing(self, app: Application) -> None:
        (status,) = (await app.migrator().check()).targets
        (plan,) = await app.migrator().plan(sql=True)

        assert not status.exists and status.problem is None
        assert [each.revision for each in plan.revisions] == ["r1", "r2", "r3"]
        assert "CREATE TABLE users" in (plan.sql or "")
        assert not app.file.exists()

    async def test_it_rolls_back(self, app: Application) -> None:
        await app.migrated()
        (target,) = await app.migrator().rollback("r1")
        assert target.after == ("r1",) and app.heads == {"r1"}

    async def test_the_doctor_says_what_it_cannot_find_out(self, app: Application) -> None:
        await app.migrated()
        for repair in (False, True):
            said = str(await app.migrator().doctor(repair=repair))
            assert "current at r3" in said
            assert "not known: anything else: the backend of exampledb offers no close look" in said

    async def test_a_failed_revision_is_rolled_back(self, app: Application) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        (failure,) = (await app.failed()).targets[0].failures

        assert (failure.kind, failure.revision, failure.state) == ("revision", "r4", "clean")
        assert app.heads == {"r3"} and "half" not in app.tables

    @pytest.mark.long
    async def test_the_next_start_knows_of_the_failure(self, app: Application) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        await app.failed()
        assert "failed starts in a row at these revisions: 2" in str(await app.failed())

    @pytest.mark.long
    @pytest.mark.plugins
    async def test_a_purge_is_refused_and_the_next_strategy_is_asked(
        self, app: Application
    ) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        report = await app.migrator("purge", "log-and-continue").run()

        assert report.outcome == "degraded"
        assert "not purged: the backend of exampledb offers no databases on the side" in str(report)
        assert app.heads == {"r3"}

    @pytest.mark.plugins
    async def test_a_snapshot_is_refused_before_anything_changes(self, app: Application) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        report = await app.failed(("backup-restore", {"snapshot": "always"}), "purge")

        (failure,) = report.targets[0].failures
        assert (failure.kind, failure.state) == ("hook", "clean")
        assert "the backend of exampledb offers no snapshots; nothing was changed" in str(failure)
        assert app.heads == {"r3"}

    @pytest.mark.long
    @pytest.mark.plugins
    async def test_no_snapshot_is_asked_for_where_a_failure_rolls_back_by_itself(
        self, app: Application
    ) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        report = await app.migrator("backup-restore", "log-and-continue").run()
        assert report.outcome == "degraded" and app.heads == {"r3"}

    @pytest.mark.long
    async def test_a_rehearsal_is_refused_before_anything_changes(self, app: Application) -> None:
        await app.migrated()
        app.add("r4", "pass")
        (failure,) = (await app.failed(rehearse=True)).targets[0].failures

        assert failure.kind == "rehearsal"
        assert "the backend of exampledb offers no databases on the side" in failure.message
        assert "Target(rehearse=False)" in failure.advice
        assert app.heads == {"r3"}

    @pytest.mark.long
    async def test_one_of_two_processes_leads(self, app: Application) -> None:
        command = [sys.executable, "-c", START, app.url, str(app.project.config)]
        starts = [
            await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(2)
        ]
        said = [(await each.communicate())[0].decode().strip() for each in starts]
        assert sorted(said) == ["current", "migrated"]
        assert app.heads == {"r3"}

    async def test_a_url_that_it_cannot_use_is_refused(self, app: Application) -> None:
        with pytest.raises(ConfigurationError, match="must name a file"):
            Migrator(Target("exampledb+aiosqlite://", app.project.config))


class TestWhereACreateTableCommits:
    @pytest.fixture(autouse=True)
    def installed(self, install: Install) -> None:
        install("committing:Committing", COMMITTING)

    async def test_half_a_revision_stays_and_is_told(self, app: Application) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        (failure,) = (await app.failed()).targets[0].failures

        assert failure.state == "partial-within-revision"
        assert app.heads == {"r3"} and "half" in app.tables

    @pytest.mark.long
    @pytest.mark.plugins
    async def test_the_application_does_not_start_on_it(self, app: Application) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        assert (await app.failed("log-and-continue")).outcome == "failed"

    @pytest.mark.long
    @pytest.mark.plugins
    async def test_a_strategy_that_would_restore_is_refused_before_anything_changes(
        self, app: Application
    ) -> None:
        await app.migrated()
        app.add("r4", BROKEN)
        (failure,) = (await app.failed("backup-restore")).targets[0].failures

        assert "the backend of exampledb offers no snapshots; nothing was changed" in str(failure)
        assert app.heads == {"r3"} and "half" not in app.tables


class TestTheSuite:
    """As an author runs it, in a project of their own."""

    def ran(self, folder: Path, *arguments: str) -> str:
        test = folder / "test_exampledb.py"
        test.write_text((EXAMPLE / "tests" / "test_exampledb.py").read_text("utf-8"), "utf-8")
        (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-rs", str(test), *arguments]
        command += [f"-pno:{name}" for name in ("cacheprovider", "asyncio", "anyio", "xdist")]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return ended.stdout + ended.stderr

    @pytest.mark.parametrize(
        ("name", "source"),
        [("automigrator_exampledb:ExampleDB", ""), ("committing:Committing", COMMITTING)],
        ids=["transactional", "committing"],
    )
    @pytest.mark.long
    def test_it_asks_for_what_is_declared(
        self, name: str, source: str, tmp_path: Path, install: Install
    ) -> None:
        install(name, source)
        told = self.ran(tmp_path)
        assert re.search(r"^22 passed, 19 skipped", told, re.MULTILINE), told
        for part, cases in (("snapshots", 10), ("sides", 7), ("examiner", 2)):
            reason = f"it needs {part}, which the backend does not declare in `offers`"
            assert re.search(rf"SKIPPED \[{cases}\] .*: {reason}", told), told

    @pytest.mark.parametrize(
        ("part", "method"), [("ExampleDB", "create"), ("ExampleHold", "confirm")]
    )
    @pytest.mark.long("create")
    def test_it_says_which_method_is_missing(
        self, part: str, method: str, tmp_path: Path, install: Install
    ) -> None:
        source = (EXAMPLE / "automigrator_exampledb.py").read_text("utf-8")
        install("lacking:ExampleDB", source.replace(f"async def {method}(", "async def another("))
        told = self.ran(tmp_path, "-k", "says_who_leads")
        assert re.search(rf"abstract class {part} .*abstract method '?{method}'?", told), told


class TestThePage:
    """What `docs/backends.md` shows is the example."""

    def test_its_code_is_the_examples(self) -> None:
        *backend, suite = blocks("python")
        assert "\n\n\n".join(each.strip() for each in backend) == text("automigrator_exampledb.py")
        assert suite.strip() == text("tests/test_exampledb.py")

    def test_its_distribution_is_the_examples(self) -> None:
        (shown,) = map(tomllib.loads, blocks("toml"))
        project = tomllib.loads(PROJECT)["project"]
        project["entry-points"].pop("sqlalchemy.dialects")
        assert shown["project"] == project

    def test_it_names_every_method_that_has_to_be_there(self) -> None:
        page = PAGE.read_text("utf-8")
        required = [set(part.__abstractmethods__) for part in (Backend, Sessions, Hold)]
        table = page.partition("Nine methods have no default:")[2].partition("The docstrings")[0]
        rows = [row.split("|")[2] for row in table.splitlines() if "`" in row]
        named = [set(re.findall(r"`(\w+)`", row)) for row in rows]
        assert named == required and sum(map(len, required)) == 9

    def test_it_names_every_method_with_a_default(self) -> None:
        page = PAGE.read_text("utf-8")
        own = {name for part in (Backend, Sessions, Hold) for name in vars(part)}
        optional = own - {name for p in (Backend, Sessions, Hold) for name in p.__abstractmethods__}
        methods = {name for name in optional if not name.startswith("_")} - ATTRIBUTES
        assert [name for name in sorted(methods) if not re.search(rf"[`.]{name}`", page)] == []

    def test_it_counts_the_examples_methods(self) -> None:
        classes = ast.parse(text("automigrator_exampledb.py")).body
        methods = [
            each
            for part in classes
            if isinstance(part, ast.ClassDef)
            for each in part.body
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        assert f"The example has {len(methods)} methods." in PAGE.read_text("utf-8")


def text(file: str) -> str:
    return (EXAMPLE / file).read_text("utf-8").strip()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
