"""A process that writes to a SQLite file as fast as it can, and says what was acknowledged."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

_CODE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
number = 0
while True:
    number += 1
    try:
        connection.execute("INSERT INTO log VALUES (?)", (number,))
    except sqlite3.Error:
        continue
    print(number, flush=True)
"""


class Writer:
    """What it wrote, as far as it was told that it had."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._new = threading.Condition()
        self.acknowledged: list[int] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                with self._new:
                    self.acknowledged.append(int(line))
                    self._new.notify_all()

    def wait_for(self, more: int) -> None:
        """Until it has written so many more."""
        with self._new:
            wanted = len(self.acknowledged) + more
            assert self._new.wait_for(lambda: len(self.acknowledged) >= wanted, 60), "it is stuck"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Insert 1, 2, 3, ... into the table `log` of the file; stopped at the end of the block."""
    command = [sys.executable, "-c", _CODE, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        writer = Writer(process)
        try:
            writer.wait_for(3)
            yield writer
        finally:
            writer.stop()


def written(*files: Path) -> set[int]:
    """What is in the table `log` of any of the files."""
    found: set[int] = set()
    for file in files:
        with closing(sqlite3.connect(file)) as connection:
            found |= {row[0] for row in connection.execute("SELECT n FROM log")}
    return found
