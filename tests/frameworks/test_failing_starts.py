"""What a server does when the migration of every start fails, or takes long."""

from __future__ import annotations

import dataclasses
import re
import signal
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from support import alembic_projects
from support import framework_starts as starts
from support.framework_starts import Deployment, frameworks
from support.table import Row, Table

TABLE = Table(
    "frameworks.md",
    "nox -s frameworks -- --write-table",
    ("server", "application", "command", "ends with", "its failing workers", "says"),
)

FAILED = 5
"""What `automigrator run` ends with."""

ROUNDS = 4
"""As often as each worker is started again, before it counts as for ever."""

UVICORN = "uvicorn main:app --port 8000"
GUNICORN = "gunicorn main:app -k uvicorn_worker.UvicornWorker -b 127.0.0.1:8000"
FLASK = "gunicorn main:app -b 127.0.0.1:8000"
HYPERCORN = "hypercorn main:app -b 127.0.0.1:8000"
GRANIAN = "granian --interface asgi main:app --port 8000"
LITESTAR = "litestar --app main:app run --port 8000"
SANIC = "sanic main:app --port 8000"
TASKIQ = "taskiq worker main:broker"


@dataclass(frozen=True)
class Server:
    """A row: a distribution, an application of the page, a command, and what it prints itself."""

    package: str
    framework: str
    command: str
    says: str
    workers: int = 1
    codes: tuple[int | None, ...] = ()
    """Those that it may end with, where that is not always the same."""

    def __str__(self) -> str:
        return f"{self.framework}: {self.command}"


SERVERS = (
    Server("uvicorn", "FastAPI", UVICORN, "Application startup failed. Exiting."),
    Server(
        "uvicorn",
        "FastAPI",
        f"{UVICORN} --workers 2",
        r"Child process \[\d+\] failed to start, stopping the parent process.",
        2,
    ),
    Server("gunicorn", "FastAPI", GUNICORN, "Worker failed to boot."),
    Server(
        "gunicorn", "FastAPI", f"{GUNICORN} --workers 2", "Worker failed to boot.", 2, codes=(1, 3)
    ),
    Server("hypercorn", "FastAPI", HYPERCORN, "LifespanFailureError: Lifespan failure in startup."),
    Server(
        "hypercorn",
        "FastAPI",
        f"{HYPERCORN} --workers 2",
        "LifespanFailureError: Lifespan failure in startup.",
        2,
    ),
    Server("hypercorn", "Quart", HYPERCORN, "LifespanFailureError: Lifespan failure in startup."),
    Server("granian", "FastAPI", GRANIAN, r"Unexpected exit from worker-\d"),
    Server("granian", "FastAPI", f"{GRANIAN} --workers 2", r"Unexpected exit from worker-\d", 2),
    Server(
        "granian",
        "FastAPI",
        f"{GRANIAN} --workers 2 --respawn-failed-workers",
        r"Respawning worker-\d",
        2,
        codes=(1, None),
    ),
    Server("litestar", "Litestar", LITESTAR, "Application startup failed. Exiting."),
    Server(
        "litestar",
        "Litestar",
        f"{LITESTAR} --web-concurrency 2",
        r"Child process \[\d+\] failed to start, stopping the parent process.",
        2,
    ),
    Server(
        "litestar",
        "Litestar with advanced-alchemy",
        f"{LITESTAR} --web-concurrency 2",
        "",
        2,
    ),
    Server("aiohttp", "Aiohttp", "python main.py", ""),
    Server("sanic", "Sanic", f"{SANIC} --single-process", "Server Stopped"),
    Server("sanic", "Sanic", f"{SANIC} --workers 2", "Server Stopped", 2),
    Server("gunicorn", "Flask", f"{FLASK} --workers 2", "Worker failed to boot.", 2, codes=(1, 3)),
    Server("gunicorn", "Flask", f"{FLASK} --workers 2 --preload", "", 2),
    Server("faststream", "FastStream", "faststream run main:app", ""),
    Server(
        "faststream",
        "FastStream",
        "faststream run main:app --workers 2",
        r"Worker \d \(pid:\d+\) exited with code \d.",
        2,
    ),
    Server("taskiq", "Taskiq", f"{TASKIQ} --workers 2", r"worker-\d is dead.", 2),
    Server("taskiq", "Taskiq", f"{TASKIQ} --workers 2 --max-fails 4", r"worker-\d is dead.", 2),
    Server("arq", "Arq", "arq main.WorkerSettings", ""),
)


@pytest.fixture(scope="session")
def results() -> dict[Server, Row]:
    """What each row was found to be, in this session."""
    return {}


def outcome(server: Server, folder: Path) -> Row:
    """What a start on a database that cannot be migrated comes to."""
    deployment = Deployment(folder, frameworks()[server.framework], before=starts.COUNT)
    deployment.deploy(starts.BROKEN)
    with (
        deployment.services(),
        deployment.asked(),
        deployment.start(f"RUN_MIGRATIONS=1 {server.command}") as start,
    ):
        deadline = time.monotonic() + starts.LIMIT_S
        while start.process.poll() is None and deployment.starts() < server.workers * ROUNDS:
            assert time.monotonic() < deadline, start.printed()
            assert start.answer(0.2) == "", "it serves"
            time.sleep(0.05)
        code = start.process.poll()
        printed = start.printed()
    assert "MigrationError" in printed and "no such table: absent" in printed, printed
    assert printed.count("attempt 1 failed") >= 1, printed
    assert not (folder / "first").exists(), "it does a task"
    said = re.findall(server.says, printed)
    assert said, printed
    again = "are started again" if deployment.starts() > server.workers else "are not started again"
    return (
        f"{server.package} {version(server.package)}",
        server.framework,
        f"`{server.command}`",
        ended(code, server.codes),
        again,
        plain(said[-1]) or "the error alone",
    )


def ended(code: int | None, codes: tuple[int | None, ...]) -> str:
    """What a code is, or all those that it may be."""
    assert code in (codes or (code,))
    names = {None: "nothing, it goes on", 0: "**0**"}
    return " or ".join(names.get(each, str(each)) for each in codes or (code,))


def plain(said: str) -> str:
    """What a server prints, without the numbers of processes and workers."""
    return re.sub(r"\b\d\b", "1", re.sub(r"\d{2,}", "4711", said))


def facts(row: Row) -> Row:
    """A row without the release, which differs from one machine to the next."""
    return (row[0].partition(" ")[0], *row[1:])


@pytest.mark.parametrize("server", SERVERS, ids=str)
@pytest.mark.long
def test_a_server_whose_every_start_fails_does_what_the_page_says(
    server: Server,
    tmp_path: Path,
    results: dict[Server, Row],
    request: pytest.FixtureRequest,
) -> None:
    if reason := starts.missing(frameworks()[server.framework], server.command):
        pytest.skip(reason)
    results[server] = outcome(server, tmp_path)
    if not request.config.getoption("--write-table"):
        assert facts(results[server]) in map(facts, TABLE.rows())


def test_the_page_holds_what_was_found(
    request: pytest.FixtureRequest, results: dict[Server, Row]
) -> None:
    if request.config.getoption("--write-table") and len(results) == len(SERVERS):
        TABLE.write([results[server] for server in SERVERS])
    assert [row[1:3] for row in TABLE.rows()] == [
        (server.framework, f"`{server.command}`") for server in SERVERS
    ]


@pytest.mark.long
class TestTheWayRound:
    """A migration by a command before the server, as the page has it."""

    @pytest.fixture
    def deployment(self, tmp_path: Path) -> Deployment:
        return Deployment(tmp_path, frameworks()["FastAPI"])

    @pytest.fixture
    def command(self) -> str:
        (found,) = re.findall(r"^ *(automigrator .+ run && .+)$", starts.PAGE.read_text(), re.M)
        return f"sh -c '{found}'"

    def test_it_ends_with_a_code_that_says_so_and_no_server_starts(
        self, deployment: Deployment, command: str
    ) -> None:
        deployment.deploy(starts.BROKEN)
        with deployment.start(command) as start:
            assert start.process.wait(starts.LIMIT_S) == FAILED
            assert "Uvicorn" not in start.printed()

    def test_workers_that_only_check_serve_what_it_has_migrated(
        self, deployment: Deployment, command: str
    ) -> None:
        deployment.deploy("pass")
        with deployment.start(command) as start:
            assert start.first_answer() == starts.HEAD


@pytest.mark.long
class TestAStartThatTakesLong:
    SLOW = "import time; time.sleep(12)"
    LOWERED = """
from sanic.worker.manager import WorkerManager
from sanic.worker.process import WorkerProcess
WorkerManager.THRESHOLD = WorkerProcess.THRESHOLD = 80
"""

    @pytest.mark.parametrize(
        "server",
        [
            Server("uvicorn", "FastAPI", f"{UVICORN} --workers 2", ""),
            Server("gunicorn", "FastAPI", f"{GUNICORN} --timeout 1", ""),
            Server("granian", "FastAPI", f"{GRANIAN} --workers 2", ""),
            Server("aiohttp", "Aiohttp", "python main.py", ""),
            Server("faststream", "FastStream", "faststream run main:app --workers 2", ""),
            Server("taskiq", "Taskiq", f"{TASKIQ} --workers 2", ""),
            Server("arq", "Arq", "arq main.WorkerSettings", ""),
            Server("sanic", "Sanic", f"{SANIC} --workers 2", ""),
        ],
        ids=str,
    )
    def test_a_server_that_waits_serves_in_the_end(self, server: Server, tmp_path: Path) -> None:
        framework = frameworks()[server.framework]
        if reason := starts.missing(framework, server.command):
            pytest.skip(reason)
        before = self.LOWERED if server.package == "sanic" else ""
        deployment = Deployment(tmp_path, framework, before=before)
        deployment.deploy(self.SLOW)
        with (
            deployment.services(),
            deployment.asked(),
            deployment.start(f"RUN_MIGRATIONS=1 {server.command}") as start,
        ):
            assert start.first_answer() == starts.HEAD, start.printed()

    def test_hypercorn_ends_it(self, tmp_path: Path) -> None:
        config = pytest.importorskip("hypercorn.config", reason="not installed: hypercorn")
        assert config.Config().startup_timeout == 60
        (tmp_path / "hypercorn.toml").write_text("startup_timeout = 4\n", "utf-8")
        deployment = Deployment(tmp_path, frameworks()["FastAPI"])
        deployment.deploy(self.SLOW)
        with deployment.start(f"RUN_MIGRATIONS=1 {HYPERCORN} --config hypercorn.toml") as start:
            assert start.process.wait(starts.LIMIT_S) == 0
            assert "LifespanTimeoutError" in start.printed()
        assert not alembic_projects.heads(deployment.url)

    def test_sanic_ends_it_in_a_worker(self, tmp_path: Path) -> None:
        process = pytest.importorskip("sanic.worker.process", reason="not installed: sanic")
        assert process.WorkerProcess.THRESHOLD == 300  # tenths of a second
        sanic = frameworks()["Sanic"]
        alone = sanic.source.replace("@app.main_process_start\n", "")
        assert alone != sanic.source
        framework = dataclasses.replace(sanic, source=alone)
        deployment = Deployment(tmp_path, framework, before=self.LOWERED)
        deployment.deploy(self.SLOW)
        with deployment.start(f"RUN_MIGRATIONS=1 {SANIC} --workers 2") as start:
            assert start.process.wait(starts.LIMIT_S) == -signal.SIGKILL
            assert "failed to come online in the allowed time" in start.printed()
        assert not alembic_projects.heads(deployment.url)
