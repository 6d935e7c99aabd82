"""A page of the docs, played: its files are written, its commands typed into one shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

_STEP = re.compile(
    r"```python\n(?P<code># (?P<file>[\w./-]+)\n.*?)```"
    r"|```sh\n(?P<commands>.*?)```(?:\n\n```text\n(?P<printed>.*?)```)?",
    re.DOTALL,
)
_END = "the end of a step"


class Step(NamedTuple):
    """What is typed, and what the page says that it prints; None where it shows nothing."""

    commands: str
    said: str | None
    printed: str


class Session:
    """One shell, as a person has it open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def type(self, commands: str) -> str:
        """What they print."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{commands}\necho '{_END}'\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip() == _END:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell has ended: {lines}")


@contextmanager
def session(folder: Path, environment: Mapping[str, str]) -> Iterator[Session]:
    """Context manager: a shell in a folder; whatever it started ends with it."""
    process = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield Session(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def played(
    page: Path,
    folder: Path,
    environment: Mapping[str, str],
    shown: Callable[[str], str],
    typed: Callable[[str], str] = str,
    *,
    write: bool = False,
) -> list[Step]:
    """Play a page in a folder.

    `shown` makes what was printed as the page shows it, `typed` what is typed of what it says.
    Commands that install are left out. `write`: put what was printed into the page.
    """
    text, steps = page.read_text("utf-8"), []
    with session(folder, environment) as typing:
        for step in _STEP.finditer(text):
            if step["file"]:
                (folder / step["file"]).write_text(step["code"], "utf-8")
            elif "pip install" not in step["commands"]:
                printed = shown(typing.type(typed(step["commands"])))
                steps.append(Step(step["commands"], step["printed"], printed))
    if write:
        left = iter(steps)

        def rewritten(step: re.Match[str]) -> str:
            if step["commands"] is None or "pip install" in step["commands"]:
                return step[0]
            done = next(left)
            answer = "" if step["printed"] is None else f"\n\n```text\n{done.printed}```"
            return f"```sh\n{step['commands']}```{answer}"

        page.write_text(_STEP.sub(rewritten, text), "utf-8")
        return [step if step.said is None else step._replace(said=step.printed) for step in steps]
    return steps


def compared(text: str) -> list[str]:
    """Its lines without how long something took, and each only once where it is told again."""
    text = re.sub(r"\b\d+(\.\d+)? (s|KB|bytes)\b", r"N \2", text)
    text = re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?", "DATE", text)
    again = re.compile(r"(?!.*waiting for).*, N s so far$")  # a heartbeat
    return [line for line, _ in groupby(text.splitlines()) if not again.match(line)]
