"""What leaks is caught by the plugin of the test suite: each test here fails where it is not."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client import CollectorRegistry
from support.canaries import PASSWORD, ROW, Watch

from automigrator import Event, Failure, Migrator, Target, TargetReport
from automigrator.backends.contract.record import Record
from automigrator.events.notifier import Notifier
from automigrator.hooks.registry import Hooks
from automigrator.prometheus import Metrics

LOUD = logging.getLogger("automigrator.loud")
"""As any module's."""


class Boom(Exception):
    """Raised with a canary."""


@pytest.mark.leaks("log")
@pytest.mark.parametrize(
    "told",
    [
        lambda: LOUD.warning("cannot connect to %s", PASSWORD),
        lambda: LOUD.debug("nobody listens: %s", ROW),
        lambda: LOUD.warning("in the arguments alone: %.0s", ROW),
        lambda: LOUD.warning("for a machine", extra={"automigrator": {"row": ROW}}),
        lambda: LOUD.error("with a traceback", exc_info=Boom(ROW)),
        lambda: LOUD.error("behind another", exc_info=behind(Boom(ROW))),
        lambda: LOUD.error("in a group", exc_info=ExceptionGroup("several", [Boom(ROW)])),
        lambda: logging.getLogger("automigrator").warning(ROW),
        lambda: logging.getLogger("automigrator_purge.strategy").warning(ROW),
        lambda: LOUD.warning("in a URL: %s", quote(PASSWORD, "")),
    ],
)
def test_a_log_record(told: Callable[[], None]) -> None:
    told()


def behind(error: Exception) -> Exception:
    outer = Boom("without it")
    outer.__context__ = error
    return outer


@pytest.mark.leaks("log")
async def test_a_task_whose_error_nobody_asks_for() -> None:
    async def fails() -> None:
        raise Boom(ROW)

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    del task


@pytest.mark.leaks("event")
@pytest.mark.parametrize(("url", "told"), [(PASSWORD, ""), ("", ROW)])
async def test_an_event_that_nobody_listens_to(url: str, told: str) -> None:
    tell = Notifier([], Hooks([], []))
    tell("target-started", "app", told=told, database="sqlite", url=url)


@pytest.mark.leaks("report")
@pytest.mark.parametrize(
    "made",
    [
        lambda: Failure("revision", f"Key (text)=({ROW})"),
        lambda: Failure("revision", "", statement=f"INSERT INTO notes VALUES ({ROW})"),
        lambda: TargetReport("app", "degraded", notes=(ROW,)),
        lambda: Record("plan", "failed", "leader", ({"message": PASSWORD},)),
    ],
)
def test_a_report_and_what_is_left_for_the_next_start(made: Callable[[], object]) -> None:
    made()


@pytest.mark.leaks("error")
def test_an_error_of_the_public_face(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="canary"):
        Target(f"sqlite:///{tmp_path / 'app.db'}", tmp_path, drive=PASSWORD)  # type: ignore[arg-type]


@pytest.mark.leaks("error")
async def test_an_error_that_led_to_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        raise RuntimeError("cannot look") from Boom(ROW)

    migrator = Migrator(Target(f"sqlite:///{tmp_path / 'app.db'}", tmp_path), mode="migrate")
    monkeypatch.setattr("automigrator.runner.targets.run_told", look)
    with pytest.raises(RuntimeError):
        await migrator.run()


@pytest.mark.leaks("metric")
def test_a_label_of_a_metric() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.follow(Event("failed", ROW, {"kind": "revision"}))
    metrics.answer()


@pytest.mark.leaks("output")
def test_printed_output() -> None:
    print(ROW)
    print(PASSWORD, file=sys.stderr)


@pytest.mark.leaks("output")
def test_printed_output_that_the_test_reads(capsys: pytest.CaptureFixture[str]) -> None:
    print(ROW)
    assert capsys.readouterr().out


@pytest.mark.leaks("output")
def test_output_of_a_process_to_the_terminal() -> None:
    subprocess.run([sys.executable, "-c", f"import os; os.write(2, b'{ROW}')"], check=True)


@pytest.mark.leaks("output")
def test_output_of_a_process_to_the_test() -> None:
    subprocess.run([sys.executable, "-c", f"print('{ROW}')"], capture_output=True, check=True)


@pytest.mark.leaks("command line")
async def test_arguments_and_environment_of_a_child_process() -> None:
    from automigrator.backends.postgresql.dump.programs import run

    await run(sys.executable, "-c", f"'{PASSWORD}'", env={})


@pytest.mark.leaks("warning")
def test_a_warning() -> None:
    with pytest.warns(UserWarning, match="canary"):
        warnings.warn(ROW, stacklevel=1)


@pytest.mark.leaks("file")
@pytest.mark.parametrize("name", ["app.db.automigrator-record", "deep/1.log"])
def test_a_file_beside_the_database(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"row": "{ROW}"}}')


@pytest.mark.leaks
def test_the_databases_themselves_may_hold_rows(tmp_path: Path) -> None:
    for head in (b"SQLite format 3\0", b"PGDMP"):
        (tmp_path / f"automigrator{head[0]}").write_bytes(head + ROW.encode())


def test_a_leak_is_reported_without_the_canary() -> None:
    watch = Watch()
    watch.look("log", f"Key (text)=({ROW}) already exists")
    assert watch.leaked() == [("log", "Key (text)=(<the canary>) already exists")]
    assert watch.leaked() == []


def test_a_password_of_the_environments_server_is_a_canary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTOMIGRATOR_TEST_POSTGRES", "postgresql://me:s3cret-of-mine@host/db")
    watch = Watch()
    watch.look("log", "s3cret-of-mine")
    assert watch.leaked()
