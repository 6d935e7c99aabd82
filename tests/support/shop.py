"""The shop of `examples/shop`, copied into a folder and called as a shell there would call it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"
LIMIT_S = 90.0


def without_settings() -> dict[str, str]:
    """The environment of a shell that has this Python's programs, and no setting of ours."""
    ours = ("RUN_MIGRATIONS", "AUTOMIGRATOR_", "DATABASE_URL", "MIGRATION_URL")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class Shop:
    """A copy of the example and its environment; its releases are deployed one by one."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = Path(shutil.copytree(EXAMPLE, folder))
        self.environment = {**without_settings(), "DATABASE_URL": url}

    def deploy(self, release: int) -> None:
        """Add the revisions of a release."""
        for file in (self.folder / "releases" / str(release)).glob("*.py"):
            shutil.copy(file, self.folder / "migrations" / "versions")

    def begun(self, command: Sequence[str], **more: str) -> subprocess.Popen[str]:
        """A process in a session of its own, both of its outputs in one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: Sequence[str], **more: str) -> tuple[int, str]:
        """The exit code of a command, and what it printed."""
        process = self.begun(command, **more)
        printed, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, printed

    @contextmanager
    def served(self, command: Sequence[str], **more: str) -> Iterator[Served]:
        """Context manager: the shop, served by this command, which is ended at the end."""
        process = self.begun(command, **more)
        try:
            yield Served(process, _port(command))
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


class Served:
    """A server and its port."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> tuple[int, Any]:
        """What it answers; 0 where nobody listens."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=LIMIT_S) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)
        except URLError:
            return 0, None

    def answer(self, path: str) -> tuple[int, Any]:
        """What it answers as soon as it listens."""
        ends = time.monotonic() + LIMIT_S
        while (found := self.get(path))[0] == 0:
            assert self.process.poll() is None and time.monotonic() < ends, "it does not serve"
            time.sleep(0.05)
        return found


def free_port() -> str:
    """A port that nobody listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _port(command: Sequence[str]) -> int:
    return int(command[command.index("--port") + 1])
