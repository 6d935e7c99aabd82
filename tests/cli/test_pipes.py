"""What programs read: one JSON document, a pipe that closes, an installation without the extra."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.alembic_projects import heads

from automigrator.cli.output import VERSION
from automigrator.exits import Exit

KEYS = ["version", "command", "exit_code", "outcome", "result", "error"]
SECRET = "tenant-4711-secret"


def document(answer) -> dict:
    """The document, checked against what every one has."""
    found = answer.document
    assert list(found) == KEYS
    assert (found["version"], found["exit_code"]) == (VERSION, answer.code)
    assert found["outcome"] == Exit(answer.code).outcome
    error = found["error"]
    assert error is None or list(error) == ["type", "message", "advice"]
    return found


def test_stdout_holds_one_document_whatever_else_is_printed(on_sqlite) -> None:
    env = on_sqlite.folder / "migrations" / "env.py"
    env.write_text("print('printed by env.py')\n" + env.read_text())
    automigrator = on_sqlite.automigrator

    assert document(automigrator("--json", "check"))["result"]["current"] is False
    assert document(automigrator("plan", "--json"))["result"]["targets"][0]["after"] == ["r3"]
    answer = automigrator("run", "--json")
    assert document(answer)["result"]["outcome"] == "migrated"
    assert "printed by env.py" in answer.err


@pytest.mark.long
def test_every_other_command_prints_a_document_as_well(on_sqlite) -> None:
    automigrator = on_sqlite.automigrator
    automigrator("run")
    assert document(automigrator("wait", "--json"))["result"]["outcome"] == "current"
    assert document(automigrator("status", "--json"))["result"]["current"] is True
    assert document(automigrator("doctor", "--json"))["result"]["healthy"] is True
    assert document(automigrator("clear", "--yes", "--json"))["result"] == {"cleared": ["app"]}
    found = document(automigrator("rollback", "base", "--json", "--yes"))
    assert found["result"] is not None
    assert document(automigrator("plugins", "--json"))["result"]["plugins"] is not None
    assert "auth" in document(automigrator("explain", "--json"))["result"]["kinds"]


def test_an_error_is_a_document_as_well(on_sqlite) -> None:
    found = document(on_sqlite.automigrator("--json", "no-such-command"))
    assert (found["exit_code"], found["result"]) == (2, None)

    found = document(on_sqlite.automigrator("status", "--json", AUTOMIGRATOR_APP=""))
    assert found["error"]["type"] == "ConfigurationError"

    on_sqlite.deploy_broken()
    found = document(on_sqlite.automigrator("run", "--json"))
    assert found["error"]["type"] == "MigrationError"
    (target,) = found["result"]["targets"]
    assert (found["result"]["outcome"], target["failures"][0]["kind"]) == ("failed", "revision")


def test_what_a_reader_leaves_unread_stops_no_migration(on_sqlite) -> None:
    answer = on_sqlite.automigrator.begun("run", closed=True).ended()
    assert (answer.code, heads(on_sqlite.url)) == (0, {"r3"})


def test_what_x_gives_to_env_py_is_shown_nowhere(on_sqlite) -> None:
    (on_sqlite.folder / "app.db").touch()  # of an absent database env.py is not asked
    env = on_sqlite.folder / "migrations" / "env.py"
    env.write_text(
        "from alembic import context as c\n"
        "assert c.get_x_argument(as_dictionary=True)['tenant'] != 'x', 'no tenant'\n"
        "raise RuntimeError(str(c.get_x_argument()))\n" + env.read_text()
    )
    for words in (["run", "--traceback"], ["status", "--json"]):
        answer = on_sqlite.automigrator("-x", f"tenant={SECRET}", *words)
        assert "RuntimeError" in answer.out + answer.err
        assert SECRET not in answer.out + answer.err


def test_text_of_others_drives_no_terminal(on_sqlite) -> None:
    on_sqlite.automigrator("run")  # of an absent database env.py is not asked
    env = on_sqlite.folder / "migrations" / "env.py"
    env.write_text("raise RuntimeError('\\x1b[2J\\x9b\\u202e')\n")
    for words in (["status", "--json"], ["run", "--traceback"]):
        answer = on_sqlite.automigrator(*words)
        assert "RuntimeError" in answer.out + answer.err
        assert not {"\x1b", "\x9b", "\u202e"} & set(answer.out + answer.err)


@pytest.mark.parametrize("missing", ["click", "rich"])
@pytest.mark.long("rich")
def test_without_the_extra_one_sentence_names_it(missing: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from automigrator.__main__ import main; "
    ended = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1 and 'pip install "automigrator[cli]"' in ended.stderr


def test_python_m_is_the_same_command(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "automigrator", "explain", "auth", "--json"],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ended.stdout)["result"]
    assert (found["kind"], found["situations"][0]["database"]) == ("auth", "PostgreSQL")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("sn", {"snapshots"}), ("snapshots re", {"restore"}), ("run --time", {"--timeout"})],
)
def test_a_shell_completes_commands_and_options(on_sqlite, typed: str, offered: set[str]) -> None:
    words = ["automigrator", *typed.split()]
    answer = on_sqlite.automigrator(
        _AUTOMIGRATOR_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(words),
        COMP_CWORD=str(len(words) - 1),
    )
    assert {line.partition(",")[2] for line in answer.out.splitlines()} == offered


@pytest.mark.long
def test_a_long_step_is_told_again_every_ten_seconds(on_sqlite) -> None:
    on_sqlite.automigrator("run")
    on_sqlite.deploy_slow()
    running = on_sqlite.automigrator.begun("run")
    running.wait_for("app: revision 1 of 1, r4, 10 s so far")
    running.signal(signal.SIGTERM)
    assert running.ended().code == 143


def test_a_stderr_that_nobody_reads_stops_no_migration(on_sqlite) -> None:
    read, write = os.pipe()
    while True:
        os.set_blocking(write, False)
        try:
            os.write(write, b"x" * 65536)
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    ended = subprocess.run(
        [sys.executable, "-m", "automigrator", "run"],
        cwd=on_sqlite.folder,
        env={**os.environ, **on_sqlite.automigrator.variables},
        stdout=subprocess.PIPE,
        stderr=write,
        text=True,
        timeout=60,
        check=True,
    )
    os.close(read)
    os.close(write)
    assert ended.stdout.startswith("migration run: migrated in ")
    assert heads(on_sqlite.url) == {"r3"}


def test_the_document_is_alone_on_stdout_where_stderr_is_closed(on_sqlite) -> None:
    ended = subprocess.run(
        ["bash", "-c", '"$0" -m automigrator status --json 2>&-', sys.executable],
        cwd=on_sqlite.folder,
        env={**os.environ, **on_sqlite.automigrator.variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout)["command"] == "status"


def test_a_password_in_the_place_of_a_command_is_not_repeated(on_sqlite) -> None:
    for more in ([], ["--json"]):
        answer = on_sqlite.automigrator("status", "postgresql://u:canary-argv@h/db", *more)
        assert answer.code == 2 and "canary-argv" not in answer.out + answer.err


def test_an_option_that_would_do_nothing_is_refused(on_sqlite) -> None:
    for option in (["--config", "nowhere.ini"], ["--name", "other"], ["--ask-password"]):
        answer = on_sqlite.automigrator("check", *option)
        assert answer.code == 2 and f"drop {option[0]}" in answer.err, answer
    answer = on_sqlite.automigrator("snapshots", "prune", "--max-age=-1", "--yes")
    assert answer.code == 2 and "it is days above zero" in answer.err, answer


def test_a_password_is_asked_for_once_and_only_where_somebody_can_type_it(on_sqlite) -> None:
    answer = on_sqlite.automigrator(
        "plugins", "--url", "sqlite:///a.db", "--ask-password", AUTOMIGRATOR_APP=""
    )
    assert (answer.code, answer.err.count("Password:")) == (2, 1), answer
    assert "no password was typed" in answer.err


def test_a_signal_while_the_application_is_imported_ends_the_command(on_sqlite) -> None:
    (on_sqlite.folder / "app.py").write_text(
        "import time\nopen('begun', 'w').close()\ntime.sleep(60)\n"
    )
    running = on_sqlite.automigrator.begun("run")
    while not (on_sqlite.folder / "begun").exists():
        time.sleep(0.01)
    running.signal(signal.SIGTERM)
    answer = running.ended()
    assert (answer.code, "stopped by SIGTERM; nothing was changed" in answer.err) == (143, True)
