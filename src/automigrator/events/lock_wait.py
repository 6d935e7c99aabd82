"""A follower's wait for the migration lock: how long it took, and what it found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Found = Literal["current", "pending", "failed", "degraded", "timeout"]
"""`current`: nothing is left to do. `pending`: this process does it. `failed`, `degraded`: how the
leader ended. `timeout`: the lock was not to be had."""

_SAID: dict[Found, str] = {
    "current": "nothing is left to do",
    "pending": "there is something left to do, and this process does it",
    "failed": "the process that held it has failed",
    "degraded": "the process that held it did not reach the head, and its application was started",
    "timeout": "it was not released",
}


class LockWait:
    """The wait of one target's run for the migration lock, if there is any.

    `enter` is told what the run is doing, `tell` the events.
    """

    def __init__(self, enter: Callable[[str], None], tell: Callable[..., None]) -> None:
        self.seconds = 0.0
        """Seconds waited so far, or in all."""
        self._enter, self._tell = enter, tell
        self._what = ""

    def goes_on(self, seconds: float, leader: str) -> None:
        """Tell that another process, the `leader`, holds the lock."""
        self.seconds, self._what = seconds, f"the migration lock, held by {leader}"
        self._enter(f"waiting for {self._what}")
        progress = progress_of(leader)
        self._tell("waiting", on="lock", what=self._what, seconds=seconds, progress=progress)

    def ended(self, found: Found) -> None:
        """Tell what the wait has found; once, and nothing where nobody had to wait."""
        what, self._what = self._what, ""
        if what:
            data = {"what": what, "seconds": self.seconds, "found": found}
            self._tell("waited", on="lock", **data, result=_SAID[found])


def progress_of(leader: str) -> str:
    """Return how far a holder says that it is, as in "3/7 r3"; empty where it does not say."""
    found = re.search(r"(?<![^\s(])\d{1,6}/\d{1,6} [^\s,)]+", leader)
    return found[0] if found is not None else ""
