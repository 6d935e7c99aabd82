"""Without any logging set up, a run says on stderr what it does; with it, the log alone does."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.notes_application import BROKEN, GOOD, HALF_WAY
from support.plain_script import Script
from support.starters import LIMIT_S

from automigrator import ConfigurationError, Migrator
from automigrator.events import announcer
from automigrator.events.activity import Activity
from automigrator.events.announcer import LINES, Announcer
from automigrator.events.catalogue import CATALOGUE
from automigrator.events.notifier import Patience
from automigrator.events.standard_error import cut

UNTIL = """
import pathlib, time
while not pathlib.Path({file!r}).exists():
    time.sleep(0.02)
"""
SLOW = "import time\ntime.sleep({seconds})"


@pytest.fixture
def script(tmp_path: Path) -> Script:
    made = Script(tmp_path)
    made.deploy(GOOD)
    return made


def without_seconds(line: str) -> str:
    return re.sub(r"\d+\.\d+ s", "N s", line)


def test_a_run_that_migrates_says_its_steps_and_the_next_start_says_nothing(
    script: Script,
) -> None:
    lines, printed = script.start(before="announcer.HEARTBEAT_S = 60.0")
    assert printed == "returned"
    assert [without_seconds(line) for line in lines] == [
        "automigrator: app: database created in N s",
        "automigrator: app: attempt 1, revisions pending: 1",
        "automigrator: app: revision r1 done in N s",
        "automigrator: app: migrated, base -> r1 in N s",
    ]
    assert script.start() == ([], "returned")


def test_a_failure_is_a_line_and_the_exception_is_one_screen(script: Script) -> None:
    script.deploy(BROKEN)
    lines, printed = script.start()
    assert printed == "raised MigrationError"
    text = "\n".join(lines)
    said, _, screen = text.partition("Traceback")
    (failed,) = [line for line in said.splitlines() if "absent" in line]
    assert failed.startswith("automigrator: app: attempt 1 failed: revision in revision r2: ")
    assert failed.endswith("; state: clean")
    assert "direct cause" not in screen and "During handling" not in screen
    assert "site-packages" not in screen and len(screen.splitlines()) <= 24, screen
    for once in ("database: ", "statement: SELECT * FROM absent", "state: clean (", "what to do: "):
        assert text.count(once) == 1


def test_where_the_application_starts_nonetheless_the_report_is_the_screen(script: Script) -> None:
    script.deploy(BROKEN)
    lines, printed = script.start(options="plugins=[Continuing()]")
    assert printed == "returned"
    text = "\n".join(lines)
    assert "\nautomigrator: migration run: degraded in " in text
    for once in ("statement: SELECT * FROM absent", "state: clean (", "what to do: "):
        assert text.count(once) == 1


@pytest.mark.plugins
def test_the_copy_is_named_by_the_exception(script: Script) -> None:
    script.deploy("op.create_table('notes', sa.Column('text', sa.Text))")
    script.start()
    script.deploy(HALF_WAY)
    lines, _ = script.start(recovery=["backup-restore"])
    text = "\n".join(lines)
    screen = text.partition("MigrationError: ")[2]
    assert "state: clean, at r2 (what the failure left was undone)" in screen
    assert "half of a revision" not in text
    place = re.search(r"restored from (\S+)", screen)
    assert place is not None and Path(place[1]).is_file()


HANDLERS = {
    "on the root": "logging.basicConfig(level=logging.INFO, stream=sys.stdout)",
    "on ours": "logging.getLogger('automigrator').addHandler(logging.NullHandler())",
}


@pytest.mark.parametrize("before", HANDLERS.values(), ids=HANDLERS.keys())
@pytest.mark.long("on ours")
def test_where_the_application_logs_nothing_of_ours_is_on_stderr(
    script: Script, before: str
) -> None:
    lines, printed = script.start(before=before)
    assert lines == [] and printed.endswith("returned")


def test_announce_says_it_all_the_same_or_never(script: Script) -> None:
    before = HANDLERS["on the root"]
    lines, printed = script.start(before=before, options="announce=True")
    assert lines[-1].startswith("automigrator: app: migrated") and "INFO:automigrator" in printed
    script.deploy(BROKEN)
    lines, _ = script.start(options="announce=False")
    assert not [line for line in lines if line.startswith("automigrator:")]


def test_a_logging_that_env_py_sets_up_for_itself_changes_nothing(script: Script) -> None:
    env = script.versions.parent / "env.py"
    env.write_text("import logging\nlogging.basicConfig(level=logging.INFO)\n" + env.read_text())
    lines, _ = script.start()
    assert lines[-1].startswith("automigrator: app: migrated, base -> r1")
    assert len([line for line in lines if "done in" in line]) == 1


def test_a_gate_that_is_closed_is_one_line(script: Script) -> None:
    (line,), printed = script.start(mode="skip")
    assert line.startswith("automigrator: migrations are off: ") and printed == "returned"


def test_waiting_says_for_whom(script: Script, tmp_path: Path) -> None:
    go, leaders = tmp_path / "go", tmp_path / "leaders"
    script.deploy(UNTIL.format(file=str(go)))
    script.err.touch()
    with script.started(leaders):
        wait_for(lambda: leaders.exists() and "revisions pending" in leaders.read_text())
        with script.started(script.err):
            wait_for(lambda: "waiting for" in script.err.read_text())
            go.touch()
    waits = [line for line in script.err.read_text().splitlines() if "waiting for" in line]
    assert re.search(r"app: waiting for the migration lock, held by process \d+ on", waits[0])
    (end,) = [line for line in script.err.read_text().splitlines() if "waited" in line]
    assert re.search(r"app: waited \d+\.\d s for the migration lock, held by process \d+ on", end)
    assert end.endswith(": nothing is left to do")
    # ever fewer lines: after 1, 2, 5 and 10 seconds, as soon as the machine comes to it
    assert re.search(r", \d+ s so far$", waits[0]) and len(waits) <= 4


def test_a_wait_that_goes_on_is_told_in_the_words_of_the_first_line() -> None:
    activity, waiting = Activity(), CATALOGUE["waiting"]
    held = "the migration lock, held by process 7 on web-1"
    data = {"on": "lock", "what": held, "seconds": 11.0, "progress": ""}
    activity.enter("app", "taking the migration lock")
    activity.follow(waiting, "app", data)
    assert activity.so_far == waiting.said("app", data, None)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("told", "due"),
    [
        ([0.0, 0.5], []),
        ([1.0, 1.5, 2.2, 3.0, 4.0, 5.1, 9.0, 10.5], [1.0, 2.2, 5.1, 10.5]),
        ([31.0, 59.0, 60.0, 100.0, 121.0, 179.0, 180.0], [31.0, 60.0, 121.0, 180.0]),
        ([12.0, 13.0, 0.3, 1.1], [12.0, 1.1]),
    ],
)
def test_how_often_a_wait_is_told(told: list[float], due: list[float]) -> None:
    patience = Patience()
    assert [each for each in told if patience.is_due("lock", each)] == due


def test_long_work_says_now_and_then_that_it_is_alive(script: Script) -> None:
    script.deploy(SLOW.format(seconds=1.2))
    lines, _ = script.start(before="announcer.HEARTBEAT_S = 0.5")
    beats = [line for line in lines if re.search(r"revision 2 of 2, r2, \d+ s so far$", line)]
    assert len(beats) == 2, lines


# On a terminal.


def on_a_terminal(script: Script, columns: int, term: str = "xterm") -> tuple[str, list[str], bool]:
    """What was sent to a terminal, what stays on it, and whether a live line was seen."""
    import pyte  # type: ignore[import-untyped]  # it ships no types

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    screen = pyte.Screen(columns, 24)
    stream, sent, seen = pyte.Stream(screen), "", False
    before = f"import os; os.environ['TERM'] = {term!r}"
    with script.started(Path(os.ttyname(theirs)), before=before):
        while "migrated, " not in sent or not sent.endswith("\n"):
            assert select.select([ours], [], [], LIMIT_S)[0]
            part = os.read(ours, 65536).decode()
            sent += part
            stream.feed(part)
            seen = seen or any(re.match(r"app: revision 2 of 2, \d", e) for e in screen.display)
    os.close(ours)
    os.close(theirs)
    return sent, [line.rstrip() for line in screen.display if line.strip()], seen


@pytest.mark.parametrize("columns", [40, 120])
@pytest.mark.long("120")
def test_on_a_terminal_one_line_lives_and_is_gone_in_the_end(script: Script, columns: int) -> None:
    script.deploy(SLOW.format(seconds=1.2))
    sent, lasting, seen = on_a_terminal(script, columns)
    assert seen and not [line for line in lasting if line.startswith("app: ")]
    assert "".join(lasting).count("automigrator: app: revision r") == 2
    live = re.findall(r"(?:\A|\n|\x1b\[K)(app: [^\r\n]*)\r", sent)
    assert live and all(len(line) < columns for line in live)
    assert "\x1b[3" not in sent  # no colour


def test_a_dumb_terminal_gets_plain_lines(script: Script) -> None:
    sent, _, seen = on_a_terminal(script, 80, term="dumb")
    assert not seen and "\x1b" not in sent and "automigrator: app: migrated" in sent


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("app: 3 s", 8, "app: 3 s"),
        ("app: 30 s", 8, "app: ..."),
        ("数据库: 3 s", 10, "数据库:..."),
        ("数据库: 3 s", 11, "数据库: 3 s"),
        ("app", 2, ".."),
        ("app", 0, ""),
    ],
)
def test_what_does_not_fit_is_cut_by_columns(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown


# A stderr that nobody can read.

BAD = {
    "none": "sys.stderr = None",
    "closed": "sys.stderr.close()",
    "closed by its number": "import os; os.close(2)",
    "full": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    "without a reader": "import os; r, w = os.pipe(); os.dup2(w, 2); os.close(r); os.close(w)",
    "without a reader, and SIGPIPE kills": (
        "import os, signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "r, w = os.pipe(); os.dup2(w, 2); os.close(r); os.close(w)"
    ),
    "raising": (
        "class Raising:\n    def write(self, text): raise MemoryError\n    def flush(self): pass\n"
        "sys.stderr = Raising()"
    ),
}


@pytest.mark.parametrize("before", BAD.values(), ids=BAD.keys())
@pytest.mark.long("closed", "reader", "raising")
def test_a_stderr_that_takes_nothing_disturbs_no_run(script: Script, before: str) -> None:
    _, printed = script.start(before=before)
    assert printed == "returned"


def test_a_pipe_that_nobody_empties_keeps_no_run_and_no_exit(
    script: Script, tmp_path: Path
) -> None:
    script.deploy(*[GOOD.replace("tags", f"tags{n}") for n in range(3)])
    full = tmp_path / "full"
    os.mkfifo(full)
    pipe = os.open(full, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    began = time.monotonic()
    with script.started(full):
        pass
    os.close(pipe)
    assert script.out.read_text() == "returned\n"
    assert time.monotonic() - began < LIMIT_S


def test_what_is_told_is_what_the_catalogue_has() -> None:
    assert set(CATALOGUE) >= LINES
    assert not [name for name in LINES if name.startswith("hook-f")]


def test_nothing_of_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(announcer._Writer, "start", no_thread)
    told = Announcer(always=True)
    told.begin("run-started", logs=False)
    told.tell(CATALOGUE["run-started"], None, {}, "", due=True)
    told.tell(CATALOGUE["run-finished"], None, {"outcome": "current"}, "", due=True)


def test_a_word_for_announce_is_refused(tmp_path: Path, script: Script) -> None:
    from automigrator import Target

    target = Target(script.url, script.config)
    with pytest.raises(ConfigurationError, match="announce must be True, False or None, not 'yes'"):
        Migrator(target, announce="yes")  # type: ignore[arg-type]
