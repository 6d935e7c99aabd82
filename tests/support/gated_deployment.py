"""An application behind the gate, under a real server, in processes of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from support import alembic_projects as projects

UVICORN = "uvicorn application:gate --port {port} --log-level warning"

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
BROKEN = "op.execute('INSERT INTO absent VALUES (1)')"


class Deployment:
    """An application and its database, on a port of its own."""

    def __init__(self, root: Path, upgrade: str) -> None:
        self.root, self.go, self.output = root, root / "go", root / "output"
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
        self, options: str = "details=True", *, command: str = UVICORN, **environment: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Context manager: the server of that command, a module of Python; killed at the end."""
        text = APPLICATION.replace("URL", repr(self.url)).replace("OPTIONS", options)
        text = text.replace("CONFIG", repr(str(self._project.config)))
        (self.root / "application.py").write_text(text)
        arguments = command.format(port=self.port).split()
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.root,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def printed(self) -> str:
        """What the processes have printed so far."""
        return self.output.read_text(errors="replace")

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
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
            except (OSError, http.client.HTTPException):
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
