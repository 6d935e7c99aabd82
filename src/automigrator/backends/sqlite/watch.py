"""Whether anybody but the migration has written to a SQLite file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from automigrator.backends.sqlite.reader import connect

Ask = Callable[[], object]

"""Reads `PRAGMA data_version` on a connection."""


class Watch:
    """Watches a file from now on; in doubt the answer is that others wrote.

    `PRAGMA data_version` tells a connection that others have committed, and nothing of its own
    commits. So the watching connection sees the commits of the migration and of others, and the
    migration's own connection those of others alone. When their answers are read one after the
    other, the first sees no commit of others that the second would not. Not for several threads
    at once.
    """

    def __init__(self, live: Path) -> None:
        self.connection = connect(live, "rw", any_thread=True)
        self._others = False
        self._joined = 0
        self._first = self._seen = self._version()

    def join(self, ask: Ask) -> Callable[[], None]:
        """Count a connection's commits as the migration's own until the returned call is made."""
        self._joined += 1
        own = _answer(ask)
        if own is None or self._version() != self._seen:
            self._others = True

        def leave() -> None:
            self._joined -= 1
            seen = self._version()
            if _answer(ask) != own:
                self._others = True
            self._seen = seen

        return leave

    def saw_commits(self) -> bool:
        """Tell whether anybody, the migration as well, may have committed until now."""
        version = self._version()
        return version is None or version != self._first

    def others_wrote(self) -> bool:
        """Tell whether anybody else may have committed until now."""
        return self._others or self._joined > 0 or self._version() != self._seen

    def _version(self) -> object:
        version = _answer(lambda: self.connection.execute("PRAGMA data_version").fetchone())
        if version is None:
            self._others = True
        return version


def _answer(ask: Ask) -> object:
    """Return what a connection answers; None where it cannot tell any more, closed say."""
    with suppress(Exception):
        return ask()
    return None
