"""Whether anybody but a migration has committed to a live SQLite file meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from automigrator.databases.sqlite.reading import connect

Ask = Callable[[], int]
VERSION = "PRAGMA data_version"


class Watch:
    """From its beginning on; in doubt the answer is yes.

    `PRAGMA data_version` tells a connection that others have committed, and never of its own
    commits: a watching connection sees those of the migration and of others, the migration's
    own connection those of others alone. Where their answers are read one after the other,
    the first sees no other that the second would not. Not for several threads at once.
    """

    def __init__(self, live: Path) -> None:
        self.connection = connect(live, "rw", any_thread=True)
        self._others = False
        self._joined = 0
        self._seen = self._version()

    def join(self, ask: Ask) -> Callable[[], None]:
        """Take what a connection commits from now on, and until the returned call, for its own.

        `ask` reads the connection's `data_version`.
        """
        self._joined += 1
        own: int | None = None
        with suppress(Exception):
            own = ask()
        if own is None or self._version() != self._seen:
            self._others = True

        def leave() -> None:
            self._joined -= 1
            seen = self._version()
            try:
                if ask() != own:
                    self._others = True
            except Exception:  # noqa: BLE001 - a closed connection, which cannot tell any more
                self._others = True
            self._seen = seen

        return leave

    def others_wrote(self) -> bool:
        """Whether anybody else may have committed until now."""
        return self._others or self._joined > 0 or self._version() != self._seen

    def close(self) -> None:
        self.connection.close()

    def _version(self) -> int | None:
        try:
            return int(self.connection.execute(VERSION).fetchone()[0])
        except sqlite3.Error:
            self._others = True
            return None
