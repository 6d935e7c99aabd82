"""The ready-made tests: each fails for the sabotage that it is for, and says what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest_plugins = "pytester"

ALL = "from pytest_automigrator.tests import *"
TABLE = 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), {columns})'
TEXT = 'sa.Column("text", sa.Text)'
ROWS = """
import pytest
@pytest.fixture(scope="session")
def automigrator_rows():
    return {"r1": {"notes": [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]}}
"""


def lay(project: Any, upgrade: str = "pass", downgrade: str = "pass", **more: Any) -> None:
    """A project whose r1 makes a table of notes, and whose r2 is given."""

    def revisions(folder: Any) -> None:
        project.revision(
            "r1", None, upgrade=TABLE.format(columns=TEXT), downgrade='op.drop_table("notes")'
        )
        project.revision("r2", "r1", upgrade=upgrade, downgrade=downgrade, **more)

    project.lay(revisions)


def test_a_good_history_passes_them_all(project: Any) -> None:
    lay(
        project,
        'op.add_column("notes", sa.Column("n", sa.Integer))',
        'op.drop_column("notes", "n")',
    )
    # env.py has no models, and nothing was released
    project.run(ALL).assert_outcomes(passed=7, skipped=2)


SABOTAGES = {
    "a table is left over": (
        'op.create_table("more", sa.Column("id", sa.Integer, primary_key=True))',
        "pass",
        "test_round_trip",
        "*r2: up and down again: table more: left over*",
    ),
    "a column comes back with another type": (
        'op.drop_column("notes", "text")',
        'op.add_column("notes", sa.Column("text", sa.Integer))',
        "test_round_trip",
        "*r2: up and down again: notes.text: was 'TEXT', is 'INTEGER'*",
    ),
    "an index is forgotten": (
        'op.drop_index("by_text", "notes", if_exists=True)\n'
        'op.create_index("by_text", "notes", ["text"])',
        "pass",
        "test_round_trip",
        "*r2: up and down again: index by_text: left over*",
    ),
    "rows are lost on the way up": (
        "op.execute('DELETE FROM notes')",
        "pass",
        "test_round_trip",
        "*r2: up and down again: rows of notes: 2 rows before, 0 after*",
    ),
    "rows are changed and stay so": (
        "op.execute(\"UPDATE notes SET text = 'lost'\")",
        "pass",
        "test_round_trip",
        "*r2: up and down again: rows of notes: 2 of 2 differ in text*",
    ),
    "the way down fails": (
        "pass",
        "op.execute('SELECT * FROM absent')",
        "test_round_trip",
        "*r2: down: *no such table: absent*",
    ),
    "the way up fails on rows": (
        'op.add_column("notes", sa.Column("n", sa.Integer, nullable=False))',
        'op.drop_column("notes", "n")',
        "test_round_trip_with_made_rows",
        "*r2: up: *NOT NULL*",
    ),
    "the way up fails": (
        "op.execute('SELECT * FROM absent')",
        "pass",
        "test_upgrades_from_base",
        "*revision r2*no such table: absent*",
    ),
    "the schema depends on the start": (
        "import pathlib\n"
        "mark = pathlib.Path('mark')\n"
        "if mark.exists():\n"
        "    op.add_column('notes', sa.Column('n', sa.Integer))\n"
        "mark.touch()",
        "pass",
        "test_upgrades_from_every_revision",
        "*from r1, the schema is not that of one run from base: notes.n: left over*",
    ),
}


@pytest.mark.long("another type", "forgotten", "rows are lost", "way up fails]")
@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_sabotage_is_found_by_the_test_that_is_for_it(project: Any, sabotage: str) -> None:
    upgrade, downgrade, test, said = SABOTAGES[sabotage]
    lay(project, upgrade, downgrade)
    (project.folder / "conftest.py").write_text(ROWS)
    result = project.run(f"from pytest_automigrator.tests import {test}")
    assert result.ret == 1
    result.stdout.fnmatch_lines([said])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize("how", ["automigrator_lossy", "NotImplementedError"])  # what users write
def test_a_way_down_that_cannot_bring_rows_back_may_be_declared(project: Any, how: str) -> None:
    declared = how == "automigrator_lossy"
    back = 'op.add_column("notes", sa.Column("text", sa.Text))'
    lay(
        project,
        'op.drop_column("notes", "text")',
        back if declared else "raise NotImplementedError",  # in a user's revision: no gap
    )
    (project.folder / "conftest.py").write_text(ROWS)
    test = "from pytest_automigrator.tests import test_round_trip"
    if declared:
        result = project.run(test)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*2 of 2 differ in text*", "*automigrator_lossy*"])
        project.configure(lossy="r2")
    project.run(test).assert_outcomes(passed=1)


def test_two_heads_are_found(project: Any) -> None:
    lay(project)
    project.revision("other", "r1")
    result = project.run("from pytest_automigrator.tests import test_one_head")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the history has 2 heads: other, r2*"])


def test_a_revision_that_needs_what_env_py_imports_is_found(project: Any) -> None:
    lay(project, imports="import sys\nassert 'late' in sys.modules, 'late was not imported'")
    (project.folder / "late.py").touch()
    env = project.folder / "migrations" / "env.py"
    env.write_text(f"import late\n{env.read_text()}")
    result = project.run("from pytest_automigrator.tests import test_every_revision_imports_alone")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*r2_.py cannot be imported alone: *late was not imported*"])


def test_models_that_lack_a_column_are_found(project: Any) -> None:
    lay(project, 'op.add_column("notes", sa.Column("n", sa.Integer))')
    (project.folder / "models.py").write_text(
        "import sqlalchemy as sa\nmetadata = sa.MetaData()\n"
        "notes = sa.Table('notes', metadata, sa.Column('id', sa.Integer, primary_key=True), "
        "sa.Column('text', sa.Text))\n"
    )
    env = project.folder / "migrations" / "env.py"
    named = env.read_text().replace("target_metadata = None", "target_metadata = models.metadata")
    env.write_text(f"import models\n{named}")
    test = "from pytest_automigrator.tests import test_models_match"
    result = project.run(test)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*column notes.n: only in the database*"])


def test_a_released_revision_that_is_edited_or_removed_is_found(project: Any) -> None:
    lay(project)
    released = project.run("", "--automigrator-release")
    assert released.ret == 0
    released.stdout.fnmatch_lines(["*alembic.lock: 2 revisions, 2 new"])
    lock = project.folder / "alembic.lock"
    assert json.loads(lock.read_text())["revisions"].keys() == {"r1", "r2"}
    test = "from pytest_automigrator.tests import test_released_revisions_are_unchanged"
    project.run(test).assert_outcomes(passed=1)
    (project.versions / "r2_.py").unlink()
    project.revision("r1", None, upgrade="op.execute('SELECT 1')")
    result = project.run(test)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*revision r1 was released, and its file has changed*"])
    result.stdout.fnmatch_lines(["*revision r2 was released, and is in no file any more*"])


@pytest.mark.long
def test_a_branched_history_is_walked_on_postgresql_too(project: Any, role: str) -> None:
    lay(project)
    table = 'op.create_table("{0}", sa.Column("id", sa.Integer, primary_key=True))'
    for name in ("left", "right"):
        down = f'op.drop_table("{name}")'
        project.revision(name, "r2", upgrade=table.format(name), downgrade=down)
    project.revision("merged", ("left", "right"))
    project.configure(database="both", postgresql=role)
    project.run(ALL).assert_outcomes(passed=14, skipped=4)


@pytest.mark.long
def test_rows_are_made_for_every_type_that_postgresql_tells(project: Any, role: str) -> None:
    kinds = ["Boolean", "SmallInteger", "BigInteger", "Numeric(8, 3)", "Float", "String(5)", "Date"]
    kinds += ["Time", "DateTime", "DateTime(timezone=True)", "Interval", "LargeBinary", "JSON"]
    kinds += ["Uuid", "ARRAY(sa.Integer)", "Enum('a', 'b', name='letters')"]
    columns = ", ".join(
        f'sa.Column("c{n}", sa.{kind}, nullable=False)' for n, kind in enumerate(kinds)
    )
    child = TABLE.replace("notes", "child").format(
        columns='sa.Column("parent", sa.Integer, sa.ForeignKey("notes.id"), nullable=False)'
    )
    project.lay(
        lambda _: (
            project.revision("r1", None, upgrade=f"{TABLE.format(columns=columns)}\n{child}"),
            project.revision("r2", "r1"),
        )
    )
    project.configure(database="postgresql", postgresql=role)
    source = """
    from pytest_automigrator.rows import add_rows
    def test_it(at_revision):
        database = at_revision("r1")
        assert add_rows(database.plain_url, "alembic_version") == []
        assert len(database.rows("SELECT * FROM child")) >= 2
    """
    project.run(source).assert_outcomes(passed=1)


def test_a_table_that_no_row_can_be_made_for_is_noted(project: Any) -> None:
    never = 'sa.Column("n", sa.Integer, sa.CheckConstraint("n = 123456789"), nullable=False)'
    project.lay(
        lambda _: (
            project.revision("r1", None, upgrade=TABLE.format(columns=never)),
            project.revision("r2", "r1"),
        )
    )
    project.configure(lossy="r1")
    result = project.run("from pytest_automigrator.tests import test_round_trip_with_made_rows")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*test_round_trip_with_made_rows: no row could be made for notes*"]
    )
