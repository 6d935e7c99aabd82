"""Faults: what ends well is told in a line, what ends badly fails a test."""

from __future__ import annotations

from typing import Any

import pytest

pytest_plugins = "pytester"

TABLE = """
op.create_table(
    "notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer)
)
"""
GOOD = """
op.add_column("notes", sa.Column("text", sa.Text))
op.execute("UPDATE notes SET n = n + 1")
"""
HALF = (
    "with op.get_context().autocommit_block():\n"
    '    op.execute("UPDATE notes SET n = n + 1")\n'
    'op.add_column("notes", sa.Column("text", sa.Text))'
)
ROWS = """
import pytest
@pytest.fixture(scope="session")
def automigrator_rows():
    return {"r1": {"notes": [{"id": 1, "n": 1}]}}
"""


@pytest.fixture
def faulty(project: Any) -> Any:
    """Makes a project with one row, and a second revision."""

    def lay(upgrade: str, **options: str) -> Any:
        project.lay(
            lambda _: (
                project.revision("r1", None, upgrade=TABLE),
                project.revision("r2", "r1", upgrade=upgrade),
            )
        )
        project.configure(**options)
        (project.folder / "conftest.py").write_text(ROWS)
        return project

    return lay


def test_a_whole_revision_ends_well_whatever_its_sqlite_statements_meet(faulty: Any) -> None:
    source = """
    def test_it(migration_faults):
        report = migration_faults("r2", "fail", "kill", "full")
        assert not report.wrong
        steps = [each.step.split(" ")[0] for each in report.trials if each.fault == "kill"]
        assert steps == ["ALTER", "UPDATE", "UPDATE", "COMMIT"], steps
        assert {each.then for each in report.trials if each.fault != "full"} == {"migrated"}
    """
    result = faulty(GOOD).run(source)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["revision r2 on sqlite: * faults, each of them ends well"])


def test_a_revision_that_commits_in_its_middle_is_found(faulty: Any) -> None:
    project = faulty(HALF)
    source = "from pytest_automigrator.faults.tests import test_killed_at_every_statement"
    html = project.folder / "faults.html"
    result = project.run(source, f"--automigrator-html={html}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*r2, step *the process is killed: rows of notes: 1 of 1 differ in n", "*BAD *left: half*"]
    )
    page = html.read_text()
    assert "rows of notes: 1 of 1 differ in n" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


@pytest.mark.plugins
def test_the_applications_own_strategies_are_asked(faulty: Any) -> None:
    project = faulty(HALF)
    (project.folder / "shop.py").write_text(
        "from automigrator import Migrator, Target\n"
        "target = Target('sqlite:///never.db', 'alembic.ini')\n"
        "migrator = Migrator(target, recovery=[('backup-restore', {'snapshot': 'always'})])\n"
    )
    project.configure(app="shop:migrator")
    source = "from pytest_automigrator.faults.tests import test_failing_at_every_statement"
    result = project.run(source, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ok *left: as before; next start: migrated"])


def test_a_revision_that_fails_by_itself_is_told_once(faulty: Any) -> None:
    source = "from pytest_automigrator.faults.tests import test_failing_at_every_statement"
    result = faulty("op.execute('SELECT * FROM absent')").run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*it fails by itself*"])


def test_options_that_no_process_can_be_sent_are_refused_in_words(faulty: Any) -> None:
    project = faulty(GOOD)
    (project.folder / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='session')\n"
        "def automigrator_options(): return {'x': ('a=1',), 'load': lambda: None}\n"
    )
    source = "from pytest_automigrator.faults.tests import test_failing_at_every_statement"
    result = project.run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*automigrator_options?'load'? cannot be sent*lambda*No fault was made*automigrator_app*"]
    )


@pytest.mark.long
def test_every_fault_on_postgresql_ends_well(faulty: Any, role: str) -> None:
    project = faulty(GOOD, database="postgresql", postgresql=role)
    result = project.run("from pytest_automigrator.faults.tests import *", "-v")
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines(["*the server ends the connection*", "*a reader of 2 tables*"])


@pytest.mark.long
def test_a_lock_in_the_way_of_sqlite_ends_well(faulty: Any) -> None:
    project = faulty(GOOD)
    source = "from pytest_automigrator.faults.tests import test_lock_in_the_way"
    project.run(source).assert_outcomes(passed=1)
