"""A database that newer code has migrated: refused, or served where that was said to be safe.

Nothing is ever downgraded by itself, and to start on such a database changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from automigrator.backends.contract import declarations
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.values import Sight
from automigrator.errors import JudgedError, LockLostError, UnknownRevisionError
from automigrator.migrations.compatibility import declaration, works_with
from automigrator.migrations.execution import Configured
from automigrator.runner.inspection import Finding, inspect
from automigrator.runner.session import Session
from automigrator.runner.state import RunState
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line
from automigrator.target import Ahead

logger = logger_of(__name__)


class Served(NamedTuple):
    """The database is newer, at `heads`, and this code may start on it; `note` says why."""

    heads: tuple[str, ...]
    wanted: tuple[str, ...]
    note: str


async def inspected(session: Session, ahead: Ahead, sight: Sight | None = None) -> Finding | Served:
    """Compare heads with history without the lock; see `inspect`, and for newer code `judged`."""
    try:
        return await inspect(session, sight=sight)
    except UnknownRevisionError as error:
        return await judged(session, ahead, error)


async def judged(session: Session, ahead: Ahead, error: UnknownRevisionError) -> Served:
    """Why it may. Raises JudgedError of kind `ahead`, naming both sides, where it must not."""
    target, history = session.target, await session.history()
    contexts: tuple[Configured, ...] = error.contexts
    if not contexts:
        raise error  # it was met on the way, and not by a look at what is
    heads = tuple(sorted({head for context in contexts for head in context.heads}))
    declared = await _declared(session, heads) if len(contexts) == 1 else None
    by = f", where version {declared.version} brought it" if declared and declared.version else ""
    code = f"this code (version {target.version})" if target.version else "this code"
    newer = f"the database is at {', '.join(error.unknown)}{by}"
    own = f"its own newest revision is {', '.join(history.heads) or 'base'}"
    asked = history.asked_for(target.revision)
    if declared is not None:
        lacking = tuple(sorted(set(asked) - set(declared.revisions)))
        if works_with(history, target.revision, declared):
            since = ", ".join(declared.floors) or "base"
            note = (
                f"the database is newer ({', '.join(heads)}{by}), and declares itself "
                f"compatible with {code}, as with all since {since}"
            )
            return Served(heads, asked, note)
    else:
        lack = [each.pending or history.lacking(target.revision, each.heads) for each in contexts]
        lacking = tuple(dict.fromkeys(chain.from_iterable(lack)))
    if lacking:
        raise JudgedError(
            "ahead",
            f"{newer}, which {code} does not know, and lacks {', '.join(lacking)}, which this "
            f"code expects; {own}. It is neither older nor newer; nothing was changed",
            "deploy code that knows both sides: a merge of the two branches",
        ) from error
    if ahead == "serve":
        note = (
            f"{newer}, which {code} does not know; {own}. "
            "It starts all the same, as ahead='serve' says; nothing was changed"
        )
        return Served(heads, asked, note)
    why_not = ""
    if declared is not None and set(declared.floors) != set(heads):  # a revision declared it
        why_not = f". The database works with code that knows {', '.join(declared.floors)}"
    raise JudgedError(
        "ahead",
        f"{newer}, which {code} does not know; {own}{why_not}; nothing was changed",
        "deploy the code that knows this revision, or roll the database back with it; "
        "Target(ahead='serve') starts on it as it is, and compatible_with in a newer revision lets "
        "older code that works with it start",
    ) from error


def serve(state: RunState, served: Served) -> None:
    """Let the application start on the newer database, and say so."""
    state.leads = False
    state.run.before = state.after = served.heads
    state.run.wanted = served.wanted
    state.run.notes.append(served.note)
    state.tell("newer-database", text=served.note, heads=list(served.heads))


async def declare(state: RunState, finding: Finding) -> None:
    """Note what code will work with the database at the wanted heads, before it gets there.

    So that no kill leaves it there without; until then that is true of no database. What holds
    for where it is now stays. Raises HistoryError for a wrong declaration, and LockLostError.
    """
    if state.run.in_memory or len(finding.contexts) != 1:
        return
    new = declaration(await state.session.history(), finding.wanted, state.target.version)
    if new is None:
        return
    try:
        examiner = state.session.examiner()
        if examiner is None:
            return
        there = await examiner.declared()
        present = declarations.of(there, finding.heads)
        kept = (present,) if present is not None and present.heads != new.heads else ()
        if there != (*kept, new):
            state.declared = there
            await state.hold.declare((*kept, new))
    except LockLostError:
        raise
    except Exception as error:  # noqa: BLE001 - older code is refused then, which is safe
        state.run.note(
            f"it could not be noted which code works with the database ({first_line(error)}): "
            "older code will not start on it"
        )


async def withdraw(state: RunState) -> None:
    """Let the database declare again what it did before `declare`. Raises LockLostError."""
    if state.declared is None:
        return
    try:
        await state.hold.declare(state.declared)
    except LockLostError:
        raise
    except Exception as error:  # noqa: BLE001 - what stays is true of no database
        logger.debug("%s: a declaration stays: %s", state.run.name, first_line(error))


async def _declared(session: Session, heads: tuple[str, ...]) -> Declaration | None:
    examiner = session.examiner()
    there: Sequence[Declaration] = ()
    try:
        if examiner is not None:
            there = await examiner.declared()
    except Exception as error:  # noqa: BLE001 - what cannot be read allows nothing
        logger.debug("%s: reading declarations: %s", session.target.name, first_line(error))
    return declarations.of(there, heads)
