"""Why an act on a whole database is refused, and who stands in its way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from automigrator.backends.postgresql.errors import code_of
from automigrator.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody connected to a database; `pid` 0 is a prepared transaction."""

    pid: int
    application_name: str
    user: str
    state: str | None
    query_age_s: float | None

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else "prepared transaction"
        seconds = self.query_age_s or 0
        age = f"for {seconds:.0f} s" if seconds >= 1 else None
        what = [self.application_name, f"user {self.user}", self.state, age]
        return f"{who} ({', '.join(part for part in what if part)})"


def in_use(act: str, sessions: Sequence[Session]) -> RefusedError:
    who = listed([str(session) for session in sessions]) or "somebody who has left since"
    return RefusedError(
        f"cannot {act}: connected: {who}; no database was changed; stop these sessions, "
        "or allow it with disconnect_others=True"
    )


def missing(name: str) -> RefusedError:
    return RefusedError(f"database {name!r} does not exist; nothing was changed")


@contextmanager
def refusing(code: str, why: str, advice: str) -> Iterator[None]:
    """Context manager: raise RefusedError where the server answers with this SQLSTATE."""
    try:
        yield
    except DBAPIError as error:
        if code_of(error) != code:
            raise
        answer = str(error.orig).strip().partition("\n")[0]
        words = re.sub(r"^<class '.*?'>: ", "", answer)
        raise RefusedError(f"{why} ({words}); nothing was changed. {advice}") from error


def listed(items: Sequence[str], most: int = 5) -> str:
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *more])
