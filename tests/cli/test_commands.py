"""Every command on each kind of database, at pipes: what it prints, and how it ends."""

from __future__ import annotations

import pytest
from support.alembic_projects import heads, tables

from automigrator import Migrator

APP = ("--app", "app:migrator")


def test_a_life_of_an_application_at_the_command_line(application) -> None:
    automigrator = application.shell

    answer = automigrator(*APP, "check")
    assert (answer.code, answer.out) == (3, "app: at base, 3 pending to r3: r1, r2, r3\n") or (
        answer.out == "app: does not exist; 3 pending to r3\n"
    )

    answer = automigrator(*APP, "plan", "--sql")
    assert answer.code == 0
    assert answer.out.startswith("-- app: base -> r3\n") and "CREATE TABLE users" in answer.out

    answer = automigrator("run", *APP)
    assert answer.code == 0
    assert answer.out.startswith("migration run: migrated in ")
    assert "app: revision 2 of 3, r2\n" in answer.err
    assert heads(application.url) == {"r3"}

    assert automigrator("wait", *APP).code == 0
    assert automigrator("check", *APP).out == "app: current at r3\n"

    answer = automigrator("status", *APP, "--json")
    assert answer.document["result"]["targets"][0]["heads"] == ["r3"]

    answer = automigrator("rollback", "-1", *APP, "--yes")
    assert (answer.code, heads(application.url)) == (0, {"r2"})

    answer = automigrator("doctor", *APP)
    assert (answer.code, answer.out.splitlines()[0]) == (0, "app: at r2, 1 pending to r3: r3")

    answer = automigrator("clear", *APP, "--yes")
    assert (answer.code, answer.out) == (0, "app: cleared; the next start tries again\n")


def test_a_failure_is_one_screen_that_says_what_to_do(application) -> None:
    application.deploy('op.execute("SELECT * FROM absent")')
    answer = application.shell("run", *APP)
    assert (answer.code, answer.out) == (5, "")
    lines = answer.err.splitlines()
    (error,) = (number for number, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines[error:]) < 20 and answer.err.count("what to do:") == 1
    assert "state: " in answer.err and "Traceback" not in answer.err
    assert lines[-1].startswith("next: automigrator explain revision;")

    shown = application.shell("run", *APP, "--traceback").err
    assert "Traceback (most recent call last)" in shown and "MigrationError" in shown


def test_check_compares_models_with_the_database(application) -> None:
    (application.folder / "models.py").write_text(
        "import sqlalchemy as sa\nmetadata = sa.MetaData()\n"
        'sa.Table("new", metadata, sa.Column("id", sa.Integer, primary_key=True))\n'
    )
    application.shell("run", *APP)
    answer = application.shell("check", *APP, "--models", "models:metadata")
    assert answer.code == 3
    assert "models: differ" in answer.out


def test_a_file_that_does_not_exist_is_not_made_by_a_look(on_sqlite) -> None:
    for command in (["check"], ["status"], ["plan"], ["doctor"], ["plugins"]):
        assert on_sqlite.shell(*command, *APP).code in (0, 3)
    assert tables(on_sqlite.url) == set() and not (on_sqlite.folder / "app.db").exists()


def test_run_is_not_skipped_by_what_the_environment_or_the_application_says(on_sqlite) -> None:
    text = (on_sqlite.folder / "app.py").read_text()
    text = text.replace('name="app")', 'name="app"), mode="skip"')
    (on_sqlite.folder / "app.py").write_text(text)
    answer = on_sqlite.shell("run", *APP, RUN_MIGRATIONS="0")
    assert (answer.code, heads(on_sqlite.url)) == (0, {"r3"})


@pytest.mark.plugins
def test_plugins_tells_what_is_named_and_what_each_may_do(on_sqlite) -> None:
    text = (on_sqlite.folder / "app.py").read_text()
    text = text.replace('name="app")', 'name="app"), recovery=["purge"]')
    (on_sqlite.folder / "app.py").write_text(text)
    lines = on_sqlite.shell("plugins", *APP).out.splitlines()
    purge = next(line for line in lines if line.startswith("purge: "))
    assert "automigrator-purge " in purge
    assert purge.endswith("replaces the database by a fresh one; asked for app")
    (other,) = (line for line in lines if line.startswith("backup-restore: "))
    assert other.endswith("not loaded, as nobody names it")

    lines = on_sqlite.shell("plugins", "--all").out.splitlines()
    (other,) = (line for line in lines if line.startswith("backup-restore: "))
    assert other.endswith("restores this run's own snapshot")


@pytest.mark.skipif(not hasattr(Migrator, "snapshots"), reason="no snapshots as an operation yet")
def test_snapshots_are_taken_listed_restored_and_pruned(application) -> None:
    automigrator = application.shell
    automigrator("run", *APP)
    taken = automigrator("snapshots", "take", *APP, "--json")
    assert taken.code == 0, taken.err
    (listed,) = automigrator("snapshots", "list", *APP, "--json").document["result"]["targets"]
    (snapshot,) = listed["snapshots"]
    assert taken.document["result"]["targets"][0]["snapshot"]["place"] == snapshot["place"]

    automigrator("rollback", "base", *APP, "--yes")
    answer = automigrator("snapshots", "restore", snapshot["place"], *APP)
    assert answer.code == 2 and "Add --yes" in answer.err
    answer = automigrator("snapshots", "restore", snapshot["place"], *APP, "--yes")
    assert answer.code == 0, answer.err
    assert heads(application.url) == {"r3"}

    answer = automigrator("snapshots", "prune", "--keep", "0", *APP, "--yes")
    assert (answer.code, snapshot["place"] in answer.out) == (0, True)
