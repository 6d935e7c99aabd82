"""What the command prints: its answer on stdout, all else on stderr, whoever reads along."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

import click
from rich.console import Console, RenderableType
from rich.text import Text

from automigrator.cli.options import Options
from automigrator.exits import Exit
from automigrator.frozen import Frozen, as_json
from automigrator.printable import escaped_lines
from automigrator.support.redaction import hide_secrets, said
from automigrator.support.secrets import masked, scrubbed

VERSION = 1
"""Of the JSON document: it changes where a key goes or means something else."""

UNREAD_S = 2.0
"""Seconds for which an answer or a question waits for somebody to read the lines before it."""

_UNREAD_LIMIT = 10_000
"""Texts that are kept for a reader; what comes on top is lost."""

_TYPED = {"await migrator.clear()": "automigrator clear"}
_OPTIONS = {
    "disconnect_others=True": "--disconnect-others",
    "any_heads=True": "--any-heads",
    "folder=": "--folder",
}

NARROW = 72
"""Columns below which a table is harder to read than lines."""

_SHORTEST = 5
"""Characters from which on the value of `-x` is masked by itself: `a` is in every word."""


class Answer(Frozen):
    """What a command has to say."""

    value: object
    """For `--json`: what is a value of ours, or JSON types."""
    text: str
    """For a person, and for programs that read lines."""
    code: Exit = Exit.OK
    table: Callable[[Callable[[object], Text]], RenderableType] | None = None
    """In the place of the text on a terminal that is wide enough; made of cells without secrets."""


class Stream:
    """A file that text is written to as long as somebody reads it: a closed pipe is no error."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._encoding = getattr(sys.stderr, "encoding", None) or self.encoding
        self.encoding = self._encoding

    def write(self, text: str) -> int:
        left = text.encode(self._encoding, self.errors)
        while left and self._descriptor >= 0:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:  # a closed pipe, a terminal that is gone
                self._descriptor = -1
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return self._descriptor >= 0 and os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor


class Unhurried(Stream):
    """A stream that a thread writes: where nobody reads, a migration does not wait for it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._texts: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._read = True
        threading.Thread(target=self._write_all, daemon=True).start()

    def write(self, text: str) -> int:
        if self._texts.qsize() < _UNREAD_LIMIT:
            self._texts.put(text)
        return len(text)

    def drain(self) -> None:
        """Wait until all is written; where nobody reads, for a while, and only once."""
        if self._read:
            written = threading.Event()
            self._texts.put(written)
            self._read = written.wait(UNREAD_S)

    def _write_all(self) -> None:
        while True:
            text = self._texts.get()
            if isinstance(text, str):
                super().write(text)
            else:
                text.set()


class Output:
    """Where one command prints; stdout holds its answer alone, whatever env.py prints there."""

    def __init__(self, options: Options, command: str) -> None:
        self._options, self._command = options, command
        self.secrets = tuple(_of_x(options.x))
        self._stdout, self._stderr = Stream(_kept_apart()), Unhurried(2)
        self.asking = False
        """Whether a question is open, so that nothing has been done yet."""
        self.console = _console(self._stdout)
        self.errors = _console(self._stderr)

    def flush(self) -> None:
        """Let the lines so far be written before something else is."""
        self._stderr.drain()

    close = flush

    @property
    def live(self) -> bool:
        """Whether stderr is a terminal that can be written to again and again."""
        return self._stderr.isatty() and not self.errors.is_dumb_terminal

    @property
    def asks(self) -> bool:
        """Whether somebody is there to answer a question."""
        return self._stderr.isatty() and sys.stdin is not None and sys.stdin.isatty()

    def note(self, text: str) -> None:
        """Tell a person a line or more."""
        self._stderr.write(self.safe(text) + "\n")

    def prompt(self, text: str) -> None:
        """Ask a person, who answers in the same line."""
        self._stderr.write(text)
        self.flush()

    @contextmanager
    def question(self) -> Iterator[None]:
        """Context manager: a question is open; it stays so where no answer comes."""
        self.asking = True
        yield
        self.asking = False

    def safe(self, text: str) -> str:
        """A text without the secrets of this command, and without what drives a terminal.

        What it names as a call or an argument is named as it is typed.
        """
        return escaped_lines(masked(self._typed(text), *self.secrets))

    def _typed(self, text: str) -> str:
        words = _TYPED | (_OPTIONS if self._command.startswith("snapshots") else {})
        for call, typed in words.items():
            text = text.replace(call, typed)
        return text

    def answer(self, answer: Answer) -> int:
        """Print the answer; returns the exit code."""
        self.flush()
        if self._options.json:
            return self._document(answer.code, answer.value, None)
        wide = self._stdout.isatty() and self.console.width >= NARROW
        if answer.table is not None and wide:
            self.console.print(answer.table(lambda text: Text(self.safe(str(text)))))
        else:
            self._stdout.write(self.safe(answer.text).rstrip("\n") + "\n")
        return answer.code

    def failure(self, error: BaseException, code: Exit, text: str, advice: str = "") -> int:
        """Print what went wrong; returns the exit code."""
        if self._options.traceback:
            hide_secrets(error, self.secrets)
            self.note("".join(traceback.format_exception(error)).rstrip())
        if self._options.json:
            found = _value_of(error)
            message = self._typed(text)
            told = {"type": type(error).__name__, "message": message, "advice": advice or None}
            return self._document(code, found, told)
        lines = Text.assemble(("error: ", "bold red"), self.safe(text))
        if advice:
            lines.append_text(Text.assemble("\n", ("next: ", "bold"), self.safe(advice)))
        self.errors.print(lines, soft_wrap=not self._stderr.isatty())
        return code

    def _document(self, code: Exit, value: object, error: Mapping[str, Any] | None) -> int:
        document = {
            "version": VERSION,
            "command": self._command,
            "exit_code": int(code),
            "outcome": code.outcome,
            "result": json_of(value),
            "error": error,
        }
        self._stdout.write(json.dumps(self._masked(document), indent=2) + "\n")
        return code

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return masked(value, *self.secrets)
        if isinstance(value, dict):
            return {key: self._masked(each) for key, each in value.items()}
        return [self._masked(each) for each in value] if isinstance(value, list) else value


def text_of(error: BaseException) -> str:
    """What went wrong, for a person: no row's value, no password."""
    if isinstance(error, click.ClickException):
        return scrubbed(error.format_message())
    return said(error, ())


def json_of(value: object) -> Any:
    """A value of ours, or several, as JSON types."""
    if isinstance(value, Frozen) and not hasattr(value, "to_dict"):
        return {name: json_of(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return {name: json_of(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(each) for each in value]
    return as_json(value)


def _value_of(error: BaseException) -> object:
    """What an error knows besides its text."""
    return getattr(error, "report", None) or getattr(error, "status", None)


def _of_x(given: Sequence[str]) -> list[str]:
    values = [each.partition("=")[2] for each in given]
    return [*given, *(each for each in values if len(each) >= _SHORTEST)]


def _kept_apart() -> int:
    """Give what is printed to stdout to stderr; returns the descriptor of stdout itself, or -1.

    A standard file that somebody has closed becomes one that takes nothing, or the next that is
    opened would have its number.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    while (nothing := os.open(os.devnull, os.O_RDWR)) in closed:
        pass
    os.close(nothing)
    answers = -1 if 1 in closed else fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(2, 1)
    return answers


def _is_open(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _console(stream: Stream) -> Console:
    """A console that writes ANSI to terminals alone, and none where `NO_COLOR` is set."""
    return Console(
        file=cast("IO[str]", stream),
        force_terminal=stream.isatty(),
        highlight=False,
        emoji=False,
        markup=False,
    )
