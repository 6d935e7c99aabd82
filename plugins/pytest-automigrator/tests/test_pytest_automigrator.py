"""The fixtures on SQLite: what a user gets without any configuration."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = "pytester"

INSERTING = """
import pytest
from sqlalchemy import text

@pytest.mark.parametrize("n", range(3))
def test_a_row(migrated_engine, n):
    with migrated_engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM users")).scalar() == 0
        connection.execute(text("INSERT INTO users (name) VALUES ('x')"))
"""
LOOKING = """
import sqlite3
def test_tables(migrated_database):
    assert migrated_database.drivername == "sqlite"
    names = sqlite3.connect(migrated_database.database).execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    print(names)
    assert ("{table}",) in names
"""


def templates(folder: Path) -> list[Path]:
    return sorted(folder.glob("automigrator-pytest-*/sqlite/*.db"))


def test_each_test_has_a_migrated_sqlite_database_of_its_own(project: Any) -> None:
    project.lay()
    project.run(INSERTING).assert_outcomes(passed=3)


def test_a_sqlite_history_is_migrated_once_and_later_sessions_share_it(project: Any) -> None:
    project.lay()
    project.run(INSERTING)
    assert project.ran() > 0
    project.run(INSERTING).assert_outcomes(passed=3)
    assert project.ran() == 0


@pytest.mark.long("beside")
@pytest.mark.parametrize("change", ["a revision", "a file beside env.py", "env.py's import"])
def test_another_sqlite_history_has_another_template(
    project: Any, cache_folder: Path, change: str
) -> None:
    project.lay()
    (project.folder / "models.py").write_text("")
    env = project.folder / "migrations" / "env.py"
    env.write_text(f"import models\n{env.read_text()}")
    project.run(INSERTING)
    project.ran()
    if change == "a revision":
        table = 'op.create_table("later", sa.Column("id", sa.Integer, primary_key=True))'
        project.revision("r4", "r3", upgrade=table)
    elif change == "a file beside env.py":
        (project.folder / "migrations" / "data.sql").write_text("select 1")
    else:
        (project.folder / "models.py").write_text("new = True")
    table = "later" if change == "a revision" else "users"
    project.run(LOOKING.format(table=table)).assert_outcomes(passed=1)
    assert project.ran() > 0 and len(templates(cache_folder)) == 2


@pytest.mark.long
def test_workers_share_one_sqlite_template(project: Any, cache_folder: Path) -> None:
    project.lay()
    project.run_apart(INSERTING, "-n", "2").assert_outcomes(passed=3)
    assert len(templates(cache_folder)) == 1
    once = project.ran()
    (template,) = templates(cache_folder)
    template.unlink()
    project.run_apart(INSERTING, "-p", "no:xdist").assert_outcomes(passed=3)
    assert project.ran() == once


def test_an_async_engine_for_sqlite_works_in_the_tests_own_loop(project: Any) -> None:
    project.lay()
    source = """
    from sqlalchemy import text
    async def test_it(migrated_async_engine):
        async with migrated_async_engine.begin() as connection:
            await connection.execute(text("INSERT INTO users (name) VALUES ('x')"))
    """
    project.run(source).assert_outcomes(passed=1)


def test_a_sqlite_connection_is_rolled_back_after_each_test(project: Any) -> None:
    project.lay()
    source = """
    import pytest
    from sqlalchemy import text
    from sqlalchemy.orm import Session

    @pytest.mark.parametrize("n", range(2))
    def test_it(migrated_connection, n):
        with Session(migrated_connection, join_transaction_mode="create_savepoint") as session:
            assert session.execute(text("SELECT count(*) FROM users")).scalar() == 0
            session.execute(text("INSERT INTO users (name) VALUES ('x')"))
            session.commit()
        migrated_connection.execute(text("CREATE TABLE a_table (id INTEGER)"))
    """
    project.run(source).assert_outcomes(passed=2)


def test_a_sqlite_database_at_a_revision_is_filled_and_upgraded(project: Any) -> None:
    project.lay()
    project.revision(
        "r4",
        "r3",
        upgrade="op.execute(\"UPDATE users SET email = name || '@example.org'\")",
    )
    source = """
    def test_data(at_revision):
        database = at_revision("r3")
        database.execute("INSERT INTO users (name) VALUES (:name)", [{"name": "a"}, {"name": "b"}])
        report = database.upgrade()
        assert [each.revision for each in report.targets[0].applied] == ["r4"]
        rows = database.rows("SELECT email FROM users ORDER BY 1")
        assert [row.email for row in rows] == ["a@example.org", "b@example.org"]

    async def test_in_a_loop(at_revision):
        assert at_revision("base").upgrade("r2").outcome == "migrated"
    """
    project.run(source).assert_outcomes(passed=2)


def test_sqlite_clones_are_removed_and_the_template_stays(project: Any, cache_folder: Path) -> None:
    project.lay()
    project.run(INSERTING).assert_outcomes(passed=3)
    files = [path for path in cache_folder.rglob("*.db") if path.is_file()]
    assert files == templates(cache_folder) and len(files) == 1
    with closing(sqlite3.connect(files[0])) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_what_a_killed_maker_of_a_sqlite_template_left_is_removed(
    project: Any, cache_folder: Path
) -> None:
    project.lay()
    project.run(INSERTING)
    (template,) = templates(cache_folder)
    template.unlink()
    for name in (template.stem, "f" * 24):  # of this history, and of another one
        partial = template.with_name(f"{name}.partial")
        partial.mkdir()
        (partial / "app.db").write_text("half of it")
        partial.with_suffix(".lock").touch()
    project.run(INSERTING).assert_outcomes(passed=3)
    assert sorted(path.suffix for path in template.parent.iterdir()) == [".db", ".lock"]


def test_a_sqlite_template_that_was_not_used_for_weeks_is_removed(
    project: Any, cache_folder: Path
) -> None:
    import os

    project.lay()
    project.run(INSERTING)
    (old,) = templates(cache_folder)
    os.utime(old, (0, 0))
    project.revision("r4", "r3")
    project.run(INSERTING)
    assert old not in templates(cache_folder) and len(templates(cache_folder)) == 1


def test_a_cache_that_others_may_write_to_is_refused_before_sqlite_is_touched(
    project: Any, cache_folder: Path
) -> None:
    project.lay()
    project.run(INSERTING)
    (folder,) = cache_folder.glob("automigrator-pytest-*")
    folder.chmod(0o777)
    result = project.run(INSERTING)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*is not a folder that only this user may write to*"])


def test_nothing_is_run_or_said_where_no_sqlite_fixture_is_used(
    project: Any, cache_folder: Path
) -> None:
    project.lay()
    (project.folder / "migrations" / "env.py").write_text("raise SystemExit('run')")
    project.run("def test_it(): pass", "-v").assert_outcomes(passed=1)
    assert not list(cache_folder.glob("automigrator-pytest-*"))


def test_a_session_that_uses_nothing_imports_nothing_for_sqlite(project: Any) -> None:
    project.lay()
    source = """
    import sys
    def test_it():
        named = ("automigrator", "sqlalchemy", "alembic")
        assert not [name for name in sys.modules if name.partition(".")[0] in named]
    """
    arguments = ["-p", "no:xdist", "-p", "no:hypothesispytest"]
    project.run_apart(source, *arguments).assert_outcomes(passed=1)


def test_without_a_configuration_the_sqlite_fixture_says_what_is_missing(project: Any) -> None:
    project.configure()
    result = project.run("def test_it(migrated_database): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*there is no Alembic configuration*automigrator_config*"])
    assert "Traceback" not in result.stdout.str()


def test_a_failing_migration_of_sqlite_is_told_without_a_traceback(project: Any) -> None:
    project.lay()
    project.revision("r4", "r3", upgrade="op.execute('SELECT * FROM absent')")
    result = project.run("def test_it(migrated_database): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*revision r4*no such table: absent*"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("database", "mysql", "*'mysql' is not one of sqlite, postgresql, both*"),
        ("config", "elsewhere.ini", "*there is no *elsewhere.ini*"),
        ("starts", "some", "*neither a number above 0 nor all*"),
    ],
)
def test_a_wrong_option_is_told_where_sqlite_is_used(
    project: Any, option: str, value: str, said: str
) -> None:
    project.lay()
    project.configure(**{option: value})
    result = project.run("def test_it(migrated_database): pass")
    assert result.ret != 0
    result.stdout.fnmatch_lines([said])


def test_a_pyproject_and_an_option_file_elsewhere_are_found_for_sqlite(project: Any) -> None:
    from support import alembic_projects

    alembic_projects.project(project.folder, "pyproject", "sqlite:///unused.db")
    (project.folder / "alembic.ini").unlink(missing_ok=True)
    project.configure()
    project.run(INSERTING).assert_outcomes(passed=3)


def test_the_applications_own_migrator_is_used_for_sqlite(project: Any) -> None:
    project.lay()
    (project.folder / "shop.py").write_text(
        "from automigrator import Migrator, Target\n"
        "migrator = Migrator(Target('sqlite:///never.db', 'alembic.ini', revision='r2'))\n"
    )
    project.configure(app="shop:migrator")
    source = (
        "def test_it(at_revision): assert at_revision('base').upgrade().targets[0].after == ('r2',)"
    )
    project.run(source).assert_outcomes(passed=1)
    assert not (project.folder / "never.db").exists()


def test_clear_removes_every_sqlite_template(project: Any, cache_folder: Path) -> None:
    project.lay()
    project.run(INSERTING)
    assert templates(cache_folder)
    result = project.run("", "--automigrator-clear")
    assert result.ret == 0 and not templates(cache_folder)
    result.stdout.fnmatch_lines(["removed *", "the cache is empty*"])
