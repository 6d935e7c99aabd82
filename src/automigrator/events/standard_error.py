"""Standard error as a place for lines: a terminal keeps one of them alive at its bottom.

Whatever is wrong with it, nothing is raised: a run must not fail for want of somebody to tell.
"""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

_ERASE = "\r\x1b[K"

_WIDE = ("W", "F")

_USUAL_COLUMNS = 80


class Output:
    """Where lines go; `live` says whether it is a terminal, which shows one that changes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # a daemon thread that waits amid a write must hold no lock of Python's, or the
        # interpreter could not end: the file itself is written to
        self._file = _file_of(stream)
        self.live = self._file is not None and _draws(self._file)
        self._drawn = ""

    def show(self, lines: Iterable[str], live: str = "") -> None:
        """Write lines that stay, and below them on a terminal one that does not."""
        text = "".join(f"{line}\n" for line in lines)
        drawn = cut(live, self._columns() - 1) if self.live and live else ""
        if not text and drawn == self._drawn:
            return
        if self._drawn:
            text = _ERASE + text
        self._drawn = drawn
        # at the line's begin, so that what somebody else prints does not end up behind it
        self._write(f"{text}{drawn}\r" if drawn else text)

    def _write(self, text: str) -> None:
        with suppress(Exception):  # closed, full, without a reader
            if self._file is None:
                self._stream.write(text)
                self._stream.flush()
                return
            data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
            while data:
                data = data[os.write(self._file, data) :]

    def _columns(self) -> int:
        assert self._file is not None
        with suppress(OSError, ValueError):
            return os.get_terminal_size(self._file).columns or _USUAL_COLUMNS
        return _USUAL_COLUMNS


def standard_error() -> Output | None:
    """Where this process tells people what it does; None where it has no such place."""
    stream = sys.stderr
    return None if stream is None or getattr(stream, "closed", False) else Output(stream)


def cut(text: str, columns: int) -> str:
    """The text, cut to what a terminal shows in so many columns."""
    width, end = 0, 0
    for index, each in enumerate(text):
        width += 2 if unicodedata.east_asian_width(each) in _WIDE else 1
        if width > columns:
            return f"{text[:end]}..."[: max(columns, 0)]
        if width <= columns - 3:
            end = index + 1
    return text


def _file_of(stream: TextIO) -> int | None:
    """The number of a stream's file, where the stream does no more than write to it."""
    if type(stream) is io.TextIOWrapper:
        with suppress(OSError, ValueError):
            return stream.fileno()
    return None


def _draws(file: int) -> bool:
    """Whether a file is a terminal that can go back in a line."""
    return os.environ.get("TERM", "dumb") != "dumb" and os.isatty(file)
