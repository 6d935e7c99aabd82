"""Starts real processes with the code of one release: this one, or the one before the move."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compatibility.fork_server import WAITING, Ended, Start
from support.canaries import WATCH

BEFORE = "14c57aebf3b66959c1047d2cf21500505e25de36"
"""The last commit with the old layout: what it stores must be understood."""

LIMIT_S = 60.0
_REPOSITORY = Path(__file__).parents[2]
_SERVE = "import sys; from compatibility.fork_server import serve; serve(sys.argv[1])"


class Process:
    """One start in a process of its own."""

    def __init__(self, pipe: Connection, start: Start) -> None:
        self._pipe = pipe
        self._over = False
        self.pid = self._word()
        pipe.send(start)

    def await_waiting(self) -> None:
        """Return when it waits for the lock."""
        assert (word := self._word()) == WAITING, word

    def ended(self) -> Ended:
        """How it ended. Fails when it was killed, or raised anything but a MigrationError."""
        word = self._last_word()
        assert isinstance(word, Ended), word or "a process was killed before its end"
        WATCH.look("process", word)
        return word

    def await_death(self) -> None:
        """Return when it was killed. Fails when it came to its end."""
        word = self._last_word()
        assert word is None, f"it was not killed: {word}"

    def kill(self) -> None:
        """`kill -9`, and its death is awaited."""
        if not self._over:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._last_word()

    def close(self) -> None:
        self.kill()
        self._pipe.close()

    def _last_word(self) -> Any:
        while (word := self._word()) == WAITING:
            pass
        self._over = True
        return word

    def _word(self) -> Any:
        """What it says next; None when it is dead."""
        assert wait([self._pipe], LIMIT_S), f"a process said nothing for {LIMIT_S:g} s"
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return None


class Release:
    """The code of one release, ready to start an application with."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)

    @contextmanager
    def begun(self, start: Start) -> Iterator[Process]:
        """Context manager: a process that starts now, and does not outlive the block."""
        process = Process(Client(self._address, "AF_UNIX"), start)
        try:
            yield process
        finally:
            process.close()

    def run(self, start: Start) -> Ended:
        """Run a start to its end."""
        with self.begun(start) as process:
            return process.ended()

    def killed(self, start: Start) -> None:
        """Run a start that dies. Fails when it does not."""
        with self.begun(start) as process:
            process.await_death()


@contextmanager
def serving(code: Path = _REPOSITORY) -> Iterator[Release]:
    """Context manager: the release whose repository is at `code`."""
    sources = [code / "src", *sorted(code.glob("plugins/*/src"))]
    paths = [*map(str, sources), str(_REPOSITORY / "tests")]
    # a folder of its own: the name of a socket must be short
    with TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        address = Path(folder) / "socket"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE, str(address)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            files = process.stdout.readline().split()
            assert files, f"it did not start: {Path(folder, 'log').read_text()}"
            for file in files:
                assert any(Path(file).is_relative_to(each) for each in sources), file
            yield Release(address)
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(LIMIT_S)


def extract(folder: Path) -> str:
    """Put the old code into a folder; returns why that cannot be done, or nothing."""
    archive = folder / "archive.tar"
    command = ["git", "archive", "-o", str(archive), BEFORE, "src", "plugins"]
    try:
        ended = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, check=False)
    except FileNotFoundError:
        return "there is no git on this machine"
    if ended.returncode != 0:
        return (
            f"commit {BEFORE[:7]}, whose code stores what is read here, is not in the history: run "
            "`git fetch --unshallow`, or use a full clone"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return ""
