"""The command `automigrator` in processes of its own: at pipes, and at a terminal.

They are forked from a server that has imported what the command needs: to start Python and import
it takes a second each time.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyte
from support.json_schema import misfit
from support.starters import FORKSERVER

from automigrator.__main__ import main

LIMIT_S = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; it is as the schema says."""
        found: dict[str, Any] = json.loads(self.out)
        assert not (wrong := misfit(found)), wrong
        return found


@dataclass
class Shell:
    """Calls the command in a folder, with variables of its own beside this process's."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, **more: str) -> Ended:
        """Call it at pipes, and wait for its end."""
        return self.begun(*arguments, **more).ended()

    def begun(self, *arguments: str, closed: bool = False, **more: str) -> Piped:
        """Call it at pipes, and do not wait; `closed`: nobody reads them."""
        return Piped(arguments, self.folder, self._environment(more), closed)

    def terminal(self, *arguments: str, columns: int = 100, **more: str) -> Terminal:
        """Call it at a terminal."""
        environment = self._environment({"TERM": "xterm-256color", **more})
        return Terminal(arguments, self.folder, environment, columns)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not _is_told(name)}
        return {**mine, **self.variables, **more}


class Piped:
    """A command whose output is read through pipes."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        closed: bool,
    ) -> None:
        ends = [os.pipe(), os.pipe()]
        nothing = os.open(os.devnull, os.O_RDONLY)
        files = [nothing, *(write for _, write in ends)]
        self._process = _started(arguments, folder, environment, files, terminal=False)
        self._texts = [bytearray(), bytearray()]
        self._readers = [
            threading.Thread(target=_read, args=(read, text), daemon=True)
            for (read, _), text in zip(ends, self._texts, strict=True)
            if not closed
        ]
        for reader in self._readers:
            reader.start()
        for read, _ in ends if closed else ():
            os.close(read)

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text on stderr."""
        ends = time.monotonic() + LIMIT_S
        while text.encode() not in bytes(self._texts[1]):
            assert time.monotonic() < ends and self._process.is_alive(), self._texts
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def ended(self) -> Ended:
        """Wait for its end."""
        code = _code(self._process)
        for reader in self._readers:
            reader.join(LIMIT_S)
        return Ended(code, *(bytes(text).decode() for text in self._texts))


class Terminal:
    """A command at a pseudo-terminal, and what a person sees there."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], columns: int
    ) -> None:
        self.seen: list[str] = []
        """Every picture, in order."""
        self.raw = ""
        self._screen = pyte.Screen(columns, 40)
        self._stream = pyte.Stream(self._screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._process = _started(arguments, folder, environment, [theirs] * 3, terminal=True)

    @property
    def screen(self) -> str:
        """What is on the screen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def wait_for(self, text: str) -> None:
        """Read until a text is on the screen."""
        ends = time.monotonic() + LIMIT_S
        while text not in self.screen:
            assert time.monotonic() < ends and self._read(), f"no {text!r} in:\n{self.screen}"

    def type(self, text: str) -> None:
        os.write(self._ours, f"{text}\n".encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._ours, b"\x03")

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def ended(self) -> int:
        """Read to the end; returns the exit code, negative for a signal."""
        while self._read():
            pass
        os.close(self._ours)
        return _code(self._process)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], LIMIT_S)
        try:
            text = os.read(self._ours, 65536).decode(errors="replace") if ready else ""
        except OSError:  # nobody has it open any more
            text = ""
        self.raw += text
        self._stream.feed(text)
        self.seen.append(self.screen)
        return bool(text)


def _started(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    files: Sequence[int],
    *,
    terminal: bool,
) -> Any:
    """Start it with these files as stdin, stdout and stderr, which are closed here."""
    passed = [Connection(os.dup(each)) for each in files]
    given = (tuple(arguments), folder, dict(environment), passed, terminal)
    process = FORKSERVER.Process(target=_called, args=given, daemon=True)
    process.start()
    for descriptor in set(files):
        os.close(descriptor)
    for each in passed:
        each.close()
    return process


def _called(
    arguments: tuple[str, ...],
    folder: Path,
    environment: dict[str, str],
    files: list[Connection],
    terminal: bool,
) -> None:
    # a shell that starts the tests in the background has it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if terminal:
        os.setsid()
    for number, each in enumerate(files):
        os.dup2(each.fileno(), number)
        each.close()
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["automigrator", *arguments]
    sys.exit(main())


def _code(process: Any) -> int:
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the command did not end within {LIMIT_S} s")
    return int(process.exitcode)


def _read(descriptor: int, into: bytearray) -> None:
    while data := os.read(descriptor, 65536):
        into += data
    os.close(descriptor)


def _is_told(name: str) -> bool:
    """Whether a variable of this process would change what the command prints."""
    return name.startswith(("AUTOMIGRATOR_", "RUN_")) or name in (
        *("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "DATABASE_URL"),
        *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"),
    )
