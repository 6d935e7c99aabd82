"""A rehearsal says what each statement would do to those who use the database meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import GOOD, Application

from automigrator import MigrationError, Migrator, Rehearsal, TargetReport
from automigrator.backends.postgresql.meters import meter
from automigrator.backends.postgresql.meters.better_statements import advice
from automigrator.measurement import Finding, Measurement, StatementMeasured

BLOCK = "with op.get_context().autocommit_block():\n    "


@pytest.fixture
def served(tmp_path: Path, postgres_url: str) -> Application:
    """Notes on PostgreSQL, with a thousand rows and a table that refers to them."""
    application = Application(tmp_path, postgres_url)
    application.execute(
        "INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(10, 1009) n",
        "CREATE TABLE marks (id INTEGER PRIMARY KEY, note INTEGER)",
        "INSERT INTO marks SELECT id, id FROM notes",
    )
    return application


async def run(application: Application, rehearse: Any = True) -> TargetReport:
    try:
        report = await Migrator(application.target(), mode="migrate", rehearse=rehearse).run()
    except MigrationError as error:
        report = error.report
    return report.targets[0]


async def measured(application: Application, *lines: str) -> Measurement:
    application.deploy("\n".join(lines))
    report = await run(application)
    assert report.outcome == "migrated", report
    assert report.rehearsal is not None
    return report.rehearsal


def statement(measurement: Measurement) -> StatementMeasured:
    (revision,) = measurement.revisions
    (found,) = revision.statements
    return found


def locks(measured: StatementMeasured) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {each.relation: (each.mode, each.blocks) for each in measured.locks}


def finding(measurement: Measurement) -> Finding:
    (found,) = measurement.findings
    return found


def line_of(found: Finding) -> str:
    assert found.file is not None and found.line is not None
    return Path(found.file).read_text().splitlines()[found.line - 1].strip()


NOBODY: tuple[str, ...] = ()
ALL, WRITERS = ("reads", "writes"), ("writes",)
SHORT = [
    ("ALTER TABLE notes ADD COLUMN a TEXT", {"notes": ("AccessExclusiveLock", ALL)}),
    ("CREATE INDEX i ON notes (text)", {"notes": ("ShareLock", WRITERS)}),
    ("INSERT INTO notes VALUES (7, 'x')", {"notes": ("RowExclusiveLock", NOBODY)}),
    ("UPDATE notes SET text = ''", {"notes": ("RowExclusiveLock", ("rows",))}),
    (
        "ALTER TABLE marks ADD CONSTRAINT f FOREIGN KEY (note) REFERENCES notes (id)",
        {"marks": ("ShareRowExclusiveLock", WRITERS), "notes": ("ShareRowExclusiveLock", WRITERS)},
    ),
    ("REINDEX INDEX notes_pkey", {"notes": ("AccessExclusiveLock", ALL)}),
]


@pytest.mark.parametrize(("sql", "expected"), SHORT)
async def test_the_locks_are_those_that_the_statement_took(
    sql: str, expected: dict[str, Any], served: Application
) -> None:
    found = statement(await measured(served, f'op.execute("{sql}")'))
    assert (found.sql, locks(found)) == (sql, expected)
    assert all(each.held_s > 0 for each in found.locks) and found.observed


async def test_another_driver_is_measured_as_well(tmp_path: Path, postgres_url: str) -> None:
    application = Application(tmp_path, postgres_url, kind="generic")
    found = statement(await measured(application, 'op.create_index("i", "notes", ["text"])'))
    assert locks(found) == {"notes": ("ShareLock", WRITERS)} and found.scanned == ("notes",)
    measurement = await measured(application, f'{BLOCK}op.execute("VACUUM notes")')
    assert locks(statement(measurement)) == {"notes": ("ShareUpdateExclusiveLock", NOBODY)}


async def test_a_concurrent_build_is_watched_from_another_session(served: Application) -> None:
    sql = "CREATE INDEX CONCURRENTLY i ON notes (text)"
    measurement = await measured(served, f'{BLOCK}op.execute("{sql}")')
    found = statement(measurement)
    assert locks(found) == {"notes": ("ShareUpdateExclusiveLock", NOBODY)}
    assert found.autocommit and found.observed and measurement.findings == ()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SET lock_timeout = '7s'", {}),
        (
            "ALTER TABLE notes ALTER COLUMN text DROP NOT NULL",
            {"notes": ("AccessExclusiveLock", ALL)},
        ),
        ("VACUUM marks", {"marks": ("ShareUpdateExclusiveLock", NOBODY)}),
    ],
)
async def test_no_lock_of_a_statement_outside_a_transaction_is_too_short_to_be_seen(
    sql: str, expected: dict[str, Any], served: Application
) -> None:
    measurement = await measured(served, f'{BLOCK}op.execute("{sql}")')
    found = statement(measurement)
    assert (locks(found), found.observed, found.autocommit) == (expected, True, True)


async def test_a_statement_outside_a_transaction_that_fails_is_watched_no_longer(
    served: Application,
) -> None:
    served.execute("UPDATE notes SET text = 'twice'")
    build = "CREATE UNIQUE INDEX CONCURRENTLY i ON notes (text)"
    served.deploy(f'{BLOCK}op.execute("{build}")')
    report = await run(served)
    (failure,) = report.failures
    assert failure.in_rehearsal and (failure.kind, failure.statement) == ("revision", build)
    served.deploy('op.execute("SELECT 1")')
    caught = (
        "with op.get_context().autocommit_block():\n"
        "    try:\n"
        f'        op.execute("{build}")\n'
        "    except sa.exc.IntegrityError:\n"
        '        op.execute("DROP INDEX i")'
    )
    application = Application(served.root / "other", served.url, started=False)
    application.deploy(caught)
    measurement = await measured(application, 'op.execute("SELECT 1")')
    first = measurement.revisions[0].statements
    assert [each.sql for each in first] == [build, "DROP INDEX i"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_could_not_be_seen_is_said_to_be(
    served: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are too many tables to wait for a statement at each."""
    monkeypatch.setattr(meter, "MOST_GATED", 0)
    measurement = await measured(served, f"{BLOCK}op.execute(\"SET lock_timeout = '7s'\")")
    assert not statement(measurement).observed
    assert finding(measurement).kind == "unobserved"


async def test_a_lock_is_held_until_the_end_of_its_transaction(served: Application) -> None:
    measurement = await measured(
        served,
        'op.execute("ALTER TABLE notes ADD COLUMN a TEXT")',
        'op.execute("SELECT pg_sleep(0.3)")',
    )
    ((added, slept),) = (each.statements for each in measurement.revisions)
    assert "others would wait for" in measurement.summary
    assert "warning blocks-reads in r2" in measurement.summary
    (lock,) = added.locks
    assert lock.held_s > max(0.3, added.seconds) and slept.locks == ()
    assert measurement.revisions[0].block_s == lock.held_s
    assert finding(measurement).level == "warning"


async def test_a_revision_may_take_a_role_that_may_not_do_much(served: Application) -> None:
    database = make_url(served.url).database
    role = f"{database}_other"
    served.execute(f"CREATE ROLE {role}", f"REVOKE ALL ON DATABASE {database} FROM public")
    served.execute(f"GRANT SELECT, UPDATE ON alembic_version TO {role}")
    try:
        measurement = await measured(served, f'op.execute("SET LOCAL ROLE {role}")')
        assert measurement.revisions[0].growth == 0
    finally:
        served.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO public")
        served.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_commit_that_a_revision_sends_itself_releases_its_locks(
    served: Application,
) -> None:
    measurement = await measured(
        served,
        "op.execute(\"UPDATE notes SET text = 'x'\")",
        'op.execute("COMMIT")',
        "import time; time.sleep(0.5)",
        'op.execute("SELECT 1")',
    )
    (revision,) = measurement.revisions
    (lock,) = revision.statements[0].locks
    assert lock.blocks == ("rows",) and lock.held_s < revision.seconds - 0.4


async def test_a_rewritten_table_and_a_scanned_one_are_told(served: Application) -> None:
    measurement = await measured(
        served,
        'op.alter_column("notes", "id", type_=sa.BigInteger)',
        'op.create_check_constraint("c", "marks", "note >= 0")',
        'op.execute("ALTER TABLE marks ADD COLUMN a INTEGER DEFAULT 7 NOT NULL")',
        'op.execute("ALTER TABLE notes ADD COLUMN b FLOAT DEFAULT random()")',
    )
    (revision,) = measurement.revisions
    retyped, checked, constant, volatile = revision.statements
    assert (retyped.rewritten, volatile.rewritten) == (("notes",), ("notes",))
    assert (checked.rewritten, checked.scanned) == ((), ("marks",))
    assert (constant.rewritten, constant.scanned, constant.locks) == ((), (), ())
    kinds = {each.kind: each for each in measurement.findings}
    assert kinds.keys() == {"rewrites", "scans"}
    assert "NOT VALID" in kinds["scans"].advice and "column" in kinds["rewrites"].advice
    assert revision.growth > 0 and retyped.log_bytes > 0


async def test_rows_are_counted_where_they_are_written_whoever_writes_them(
    served: Application,
) -> None:
    served.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN DELETE FROM marks WHERE note = OLD.id; RETURN OLD; END $$",
        "CREATE TRIGGER t AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION f()",
    )
    found = statement(await measured(served, 'op.execute("DELETE FROM notes WHERE id < 20")'))
    assert found.rows == 3 + 10 + 13
    assert locks(found)["marks"] == ("RowExclusiveLock", ("rows",))


async def test_a_step_row_by_row_is_one_statement_run_many_times(served: Application) -> None:
    found = statement(
        await measured(
            served,
            'update = sa.text("UPDATE notes SET text = :text WHERE id = :id")',
            "for n in range(10, 60):",
            '    op.get_bind().execute(update, {"text": "SECRET-OF-A-ROW", "id": n})',
        )
    )
    assert (found.times, found.rows) == (50, 50)


async def test_batches_hold_their_rows_one_after_the_other(served: Application) -> None:
    measurement = await measured(
        served,
        'update = sa.text("UPDATE notes SET text = pg_sleep(0.05)::text WHERE id = :id")',
        "with op.get_context().autocommit_block():",
        "    for n in range(10, 20):",
        '        op.get_bind().execute(update, {"id": n})',
    )
    found = statement(measurement)
    assert (found.times, found.rows) == (10, 10) and found.seconds > 0.5
    assert 0.05 <= measurement.revisions[0].block_s < found.seconds


async def test_what_the_revisions_make_themselves_is_in_nobodys_way(served: Application) -> None:
    measurement = await measured(
        served, GOOD, 'op.execute("CREATE INDEX i ON tags (id)")', 'op.drop_table("tags")'
    )
    assert measurement.findings == ()
    assert all(not each.locks for each in measurement.revisions[0].statements)


async def test_a_finding_names_the_line_and_the_statement(served: Application) -> None:
    measurement = await measured(served, "x = 1", 'op.drop_column("notes", "text")')
    found = finding(measurement)
    assert line_of(found) == 'op.drop_column("notes", "text")'
    assert found.sql == "ALTER TABLE notes DROP COLUMN text"
    assert (found.kind, found.revision) == ("blocks-reads", "r2")
    assert "whoever reads or writes it waits" in found.message


async def test_transactions_that_are_open_for_long_are_looked_for_in_the_database_itself(
    served: Application,
) -> None:
    import asyncpg  # type: ignore[import-untyped]  # it ships no types

    other = await asyncpg.connect(served.url.replace("+asyncpg", ""))
    try:
        async with other.transaction():
            await other.fetch("select * from marks")
            await other.execute("select pg_sleep(1.1)")
            measurement = await measured(served, 'op.add_column("notes", sa.Column("a", sa.Text))')
            assert [each.kind for each in measurement.findings] == ["blocks-reads"]
            await other.fetch("select * from notes")
            served.deploy('op.add_column("notes", sa.Column("b", sa.Text))')
            report = await run(served, Rehearsal(max_block=0))
    finally:
        await other.close()
    assert report.outcome == "failed" and report.rehearsal is not None
    kinds = [each.kind for each in report.rehearsal.findings]
    assert kinds == ["blocks-reads", "queues", "over-limit"]
    (use,) = report.rehearsal.uses
    assert use.relation == "notes" and use.oldest_s > 1 and use.size > 0
    queue = report.rehearsal.findings[1]
    assert queue.level == "note" and "0.5 s at a time (lock_timeout)" in queue.message


async def test_neither_a_rows_value_nor_a_password_is_in_what_was_measured(
    served: Application,
) -> None:
    url = make_url(served.url)
    password = "SECRET-OF-THE-ROLE"
    served.url = url.set(password=password).render_as_string(hide_password=False)
    measurement = await measured(
        served,
        'update = sa.text("UPDATE notes SET text = :text")',
        'op.get_bind().execute(update, {"text": "SECRET-OF-A-ROW"})',
        f"op.execute(\"SELECT '{password}'\")",
    )
    text = json.dumps(measurement.to_dict()) + str(measurement)
    assert "UPDATE notes" in text and "SECRET" not in text


@pytest.fixture
def desktop(tmp_path: Path) -> Application:
    """Notes in a SQLite file, with a thousand rows."""
    application = Application(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    numbers = "WITH RECURSIVE c(x) AS (SELECT 10 UNION ALL SELECT x + 1 FROM c WHERE x < 1009)"
    application.execute(f"INSERT INTO notes {numbers} SELECT x, 'note ' || x FROM c")
    return application


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_a_file_is_locked_for_writers_until_the_transaction_ends(
    journal: str, desktop: Application
) -> None:
    desktop.execute(f"PRAGMA journal_mode={journal}")
    measurement = await measured(
        desktop, 'op.execute("UPDATE notes SET text = text")', "import time; time.sleep(0.2)"
    )
    found = statement(measurement)
    assert found.rows == 1000 + 3 and locks(found) == {"the database": ("RESERVED", WRITERS)}
    assert measurement.revisions[0].block_s > max(0.2, found.seconds)
    assert finding(measurement).level == "warning"


async def test_a_transaction_that_spills_into_the_file_keeps_readers_waiting(
    desktop: Application,
) -> None:
    fills = "WITH RECURSIVE c(x) AS (SELECT 2000 UNION ALL SELECT x + 1 FROM c WHERE x < 9000)"
    lines = [
        'op.execute("PRAGMA cache_size=10")',
        f"op.execute(\"INSERT INTO notes {fills} SELECT x, 'a long, long, long text' FROM c\")",
    ]
    measurement = await measured(desktop, *lines)
    filled = measurement.revisions[0].statements[-1]
    assert locks(filled) == {"the database": ("EXCLUSIVE", ALL)}
    assert filled.rows == 7001 and measurement.revisions[0].growth > 100_000
    desktop.execute("DELETE FROM notes WHERE id >= 2000")
    desktop.execute("PRAGMA journal_mode=wal")
    filled = (await measured(desktop, *lines)).revisions[0].statements[-1]
    assert locks(filled) == {}, "in the journal mode WAL others read on, and writers waited before"


async def test_a_table_that_batch_mode_makes_anew_is_told(desktop: Application) -> None:
    measurement = await measured(
        desktop,
        'with op.batch_alter_table("notes", recreate="always") as batch:',
        '    batch.add_column(sa.Column("a", sa.Text))',
    )
    rebuilt = [each for each in measurement.revisions[0].statements if each.rewritten]
    assert [each.rewritten for each in rebuilt] == [("notes",)]
    kinds = {each.kind: each for each in measurement.findings}
    assert "batch_alter_table(recreate='never')" in kinds["rewrites"].advice


async def test_nothing_is_rebuilt_where_a_column_is_added(desktop: Application) -> None:
    measurement = await measured(desktop, 'op.add_column("notes", sa.Column("a", sa.Text))')
    assert not statement(measurement).rewritten and measurement.revisions[0].growth >= 0


ADVICE = [
    ("CREATE INDEX i ON t (a)", "scans", "CREATE INDEX CONCURRENTLY"),
    ("CREATE UNIQUE INDEX i ON t (a)", "scans", "CREATE INDEX CONCURRENTLY"),
    ("CREATE INDEX CONCURRENTLY i ON t (a)", "unobserved", ""),
    ("DROP INDEX i", "blocks-reads", "DROP INDEX CONCURRENTLY"),
    ("REINDEX INDEX i", "blocks-reads", "REINDEX ... CONCURRENTLY"),
    ("ALTER TABLE t ADD CHECK (a > 0)", "scans", "NOT VALID"),
    ("ALTER TABLE t ADD CHECK (a > 0) NOT VALID", "blocks-reads", "quick by itself"),
    ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u", "scans", "NOT VALID"),
    ("ALTER TABLE t ADD CONSTRAINT c UNIQUE (a)", "scans", "USING INDEX"),
    ("ALTER TABLE t ALTER a SET NOT NULL", "scans", "IS NOT NULL) NOT VALID"),
    ("ALTER TABLE t ADD COLUMN b FLOAT DEFAULT random()", "rewrites", "a constant default"),
    ("ALTER TABLE t ADD COLUMN b FLOAT", "blocks-reads", "quick by itself"),
    ("ALTER TABLE t ALTER COLUMN a TYPE BIGINT", "rewrites", "a column of the new type"),
    ("UPDATE t SET a = 1", "locks-rows", "in batches"),
    ("VACUUM FULL t", "rewrites", "plain VACUUM"),
    ("ALTER TABLE t DROP COLUMN a", "queues", "lock_timeout"),
]


@pytest.mark.parametrize(("sql", "kind", "better"), ADVICE)
def test_the_advice_is_about_what_the_statement_does(sql: str, kind: str, better: str) -> None:
    found = advice(kind, StatementMeasured("r1", sql, 1.0))
    assert better in found and bool(better) is bool(found)


async def test_a_revision_that_bears_an_error_is_measured_as_if_nobody_looked(
    notes: Application,
) -> None:
    """After an error PostgreSQL answers nothing until the savepoint is rolled back to."""
    measurement = await measured(
        notes,
        "try:",
        "    with op.get_bind().begin_nested():",
        '        op.execute("UPDATE notes SET text = text")',
        '        op.execute("INSERT INTO notes SELECT * FROM notes")',
        "except sa.exc.IntegrityError:",
        '    op.execute("DELETE FROM notes WHERE id = 1")',
    )
    assert notes.heads == {"r2"} and len(notes.notes()) == 2
    assert "DELETE FROM notes WHERE id = 1" in [
        each.sql for each in measurement.revisions[0].statements
    ]
