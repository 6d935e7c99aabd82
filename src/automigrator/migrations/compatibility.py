"""How far back code still works with a database, as the revisions themselves declare it."""

from __future__ import annotations

from alembic.script import Script

from automigrator.backends.contract.declarations import Declaration
from automigrator.errors import HistoryError
from automigrator.migrations.history import History

NAME = "compatible_with"

"""What a revision file sets to the oldest revision whose code works with a database at its own."""


def declaration(
    history: History, heads: tuple[str, ...], version: str | None
) -> Declaration | None:
    """What is true of a database at `heads`; None where there is nothing to declare.

    A revision that declares nothing needs code that knows it. Raises HistoryError for a
    declaration that names no revision before its own.
    """
    applied = history.ancestry(heads)
    declared = {script.revision: floor for script in applied if (floor := _floor(history, script))}
    if not declared and version is None:
        return None
    floors = history.maximal(declared.get(each.revision, each.revision) for each in applied)
    revisions = tuple(script.revision for script in applied)
    return Declaration(tuple(sorted(heads)), floors, revisions, version)


def works_with(history: History, revision: str, declared: Declaration) -> bool:
    """Whether this code, which wants `revision`, works with a database that declares this."""
    asked = set(history.asked_for(revision))
    return history.knows(declared.floors) and asked <= set(declared.revisions)


def _floor(history: History, script: Script) -> str | None:
    floor = getattr(script.module, NAME, None)
    if floor is None:
        return None
    if not isinstance(floor, str) or not history.precedes(floor, script.revision):
        raise HistoryError(
            f"{script.path}: {NAME} = {floor!r} names no revision before {script.revision}; it is "
            "the id of the oldest revision whose code still works with a database at this one"
        )
    return floor
