"""A database that is not there: it is created, and removed again where nothing came of it."""

from __future__ import annotations

import time

from automigrator.errors import JudgedError
from automigrator.runner.state import RunState
from automigrator.support.redaction import first_line


async def create(state: RunState) -> None:
    """Create the target's database. Raises JudgedError where that is not allowed."""
    if not state.target.create:
        raise JudgedError(
            "unreachable",
            f"the database {state.target.url} does not exist, and Target(create=False) says not to "
            "create it; nothing was changed",
            "create the database, or leave create=False out",
        )
    began = time.monotonic()
    state.enter("creating the database")
    state.tell("create-started")
    state.created = await state.owner.create_database(state.run)
    seconds = time.monotonic() - began
    made = f"database created in {seconds:.2f} s"
    result = made if state.created else "another process has created the database"
    state.tell("created", ours=state.created, seconds=seconds, result=result)


async def undo_creation(state: RunState) -> None:
    """Remove the database that this run has created and then not begun to migrate, under the lock.

    It is noted where it stays: nobody can prove then that it is empty, and this run's.
    """
    if not state.created or state.start.stage != "not counted":
        return
    why = ""
    try:
        if await state.hold.undo_creation():
            state.created, state.after = False, ()
            return
    except Exception as error:  # noqa: BLE001 - the failure of the run is the one to report
        why = f" ({first_line(error)})"
    state.run.note(f"the database that this start created stays{why}; nothing was migrated in it")
