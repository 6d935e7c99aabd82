"""The command `automigrator` in processes of its own: at pipes, and at a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pyte

LIMIT_S = 60.0
COMMAND = (sys.executable, "-m", "automigrator")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass
class Shell:
    """Calls the command in a folder, with variables of its own beside this process's."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if not _is_told(name)}
        return {**mine, **self.variables, **more}

    def __call__(self, *arguments: str, **more: str) -> Ended:
        """Call it at pipes and wait for its end."""
        ended = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def begun(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Call it at pipes, and do not wait."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminal(self, *arguments: str, columns: int = 100, **more: str) -> Terminal:
        """Call it at a terminal."""
        return Terminal(arguments, self.folder, self.environment(more), columns)


class Terminal:
    """A command at a pseudo-terminal, and what a person sees there."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: dict[str, str], columns: int
    ) -> None:
        self.seen: list[str] = []
        self.raw = ""
        self._screen = pyte.Screen(columns, 40)
        self._stream = pyte.Stream(self._screen)
        self._process = pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], *arguments],
            cwd=str(folder),
            env={"TERM": "xterm-256color", **environment},
            encoding="utf-8",
            dimensions=(40, columns),
            timeout=LIMIT_S,
        )
        self._process.logfile_read = self

    def write(self, text: str) -> None:
        self.raw += text
        self._stream.feed(text)
        self.seen.append(self.screen)

    def flush(self) -> None: ...

    @property
    def screen(self) -> str:
        """What is on the screen now."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def wait_for(self, text: str) -> None:
        """Read until a text is somewhere on the screen."""
        ends = time.monotonic() + LIMIT_S
        while text not in self.screen:
            assert time.monotonic() < ends, self.screen
            self._process.expect([".+", pexpect.EOF], timeout=LIMIT_S)
            if not self._process.isalive() and text not in self.screen:
                self._process.expect(pexpect.EOF)
                break
        assert text in self.screen, self.screen

    def type(self, text: str) -> None:
        self._process.sendline(text)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.sendintr()

    def kill(self, number: int = signal.SIGTERM) -> None:
        self._process.kill(number)

    def ended(self) -> int:
        """Wait for the end; returns the exit code, negative for a signal."""
        self._process.expect(pexpect.EOF)
        self._process.close()
        if self._process.signalstatus is not None:
            return -int(self._process.signalstatus)
        return int(self._process.exitstatus or 0)


def _is_told(name: str) -> bool:
    """Whether a variable of this process would change what the command prints."""
    return name.startswith(("AUTOMIGRATOR_", "RUN_")) or name in (
        *("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "DATABASE_URL"),
        *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"),
    )
