"""Starts of one application under the usual servers, and what a person sees of each.

As a script it writes the table and the texts of `docs/what-you-see.md`; a server that is not
installed is left out.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support import alembic_projects  # noqa: E402 - found by the line above

PAGE = ROOT / "docs" / "what-you-see.md"

BEGIN = "<!-- written by `python tests/support/server_starts.py --write-page`: begin -->"
END = "<!-- end -->"

LIMIT_S = 90.0

SITUATIONS = ("migrates", "nothing to do", "waits", "fails")

PRINTED = {"Quart (Hypercorn)": 3, "Sanic": 2}
"""How often a server prints an exception by itself."""

SERVERS: Mapping[str, tuple[str, str]] = {
    "a plain script": ("alembic", "served_application.py"),
    "uvicorn": ("uvicorn", "-m uvicorn served_application:asgi --port {port}"),
    "gunicorn": (
        "uvicorn_worker",
        "-m gunicorn served_application:asgi -k uvicorn_worker.UvicornWorker -b 127.0.0.1:{port}",
    ),
    "aiohttp": ("aiohttp", "served_application.py {port}"),
    "Quart (Hypercorn)": ("hypercorn", "-m hypercorn served_application:quart -b 127.0.0.1:{port}"),
    "Sanic": (
        "sanic",
        "-m sanic served_application:sanic --single-process --port {port} --no-motd",
    ),
}
"""From a name to the module that it needs, and the arguments of Python."""

BROKEN = 'op.execute("SELECT * FROM absent")'


def installed() -> list[str]:
    """The names of the servers that are installed here."""
    return [name for name, (module, _) in SERVERS.items() if find_spec(module) is not None]


class Deployment:
    """A folder with a SQLite database and revisions, and starts of the application on it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite+aiosqlite:///{folder / 'app.db'}"
        project = alembic_projects.project(
            folder, "generic", self.url, revisions=lambda at: alembic_projects.linear(at, 2)
        )
        self.config, self.versions = project.config, project.versions

    def deploy(self, upgrade: str) -> None:
        """Add a third revision."""
        alembic_projects.revision(self.versions, "r3", "r2", upgrade=upgrade)

    @contextmanager
    def start(self, server: str) -> Iterator[list[str]]:
        """Context manager: a start, which is ended once it serves; yields its lines at the end."""
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        lines: list[str] = []
        environment = {
            **os.environ,
            "AUTOMIGRATOR_URL": self.url,
            "AUTOMIGRATOR_CONFIG": str(self.config),
        }
        environment.pop("RUN_MIGRATIONS", None)
        command = [sys.executable, *SERVERS[server][1].format(port=port).split()]
        with subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield lines
                _await_serving(process, port)
                lines += _end(process).splitlines()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def lines(self, server: str) -> list[str]:
        """What a start prints."""
        with self.start(server) as lines:
            pass
        return lines


def _end(process: subprocess.Popen[str]) -> str:
    """What a server has printed when it has ended."""
    for limit_s in (20, LIMIT_S):
        process.send_signal(signal.SIGTERM)
        # Sanic ignores a signal that comes at the moment in which it begins to serve
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=limit_s)[0]
    raise AssertionError("a server does not end")


def _await_serving(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))) as asking:
            asking.settimeout(LIMIT_S)
            asking.send(b"GET / HTTP/1.0\r\n\r\n")
            asking.recv(1)  # gunicorn listens before its worker has begun
            return
        time.sleep(0.05)


def seen(server: str, folder: Path, wait_s: float = 25.0) -> dict[str, list[str]]:
    """What starts print that migrate, have nothing to do, wait for a leader, and fail."""
    found: dict[str, list[str]] = {}
    deployment = Deployment(folder)
    found["migrates"] = deployment.lines(server)
    found["nothing to do"] = deployment.lines(server)
    found["waits"] = while_another_migrates(deployment, server, wait_s)
    deployment = Deployment(folder / "failing")
    deployment.deploy(BROKEN)
    found["fails"] = deployment.lines(server)
    return found


def while_another_migrates(deployment: Deployment, server: str, seconds: float) -> list[str]:
    """What a start prints while another process migrates for so long."""
    begun = Path(deployment.url.partition(":///")[2]).with_name("begun")
    slow = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep({seconds})"
    deployment.deploy(slow)
    with deployment.start("a plain script"):
        deadline = time.monotonic() + LIMIT_S
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return deployment.lines(server)


def written(line: str, folder: Path) -> str:
    """A line without what differs between two runs."""
    for before, after in (
        (str(folder), "/srv/app"),
        (str(ROOT), "/srv/automigrator"),
        (sys.prefix, "/srv/venv"),
        (sys.base_prefix, "/usr"),
        (str(Path.home()), "/home/app"),
    ):
        line = line.replace(before, after)
    line = re.sub(r"process \d+ on \S+ since [\d:]+", "process 4711 on web-1 since 07:00:00", line)
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?", "2026-03-01 07:00:00", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", line)
    return re.sub(r"\[\d{2,7}\]", "[4711]", line).rstrip()


def page(found: Mapping[str, Mapping[str, list[str]]]) -> str:
    """The table and the texts of the page."""
    rows = ["| server | " + " | ".join(SITUATIONS) + " |", "|---|" + "---|" * len(SITUATIONS)]
    rows += [
        f"| {server} | " + " | ".join(str(len(each[what])) for what in SITUATIONS) + " |"
        for server, each in found.items()
    ]
    parts = ["\n".join(rows)]
    for server, each in found.items():
        parts.append(f"## {server[0].upper()}{server[1:]}")
        for what in ("migrates", "waits", "fails"):
            parts.append(f"A start that {what}:\n\n```text\n" + "\n".join(each[what]) + "\n```")
    return "\n\n".join(parts)


def main() -> None:
    found: dict[str, dict[str, list[str]]] = {}
    for server in installed():
        with tempfile.TemporaryDirectory() as folder:
            found[server] = {
                what: [written(line, Path(folder)) for line in lines]
                for what, lines in seen(server, Path(folder)).items()
            }
        counts = " | ".join(str(len(lines)) for lines in found[server].values())
        print(f"| {server} | {counts} |", flush=True)
    if "--write-page" in sys.argv:
        head, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(f"{head}{begin}\n{page(found)}\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
