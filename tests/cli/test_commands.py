"""Every command on each kind of database, at pipes: what it prints, and what it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from support.alembic_projects import heads

on_each = pytest.mark.long("postgresql")
"""On SQLite in the quick suite, on PostgreSQL in the long one."""


def test_a_life_of_an_application_at_the_command_line(application) -> None:
    automigrator = application.automigrator
    pending = {
        "sqlite": "app: does not exist; 3 pending to r3\n",
        "postgresql": "app: at base, 3 pending to r3: r1, r2, r3\n",
    }
    answer = automigrator("check")
    assert (answer.code, answer.out) == (3, pending[application.kind])

    answer = automigrator("plan", "--sql")
    assert answer.code == 0
    head, *rest = re.split("\n(?!--)", answer.out, maxsplit=1)
    assert head == "-- app: base -> r3\n--   r1  r1\n--   r2  r2\n--   r3  r3"
    assert "CREATE TABLE users" in rest[0]

    answer = automigrator("run")
    assert (answer.code, heads(application.url)) == (0, {"r3"})
    assert answer.out.startswith("migration run: migrated in ")
    assert "app: revision 2 of 3, r2\n" in answer.err

    assert automigrator("wait").code == 0
    assert automigrator("check").out == "app: current at r3\n"

    answer = automigrator("status", "--json")
    assert answer.document["result"]["targets"][0]["heads"] == ["r3"]

    answer = automigrator("rollback", "-1", "--yes")
    assert (answer.code, heads(application.url)) == (0, {"r2"})

    answer = automigrator("doctor")
    assert (answer.code, answer.out.splitlines()[0]) == (0, "app: at r2, 1 pending to r3: r3")

    answer = automigrator("clear", "--yes")
    assert (answer.code, answer.out) == (0, "app: cleared; the next start tries again\n")


def test_an_edited_revision_is_shown_and_accepted(on_sqlite) -> None:
    automigrator = on_sqlite.automigrator
    automigrator("run")
    file = on_sqlite.project.versions / "r2_.py"
    file.write_text(file.read_text("utf-8") + "# edited\n", "utf-8")
    assert "note: revision r2 was edited after being applied" in automigrator("status").out
    answer = automigrator("accept", "--yes")
    assert (answer.code, answer.out) == (0, "app: accepted r2\n")
    assert "edited" not in automigrator("status").out
    assert automigrator("accept", "--yes").out == "app: accepted no edit\n"


def test_a_schema_file_is_written_and_checked(on_sqlite) -> None:
    automigrator = on_sqlite.automigrator
    assert automigrator("schema", "check").code == 2, "no file is named"
    on_sqlite.configure(target="bootstrap='schema.sql'")
    assert automigrator("schema", "check").code == 7, "there is no file"
    answer = automigrator("schema", "dump")
    assert (answer.code, answer.out) == (0, "written: schema.sql\n")
    answer = automigrator("schema", "check", "--json")
    assert answer.document["result"] == {"differences": []}
    on_sqlite.deploy_broken()
    assert automigrator("run").code == 5, "what comes after the file is run"


@on_each
def test_a_failure_is_one_screen_that_says_what_to_do(application) -> None:
    application.deploy_broken()
    answer = application.automigrator("run")
    assert (answer.code, answer.out) == (5, "")
    lines = answer.err.splitlines()
    (error,) = (number for number, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines[error:]) < 20 and answer.err.count("what to do:") == 1
    assert "state: " in answer.err and "Traceback" not in answer.err
    assert lines[-1].startswith("next: automigrator explain revision;")

    shown = application.automigrator("run", "--traceback").err
    assert "Traceback (most recent call last)" in shown and "MigrationError" in shown


@on_each
def test_status_tells_failed_starts_and_what_ends_them(application) -> None:
    application.configure("max_failed_starts=1")
    application.deploy_broken()
    application.automigrator("run")
    told = application.automigrator("status").out
    assert "1 start has failed at these revisions since " in told
    assert "no start tries anything before " in told and "`automigrator clear`" in told
    (target,) = application.automigrator("status", "--json").document["result"]["targets"]
    assert target["failed_starts"] == 1 and target["failing_since"] < target["tries_again_at"]

    refused = application.automigrator("clear", "--declarations")
    assert refused.code == 2 and refused.err.splitlines()[-1].endswith(
        "nothing was done. Add --yes to do this: The recorded failures and the count of failed "
        "starts, and which older code works with the database, of app are forgotten"
    )
    assert application.automigrator("clear", "--yes").code == 0
    assert "failed at these revisions" not in application.automigrator("status").out


@pytest.mark.parametrize(
    ("kind", "counts"),
    [("revision", True), ("unreachable", False), ("ahead", False), ("unversioned", False)],
)
def test_explain_says_whether_such_a_start_counts(on_sqlite, kind: str, counts: bool) -> None:
    told = on_sqlite.automigrator("explain", kind).out
    assert ("if it had begun to migrate, and not if it was refused" in told) == counts
    assert ("`automigrator clear`" in told, "is not counted" in told) == (counts, not counts)
    assert on_sqlite.automigrator("explain", kind, "--json").document["result"]["counts"] is counts


@on_each
def test_check_compares_models_with_the_database(application) -> None:
    (application.folder / "models.py").write_text(
        "import sqlalchemy as sa\nmetadata = sa.MetaData()\n"
        'sa.Table("new", metadata, sa.Column("id", sa.Integer, primary_key=True))\n'
    )
    application.automigrator("run")
    answer = application.automigrator("check", "--models", "models:metadata")
    assert (answer.code, "models: differ" in answer.out) == (3, True)


def test_a_look_makes_no_file(on_sqlite) -> None:
    for command in ("status", "plan", "doctor"):
        assert on_sqlite.automigrator(command).code == 0
    assert not (on_sqlite.folder / "app.db").exists()


def test_a_plan_that_cannot_be_made_says_why(on_sqlite) -> None:
    (on_sqlite.folder / "app.db").write_bytes(b"no database " * 1000)
    answer = on_sqlite.automigrator("plan")
    assert answer.code == 5, answer
    assert "corrupt" in answer.err and "restore a backup" in answer.err
    assert answer.err.splitlines()[-1] == "next: automigrator explain corrupt"


def test_run_is_not_skipped_by_what_the_gate_says(on_sqlite) -> None:
    on_sqlite.configure("mode='skip'")
    answer = on_sqlite.automigrator("run", RUN_MIGRATIONS="0")
    assert (answer.code, heads(on_sqlite.url)) == (0, {"r3"})


@pytest.mark.plugins
def test_plugins_tells_what_is_named_and_what_each_may_do(on_sqlite) -> None:
    on_sqlite.configure("recovery=['purge'], plugins=[Continue()]")
    lines = on_sqlite.automigrator("plugins").out.splitlines()
    told = {line.partition(":")[0]: line for line in lines}
    assert "strategy of automigrator-purge " in told["purge"]
    assert told["purge"].endswith("replaces the database by a fresh one; asked for app")
    assert told["backup-restore"].endswith("not loaded, as nobody names it")
    assert told["Continue"] == "Continue: hooks of app; implements on_failure; asked for app"

    lines = on_sqlite.automigrator("plugins", "--all", AUTOMIGRATOR_APP="").out.splitlines()
    told = {line.partition(":")[0]: line for line in lines}
    assert told["backup-restore"].endswith("restores this run's own snapshot")


@on_each
def test_snapshots_are_taken_listed_restored_and_pruned(application) -> None:
    automigrator = application.automigrator
    automigrator("run")
    taken = automigrator("snapshots", "take", "--json")
    assert taken.code == 0, taken.err
    (listed,) = automigrator("snapshots", "list", "--json").document["result"]["targets"]
    (snapshot,) = listed["snapshots"]
    assert taken.document["result"]["targets"][0]["snapshot"]["place"] == snapshot["place"]

    automigrator("rollback", "base", "--yes")
    answer = automigrator("snapshots", "restore", snapshot["place"])
    assert answer.code == 2 and "Add --yes" in answer.err
    answer = automigrator("snapshots", "restore", snapshot["place"], "--yes")
    assert answer.code == 0, answer.err
    assert heads(application.url) == {"r3"}

    automigrator("snapshots", "take")
    answer = automigrator("snapshots", "prune", "--keep", "1", "--yes")
    assert (answer.code, snapshot["place"] in answer.out) == (0, True)


def test_the_newest_snapshot_that_is_whole_has_a_name_of_its_own(on_sqlite) -> None:
    automigrator = on_sqlite.automigrator
    none = automigrator("snapshots", "restore", "newest", "--yes")
    assert (none.code, "no whole snapshot of" in none.err) == (7, True), none
    automigrator("run")
    places = []
    for _ in range(3):
        taken = automigrator("snapshots", "take", "--json").document["result"]["targets"][0]
        places.append(Path(taken["snapshot"]["place"]))
    places[-1].write_bytes(b"no database" * 1000)
    automigrator("rollback", "base", "--yes")

    asked = automigrator("snapshots", "restore", "newest")
    assert f"{places[1]} takes the place" in asked.err, asked
    assert automigrator("snapshots", "restore", "newest", "--yes").code == 0
    assert heads(on_sqlite.url) == {"r3"}


@pytest.mark.long
def test_a_dump_goes_to_a_folder_beside_whoever_works_there(application) -> None:
    if application.kind != "postgresql":
        pytest.skip("SQLite has one kind of copy")
    automigrator, folder = application.automigrator, application.folder / "backups"
    automigrator("run")
    engine = create_engine(make_url(application.url).set(drivername="postgresql+psycopg"))
    with engine.connect() as other:
        other.execute(text("SELECT 1"))
        refused = automigrator("snapshots", "take", "--how", "template")
        assert refused.code == 7 and "allow it with --disconnect-others" in refused.err, refused
        answer = automigrator("snapshots", "take", "--how", "dump")
        assert answer.code == 7 and "name it with --folder" in answer.err, answer
        assert automigrator("snapshots", "take", "--folder", str(folder)).code == 0
        (dump,) = folder.glob("*.dump")
        listed = automigrator("snapshots", "list", "--folder", str(folder)).out
        assert str(dump) in listed and "no copy is kept" in automigrator("snapshots", "list").out
        answer = automigrator("snapshots", "restore", str(dump), "--yes")
        assert answer.code == 7 and "allow it with --disconnect-others" in answer.err, answer
    engine.dispose()
    assert automigrator("snapshots", "restore", str(dump), "--yes").code == 0
    assert heads(application.url) == {"r3"}


def test_prune_wants_a_limit_and_takes_an_age(on_sqlite) -> None:
    automigrator = on_sqlite.automigrator
    answer = automigrator("snapshots", "prune", "--yes")
    assert (answer.code, "--keep, --max-age" in answer.err) == (2, True)
    automigrator("run")
    for _ in range(2):
        automigrator("snapshots", "take")
    answer = automigrator("snapshots", "prune", "--max-age", "1")
    assert answer.code == 2 and "Of these, what is beyond --max-age 1 is deleted" in answer.err
    answer = automigrator("snapshots", "prune", "--max-age", "1", "--yes")
    assert (answer.code, answer.out) == (0, "nothing was to be deleted\n")


def test_the_next_step_after_a_crash_loop_is_a_command(on_sqlite) -> None:
    on_sqlite.configure("max_failed_starts=1")
    on_sqlite.deploy_broken()
    on_sqlite.automigrator("run")
    answer = on_sqlite.automigrator("run")
    assert answer.code == 5 and "call `automigrator clear` once the cause is gone" in answer.err
