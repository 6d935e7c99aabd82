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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support import alembic_projects  # noqa: E402 - found by the line above

PAGE = ROOT / "docs" / "what-you-see.md"

LIMIT_S = 90.0

SERVERS: Mapping[str, tuple[str, str]] = {
    "a plain script": ("alembic", "application.py"),
    "uvicorn": ("uvicorn", "-m uvicorn application:asgi --port {port}"),
    "gunicorn": (
        "uvicorn_worker",
        "-m gunicorn application:asgi -k uvicorn_worker.UvicornWorker -b 127.0.0.1:{port}",
    ),
    "aiohttp": ("aiohttp", "application.py {port}"),
    "Quart (Hypercorn)": ("hypercorn", "-m hypercorn application:quart -b 127.0.0.1:{port}"),
    "Sanic": (
        "sanic",
        "-m sanic application:sanic --single-process --port {port} --no-motd",
    ),
}
"""From a name to the module that it needs, and the arguments of Python."""

SLOW = "import time\ntime.sleep({seconds})"
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
                process.send_signal(signal.SIGTERM)
                lines += process.communicate(timeout=LIMIT_S)[0].splitlines()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def lines(self, server: str) -> list[str]:
        """What a start prints."""
        with self.start(server) as lines:
            pass
        return lines


def _await_serving(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))) as asking:
            asking.settimeout(LIMIT_S)
            asking.send(b"GET / HTTP/1.0\r\n\r\n")
            asking.recv(1)  # gunicorn listens before its worker has begun
            return
        time.sleep(0.05)


def seen(server: str, folder: Path, wait_s: float = 12.0) -> dict[str, list[str]]:
    """What starts print that have nothing to do, migrate, wait for a leader, and fail."""
    found: dict[str, list[str]] = {}
    deployment = Deployment(folder)
    found["migrates"] = deployment.lines(server)
    found["nothing to do"] = deployment.lines(server)
    deployment.deploy(SLOW.format(seconds=wait_s))
    with deployment.start("a plain script"):
        time.sleep(min(wait_s / 3, 4.0))
        found["waits"] = deployment.lines(server)
    deployment = Deployment(folder / "failing")
    deployment.deploy(BROKEN)
    found["fails"] = deployment.lines(server)
    return found


def ours(lines: Sequence[str]) -> list[str]:
    """Those lines that automigrator wrote, or that are about its error."""
    return [line for line in lines if "automigrator" in line]


def written(line: str, folder: Path) -> str:
    """A line without what differs between two runs."""
    line = line.replace(str(folder), "/srv/app").replace(str(ROOT), "/srv/automigrator")
    line = line.replace(sys.prefix, "/srv/venv").replace(sys.base_prefix, "/usr")
    line = re.sub(r"process \d+ on \S+ since [\d:]+", "process 4711 on web-1 since 07:00:00", line)
    return re.sub(r"\b\d{3,7}\b(?= \(|\])|(?<=process \[)\d+", "4711", line)


def main() -> None:
    counts, texts = [], {}
    for server in installed():
        with tempfile.TemporaryDirectory() as folder:
            found = seen(server, Path(folder))
            texts[server] = {
                what: [written(line, Path(folder)) for line in lines]
                for what, lines in found.items()
            }
        counts.append(
            f"| {server} | " + " | ".join(str(len(each)) for each in found.values()) + " |"
        )
        print(counts[-1], flush=True)
    if sys.argv[1:]:
        import json

        Path(sys.argv[1]).write_text(json.dumps(texts, indent=1))


if __name__ == "__main__":
    main()
