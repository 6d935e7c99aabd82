"""The causes of errors and silences that Alembic itself does not name."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.exc import DBAPIError

from automigrator.errors import JudgedError
from automigrator.migrations.execution import Configured
from automigrator.support.redaction import first_line

_LEFT_OPEN = (
    "; env.py had begun a transaction before it called context.configure, and Alembic leaves the "
    "commit of such a one to env.py: commit what comes before, or commit at the end"
)


def left_open(contexts: Iterable[Configured]) -> str:
    """What to add where env.py returned without an error and nothing was committed."""
    return _LEFT_OPEN if any(each.open_before for each in contexts) else ""


_ROOM = 32

"""Characters that Alembic makes the column of the version table for."""


def too_long(error: DBAPIError, revision: str) -> JudgedError | None:
    """What to say where the id of a revision that has run cannot be written; None elsewhere."""
    if len(revision) <= _ROOM or revision not in f"{error.statement} {error.params}":
        return None
    return JudgedError(
        "revision",
        f"the id of revision {revision} has {len(revision)} characters, and Alembic makes the "
        f"column of the version table for {_ROOM}: {first_line(error)}",
        "give the revision a shorter id, in its file and in the down_revision of those after it; "
        "or widen the column in an earlier revision",
        error.statement,
    )
