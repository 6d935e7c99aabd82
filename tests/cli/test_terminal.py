"""What a person sees at a terminal: progress, tables, questions, and 40 columns of them."""

from __future__ import annotations

import io
import re
import signal
from html import unescape
from types import SimpleNamespace

import pytest
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text
from support.alembic_projects import heads, revision
from support.pages import DOCS

from automigrator import Event
from automigrator.cli import display

RECORDING = DOCS / "images" / "command-line.svg"
PAGE = DOCS / "command-line.md"
AS_TEXT = re.compile(
    r"(?<=<details>\n<summary>The session as text</summary>\n\n```text\n).*?(?=```)", re.S
)
COLUMNS = 72
"""Of the recording: the fewest that have tables, so that it can be read on a small screen."""
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m")


@pytest.mark.parametrize("columns", [40, 100])
@pytest.mark.long("[100]")
def test_a_run_shows_how_far_it_is_and_ctrl_c_undoes_the_current_step(
    on_sqlite, columns: int
) -> None:
    on_sqlite.automigrator("run")
    on_sqlite.deploy_slow()
    terminal = on_sqlite.automigrator.terminal("run", columns=columns)
    terminal.wait_for("revision 1 of 1, r4")
    terminal.wait_for(" 1 s")
    line = next(line for line in terminal.screen.splitlines() if "revision 1 of 1" in line)
    assert " app " in line and len(line) <= columns
    terminal.interrupt()
    assert terminal.ended() == 130
    assert "revision 1 of 1" not in terminal.screen, "the progress is gone at the end"
    words = " ".join(terminal.screen.split())
    assert "error: run: stopped by SIGINT; app: " in words
    assert heads(on_sqlite.url) == {"r3"}


def test_waiting_is_shown(on_sqlite) -> None:
    on_sqlite.configure(target="lock_timeout=2")
    terminal = on_sqlite.automigrator.terminal("wait")
    terminal.wait_for("waiting for another process to migrate")
    assert terminal.ended() == 3


def test_a_line_about_a_wait_that_goes_on_has_its_seconds_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    lines = display.Lines(SimpleNamespace(note=told.append))  # type: ignore[arg-type]  # a double
    waiting = {"on": "leader", "what": "web-1 to migrate", "seconds": 4.0, "progress": ""}
    lines.tell(Event("waiting", None, waiting))
    monkeypatch.setattr(display, "HEARTBEAT_S", 0.0)
    lines.tick()
    assert told == ["waiting for web-1 to migrate, 4 s so far"] * 2


def test_the_report_stays_on_the_screen(on_sqlite) -> None:
    terminal = on_sqlite.automigrator.terminal("run")
    assert terminal.ended() == 0
    first, *rest = terminal.screen.splitlines()
    assert first == "using app:migrator (AUTOMIGRATOR_APP)"
    assert rest[0].startswith("migration run: migrated in ")
    assert [line.split()[:2] for line in rest[2:]] == [
        ["applied", "r1"],
        ["applied", "r2"],
        ["applied", "r3"],
    ]


def test_a_dumb_terminal_gets_lines(on_sqlite) -> None:
    terminal = on_sqlite.automigrator.terminal("run", TERM="dumb")
    assert terminal.ended() == 0
    assert "app: revision 2 of 3, r2" in terminal.screen and "\x1b" not in terminal.raw


@pytest.mark.long
def test_a_pipe_gets_no_colour_even_where_it_is_forced(on_sqlite) -> None:
    answer = on_sqlite.automigrator("run", FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert "\x1b" not in answer.out + answer.err


def test_status_is_a_table_where_there_is_room_and_lines_elsewhere(on_sqlite) -> None:
    wide = on_sqlite.automigrator.terminal("status")
    assert wide.ended() == 0
    assert ["target", "state", "at", "wanted", "pending"] in map(str.split, wide.screen.split("\n"))
    narrow = on_sqlite.automigrator.terminal("status", columns=40)
    assert narrow.ended() == 0
    assert "app: does not exist; 3 pending to r3" in narrow.screen


def test_what_x_gives_is_in_no_table(on_sqlite) -> None:
    revision(on_sqlite.project.versions, "tenant4711", "r3")
    terminal = on_sqlite.automigrator.terminal("-x", "tenant=tenant4711", "status")
    assert terminal.ended() == 0
    assert "wanted" in terminal.screen and "tenant4711" not in terminal.raw


def test_no_color_is_heard(on_sqlite) -> None:
    (on_sqlite.folder / "app.py").write_text("raise RuntimeError('no settings')")
    coloured, plain = (
        on_sqlite.automigrator.terminal("status", **more) for more in ({}, {"NO_COLOR": "1"})
    )
    assert (coloured.ended(), plain.ended()) == (2, 2)
    assert "no settings" in " ".join(plain.screen.split())
    assert COLOUR.search(coloured.raw) and not COLOUR.search(plain.raw)


@pytest.mark.parametrize(
    ("typed", "code", "left"),
    [("app", 0, set()), ("other", 7, {"r3"}), ("", 7, {"r3"})],
    ids=["its name", "another", "nothing"],
)
@pytest.mark.long("nothing")
def test_a_rollback_wants_the_targets_name_typed(
    on_sqlite, typed: str, code: int, left: set[str]
) -> None:
    on_sqlite.automigrator("run")
    terminal = on_sqlite.automigrator.terminal("rollback", "base")
    terminal.wait_for("Type the target's name (app) to go on")
    assert "app: current at r3" in terminal.screen
    terminal.type(typed)
    assert (terminal.ended(), heads(on_sqlite.url)) == (code, left)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.long("SIGTERM")
def test_a_signal_ends_a_question(on_sqlite, number: signal.Signals) -> None:
    on_sqlite.automigrator("run")
    terminal = on_sqlite.automigrator.terminal("clear")
    terminal.wait_for("Type the target's name (app) to go on")
    terminal.signal(number)
    assert terminal.ended() == 128 + number, terminal.screen
    assert "nothing was changed" in terminal.screen


def test_a_limit_ends_a_question(on_sqlite) -> None:
    on_sqlite.automigrator("run")
    terminal = on_sqlite.automigrator.terminal("clear", "--timeout=2")
    terminal.wait_for("Type the target's name (app) to go on")
    assert terminal.ended() == 5, terminal.screen
    assert "--timeout 2 and was cancelled; nothing was changed" in terminal.screen


def test_a_password_is_asked_for_and_not_shown(on_sqlite) -> None:
    terminal = on_sqlite.automigrator.terminal(
        "status", "--url", "postgresql://somebody@127.0.0.1:1/app", "--ask-password", "--timeout=2"
    )
    terminal.wait_for("Password:")
    terminal.type("canary-typed")
    assert terminal.ended() in (0, 5)
    assert "canary-typed" not in terminal.raw


def test_the_recording_shows_a_session(on_sqlite, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-table"):
        record(on_sqlite)
    shown = RECORDING.read_text("utf-8").replace("&#160;", " ")
    for words in ("status", "plan", "run", "check", "explain unversioned"):
        assert f"$ automigrator {words}" in shown
    assert "revision 1 of 1, r4" in shown and "stopped by SIGINT" in shown
    lines = re.findall(r'<text class="recording-r[^>]*>([^<]*)<', shown)
    told = AS_TEXT.search(PAGE.read_text("utf-8"))
    assert told and unescape(" ".join(lines)).split() == told[0].split()
    assert "http" not in re.sub('xmlns="[^"]*"', "", shown), "it loads nothing from elsewhere"


def record(application) -> None:
    """Write the recording: commands, what they print, and the progress of one that is stopped."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())

    def show(words: str, screen: str) -> None:
        console.print(Text(f"$ automigrator {words}\n", style="bold"), Text(screen + "\n"), sep="")

    for words in ("status", "plan", "run", "check"):
        terminal = application.automigrator.terminal(*words.split(), columns=COLUMNS)
        terminal.ended()
        show(words, terminal.screen)
    application.deploy_slow()
    terminal = application.automigrator.terminal("run", columns=COLUMNS)
    terminal.wait_for(" 2 s")
    show("run", terminal.screen)
    before = len(terminal.screen.splitlines()) - 1
    terminal.interrupt()
    terminal.ended()
    console.print(Text("^C\n" + "\n".join(terminal.screen.splitlines()[before:]) + "\n"))
    terminal = application.automigrator.terminal("explain", "unversioned", columns=COLUMNS)
    terminal.ended()
    show("explain unversioned", terminal.screen)
    RECORDING.parent.mkdir(exist_ok=True)
    text = "\n".join(map(str.rstrip, console.export_text(clear=False).splitlines()))
    page = AS_TEXT.sub(lambda _: f"{text.strip()}\n", PAGE.read_text("utf-8"), count=1)
    PAGE.write_text(page, "utf-8")
    plain = re.sub(r",\s*url\([^)]*\) format\([^)]*\)", "", CONSOLE_SVG_FORMAT)
    plain = re.sub(r"<!--.*?-->", "", plain)
    RECORDING.write_text(
        console.export_svg(title="automigrator", code_format=plain, unique_id="recording"), "utf-8"
    )
