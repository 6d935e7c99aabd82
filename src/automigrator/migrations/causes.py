"""The causes of errors that Alembic itself does not name."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from difflib import get_close_matches

from alembic.script import ScriptDirectory
from alembic.script.revision import MultipleHeads, RangeNotAncestorError, ResolutionError
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from automigrator.errors import HistoryError, JudgedError
from automigrator.support.redaction import first_line


def outside_context(error: BaseException) -> str:
    """What to do where env.py used a proxy of Flask's outside the application's context."""
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__") if frames else ""
    return _CONTEXT if type(error) is RuntimeError and module == "werkzeug.local" else ""


_CONTEXT = (
    "run the Migrator within the application's context: `with app.app_context(): "
    "migrator.run_sync()`. For the command line, let --app name a function that calls "
    "`app.app_context().push()` and returns the Migrator"
)


def not_found(script: ScriptDirectory, revision: str, error: CommandError) -> HistoryError:
    """What to say where Alembic does not find the `revision` that is asked for.

    The revisions of `script` are read, and make a sound history.
    """
    cause = error.__cause__
    if isinstance(cause, MultipleHeads):
        return HistoryError(
            f"revision={revision!r} asks for one head, and the history has "
            f"{', '.join(sorted(cause.heads))}; ask for 'heads', "
            "for '<branch>@head', or merge them",
            "if they are to be one history, write the revision that joins them: "
            "alembic merge heads; if both are wanted, leave revision= out",
        )
    if not isinstance(cause, ResolutionError):
        return HistoryError(str(error), _ASKED)
    asked = cause.argument
    known = [str(each) for each in script.revision_map._revision_map if each]
    begin = sorted(each for each in known if len(each) > len(asked) >= 2 and each.startswith(asked))
    near = (begin or get_close_matches(asked, known))[:_NEAREST]
    heads = ", ".join(script.get_heads()) or "base"
    there = f"similar: {', '.join(near)}" if near else f"its newest revision is {heads}"
    return HistoryError(f"this history has no revision {asked!r}; {there}", _ASKED)


def no_way_back(
    revision: str, heads: Sequence[str], applied: int, error: CommandError
) -> HistoryError | None:
    """What to say where a database at `heads` cannot be rolled back to a revision; None elsewhere.

    `applied`: how many revisions such a database has.
    """
    at = ", ".join(heads) or "base"
    if (many := steps_back(revision)) > applied:
        has = f"only {applied}" if applied else "none"
        return HistoryError(
            f"{revision} goes back {many} revisions, and a database at {at} has {has}", _BACK
        )
    if isinstance(error.__cause__, RangeNotAncestorError):
        return HistoryError(
            f"a rollback only goes back, and {revision} is not among what a database at {at} has",
            _BACK,
        )
    return None


def steps_back(revision: str) -> int:
    """How many revisions a relative one such as -2 goes back; 0 for any other."""
    return int(revision[1:]) if re.fullmatch(r"-[0-9]{1,9}", revision) else 0


_BACK = (
    "ask for a revision that the database has, for base to undo every one, or for a smaller number "
    "of revisions; `alembic history` lists them"
)

_NEAREST = 3

_ASKED = (
    "correct the revision that was asked for; if it is right, look whether the deployment has "
    "every revision file"
)

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
