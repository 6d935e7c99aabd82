"""Each exit code, provoked: what a pipeline or a supervisor tells endings apart by."""

from __future__ import annotations

import signal

import pytest
from support.alembic_projects import heads

from automigrator.exits import Exit

SLOW = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


def test_2_for_wrong_usage_and_for_a_wrong_configuration(on_sqlite) -> None:
    answer = on_sqlite.automigrator("run", "--no-such-option")
    assert (answer.code, answer.out) == (2, "")
    assert "Usage: automigrator run" in answer.err and "No such option" in answer.err

    answer = on_sqlite.automigrator("status", AUTOMIGRATOR_APP="")
    assert answer.code == 2
    assert answer.err.startswith("error: there is no migrator to ask; nothing was done. Name ")

    answer = on_sqlite.automigrator("status", "--target", "other")
    assert (answer.code, answer.err.splitlines()[-1]) == (
        2,
        "error: there is no target 'other'; the targets are app",
    )

    answer = on_sqlite.automigrator("rollback", "base")
    assert answer.code == 2
    told = "error: there is no terminal to ask on; nothing was done. Add --yes to do this: Rolling"
    assert answer.err.splitlines()[-1].startswith(told)


def test_3_for_pending_revisions_and_for_a_leader_that_did_not_come(on_sqlite) -> None:
    assert on_sqlite.automigrator("check").code == Exit.PENDING == 3
    on_sqlite.configure(target="lock_timeout=0.5")
    answer = on_sqlite.automigrator("wait")
    assert (answer.code, "no other process has migrated" in answer.err) == (3, True)


def test_a_wait_has_its_own_time_and_ends_at_once_where_it_is_of_no_use(on_sqlite) -> None:
    answer = on_sqlite.automigrator("wait", "--timeout", "1")
    assert (answer.code, "has migrated within 0." in answer.err) == (3, True), answer
    on_sqlite.automigrator("run")
    (on_sqlite.project.versions / "r3_.py").unlink()
    answer = on_sqlite.automigrator("wait")
    assert (answer.code, "ahead" in answer.err) == (5, True), answer


def test_4_for_an_application_that_starts_on_the_old_schema(on_sqlite) -> None:
    on_sqlite.configure("plugins=[Continue()]")
    on_sqlite.deploy_broken()
    answer = on_sqlite.automigrator("run")
    assert answer.code == Exit.DEGRADED == 4
    assert answer.out.startswith("migration run: degraded in ")


def test_5_for_a_run_that_takes_too_long(on_sqlite) -> None:
    on_sqlite.automigrator("run")
    on_sqlite.deploy_slow()
    answer = on_sqlite.automigrator("run", "--timeout", "1")
    assert answer.code == Exit.FAILED == 5
    assert "the run took longer than --timeout 1;" in answer.err and heads(on_sqlite.url) == {"r3"}


def test_5_for_a_server_that_is_away_for_as_long_as_the_command_has(on_sqlite) -> None:
    away = "postgresql+asyncpg://nobody@127.0.0.1:1/absent"
    config = str(on_sqlite.project.config)
    answer = on_sqlite.automigrator("run", "--url", away, "--config", config, "--timeout", "2")
    assert answer.code == 5
    assert "longer than --timeout 2; when its time was over it was waiting for" in answer.err
    assert "ConnectionRefusedError" in answer.err and "explain unreachable" in answer.err


def test_5_for_a_command_that_takes_too_long(on_sqlite) -> None:
    text = "import asyncio\nasync def migrator(): await asyncio.sleep(60)\n"
    (on_sqlite.folder / "app.py").write_text(text)
    for command in ("check", "run"):
        answer = on_sqlite.automigrator(command, "--timeout", "0.5")
        assert answer.code == 5
        assert f"error: {command} took longer than --timeout 0.5 and was " in answer.err


def test_6_for_a_lock_that_another_process_holds(on_sqlite) -> None:
    on_sqlite.configure(target="lock_timeout=0.5")
    on_sqlite.automigrator("run")
    on_sqlite.deploy_slow()
    leader = on_sqlite.automigrator.begun("run")
    leader.wait_for("revision 1 of 1, r4")
    answers = [on_sqlite.automigrator(*words) for words in (["run"], ["clear", "--yes"])]
    leader.signal(signal.SIGTERM)
    assert [answer.code for answer in answers] == [Exit.LOCKED, Exit.LOCKED] == [6, 6]
    assert "still held by process" in answers[0].err
    assert leader.ended().code == 143


def test_7_for_what_is_refused(on_sqlite) -> None:
    on_sqlite.configure(migrator="Never")
    answer = on_sqlite.automigrator("run")
    assert answer.code == Exit.REFUSED == 7
    assert "is_enabled() says that it does not migrate; nothing was changed" in answer.err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
@pytest.mark.long("postgresql-SIGINT", "sqlite-SIGTERM", "SIGHUP")
def test_130_and_143_for_a_signal_which_undoes_the_current_step(
    application, number: signal.Signals, code: int
) -> None:
    application.automigrator("run")
    application.deploy_slow()
    running = application.automigrator.begun("run", "--json")
    running.wait_for("revision 1 of 1, r4")
    running.signal(number)
    answer = running.ended()
    assert (answer.code, answer.document["outcome"]) == (code, "interrupted")
    name = signal.Signals(code - 128).name
    assert answer.document["error"]["message"] == (
        f"run: stopped by {name}; app: revision r4 was under way and was undone; no revision was "
        "kept; the database is at r3; the next start begins with r4"
    )
    assert heads(application.url) == {"r3"}


def test_a_signal_while_it_waits_says_for_whom_and_that_nothing_was_done(on_sqlite) -> None:
    on_sqlite.automigrator("run")
    on_sqlite.deploy_slow()
    leader = on_sqlite.automigrator.begun("run")
    leader.wait_for("revision 1 of 1, r4")
    follower = on_sqlite.automigrator.begun("run")
    follower.wait_for("waiting for the migration lock")
    follower.signal(signal.SIGTERM)
    told = follower.ended().err.splitlines()[-1]
    leader.signal(signal.SIGTERM)
    leader.ended()
    assert told.startswith(
        "error: run: stopped by SIGTERM; app: interrupted while waiting for the migration lock, "
        "held by process "
    )
    assert told.endswith("; nothing was migrated, and the next start begins anew")


def test_half_of_a_revision_that_may_have_stayed_is_not_called_undone(on_sqlite) -> None:
    on_sqlite.automigrator("run")
    on_sqlite.deploy(
        "with op.get_context().autocommit_block():\n"
        "    op.execute('CREATE TABLE half (id INTEGER)')\n"
        "print('half is there', flush=True)\n"
        f"op.execute('{SLOW}')"
    )
    running = on_sqlite.automigrator.begun("run")
    running.wait_for("half is there")
    running.signal(signal.SIGTERM)
    told = running.ended().err.splitlines()[-1]
    assert told.endswith(
        "revision r4 was under way and half of it may have stayed; no revision was kept; the "
        "database is at r3; the next start begins with r4, from its beginning: undo by hand "
        "first what stayed of it"
    )


def test_a_signal_ends_a_rollback_as_well(on_sqlite) -> None:
    on_sqlite.deploy("pass")
    path = on_sqlite.project.versions / "r4_.py"
    on_sqlite.automigrator("run")
    text = path.read_text().replace(
        "def downgrade() -> None:\n    pass",
        f"def downgrade() -> None:\n    op.execute('{SLOW}')",
    )
    path.write_text(text)
    running = on_sqlite.automigrator.begun("rollback", "-1", "--yes")
    running.wait_for("revision 1 of 1, r4")
    running.signal(signal.SIGTERM)
    answer = running.ended()
    assert (answer.code, heads(on_sqlite.url)) == (143, {"r4"})
    assert "error: rollback: stopped by SIGTERM; app: the downgrade of revision r4 " in answer.err
    assert "; the database is at r4; another rollback to -1 begins with r4" in answer.err
