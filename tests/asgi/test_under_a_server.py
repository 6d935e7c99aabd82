"""The gate under a real server, in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects as projects

APPLICATION = """
import asyncio, os
from automigrator import Migrator, Target
from automigrator.asgi import Gate
from fastapi import FastAPI
from contextlib import asynccontextmanager

@asynccontextmanager
async def lifespan(app):
    if "SLOW" in os.environ:
        await asyncio.sleep(600)
    if "BROKEN" in os.environ:
        raise RuntimeError("no cache")
    yield {"greeting": "hello"}

app = FastAPI(lifespan=lifespan)

@app.get("/users")
async def users() -> list[str]:
    return ["one"]

mode = None if "RUN_MIGRATIONS" in os.environ else "migrate"
gate = Gate(app, Migrator(Target(URL, CONFIG), mode=mode), OPTIONS)
"""

WAIT = "import pathlib, time\nwhile not pathlib.Path(GO).exists():\n    time.sleep(0.01)"
BURN = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end:\n    pass"
BROKEN = "op.execute('INSERT INTO absent VALUES (1)')"


class Deployment:
    """An application under uvicorn, on a port of its own."""

    def __init__(self, root: Path, upgrade: str) -> None:
        self.root, self.go = root, root / "go"
        text = upgrade.replace("GO", repr(str(self.go)))
        self.url = f"sqlite+aiosqlite:///{root / 'app.db'}"
        self._project = projects.project(
            root,
            "generic",
            self.url,
            revisions=lambda folder: projects.revision(folder, "r1", None, upgrade=text),
        )
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port: int = server.getsockname()[1]

    @contextmanager
    def started(
        self, options: str = "details=True", **environment: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        text = APPLICATION.replace("URL", repr(self.url)).replace("OPTIONS", options)
        text = text.replace("CONFIG", repr(str(self._project.config)))
        (self.root / "application.py").write_text(text)
        arguments = ["-m", "uvicorn", "application:gate", "--port", str(self.port)]
        process = subprocess.Popen(
            [sys.executable, *arguments, "--log-level", "warning"],
            cwd=self.root,
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def get(self, path: str, accept: str = "*/*") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def state(self) -> Any:
        return json.loads(self.get("/.automigrator/state")[1])

    def until(self, path: str, status: int) -> bytes:
        """The first answer with that status; until the server binds there is none."""
        while True:
            try:
                found, body = self.get(path)
            except OSError:
                found = 0
            if found == status:
                return body
            time.sleep(0.02)

    @contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """Context manager: an event stream that has begun, and stays open."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request("GET", "/.automigrator/events")
            answer = connection.getresponse()
            assert answer.readline() == b"retry: 1000\n"
            yield answer


@pytest.fixture
def deployed(tmp_path: Path) -> Callable[[str], Deployment]:
    return lambda upgrade: Deployment(tmp_path, upgrade)


Deployed = Callable[[str], Deployment]


def test_it_is_alive_and_not_ready_until_the_application_serves(deployed: Deployed) -> None:
    deployment = deployed(WAIT)
    with deployment.started():
        deployment.until("/livez", 200)
        status, body = deployment.get("/readyz")
        assert (status, json.loads(body)["ready"]) == (503, False)
        assert deployment.get("/users")[0] == 503
        deployment.go.touch()
        deployment.until("/readyz", 200)
        assert deployment.get("/users") == (200, b'["one"]')


@pytest.mark.parametrize(
    ("options", "environment", "code"),
    [
        pytest.param('on_failure="exit"', {}, 5, id="a-migration"),
        pytest.param("", {"BROKEN": "1"}, 3, id="the-application"),
    ],
)
def test_a_start_that_fails_ends_the_process_with_a_code_of_its_own(
    deployed: Deployed, options: str, environment: dict[str, str], code: int
) -> None:
    deployment = deployed("pass" if environment else BROKEN)
    with deployment.started(options, **environment) as process:
        _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert (b"no cache" if environment else b"no such table: absent") in printed


def test_sigterm_ends_a_migration_that_somebody_watches(deployed: Deployed) -> None:
    deployment = deployed(WAIT)
    with deployment.started() as process:
        deployment.until("/livez", 200)
        with deployment.stream() as stream:
            process.send_signal(signal.SIGTERM)
            # the server waits for what is open: the end of the run ends it
            told = [json.loads(x[6:]) for x in stream.read().splitlines() if x[:1] == b"d"]
        process.wait(timeout=60)
    assert told[-1]["phase"] == "stopped"
    assert projects.heads(deployment.url.replace("+aiosqlite", "")) == set()


@pytest.mark.parametrize(
    ("phase", "upgrade", "options", "environment"),
    [
        pytest.param("failed", BROKEN, "details=True", {}, id="failed"),
        pytest.param("application", "pass", "details=True", {"SLOW": "1"}, id="application"),
        pytest.param("pending", "pass", "development=True", {"RUN_MIGRATIONS": ""}, id="pending"),
    ],
)
def test_sigterm_ends_what_somebody_watches_in_every_phase(
    deployed: Deployed, phase: str, upgrade: str, options: str, environment: dict[str, str]
) -> None:
    """A page that is open must not keep a server that is told to end."""
    deployment = deployed(upgrade)
    with deployment.started(options, **environment) as process:
        deployment.until("/livez", 200)
        while deployment.state()["phase"] != phase:
            time.sleep(0.02)
        with deployment.stream() as stream:
            process.send_signal(signal.SIGTERM)
            told = [json.loads(x[6:]) for x in stream.read().splitlines() if x[:1] == b"d"]
        process.wait(timeout=60)
    assert told[-1]["phase"] == "stopped"
    assert told[-1]["reason"].startswith("stopped by SIGTERM ")


@pytest.mark.long
def test_it_answers_while_a_revision_burns_the_processor(deployed: Deployed) -> None:
    deployment = deployed(BURN)
    answers = 0
    with deployment.started():
        deployment.until("/livez", 200)
        while deployment.get("/readyz")[0] == 503:
            assert deployment.get("/livez")[0] == 200
            answers += 1
    assert answers > 10
