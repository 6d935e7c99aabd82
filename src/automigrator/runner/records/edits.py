"""Applied revisions whose files were edited since: noticed at a start, accepted by a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from automigrator.backends.contract.checksums import Checksums
from automigrator.errors import JudgedError
from automigrator.runner.inspection import Finding, inspect
from automigrator.runner.session import Session
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

if TYPE_CHECKING:
    from automigrator.migrations.history import History

logger = logger_of(__name__)

_ADVICE = (
    "undo the edit, and write what it was to do into a new revision; where the database needs "
    "nothing of it (a comment, another format), `automigrator accept` takes the files as they are"
)


async def tell(state: RunState, finding: Finding) -> None:
    """Tell which applied revisions were edited. Raises JudgedError where that is to be refused."""
    text = await noticed(state.session, finding)
    if text and text not in state.run.notes:
        state.run.notes.append(text)
        state.tell("edited-revisions", text=text)


async def noticed(session: Session, finding: Finding) -> str:
    """Say which applied revisions were edited; an empty text for none.

    Raises JudgedError where the target says to refuse that.
    """
    edited = await _edited(session, finding)
    if not edited:
        return ""
    revisions = f"revision {edited[0]} was" if len(edited) == 1 else f"{_listed(edited)} were"
    text = (
        f"{revisions} edited after being applied: the database has what the files said then, and "
        "a new database gets what they say now"
    )
    if session.target.edited == "refuse":
        raise JudgedError("history", f"{text}; nothing was changed", _ADVICE)
    return f"{text}; {_ADVICE}"


def _listed(revisions: tuple[str, ...]) -> str:
    more = f" and {len(revisions) - 5} more" if len(revisions) > 5 else ""
    return f"revisions {', '.join(revisions[:5])}{more}"


async def _edited(session: Session, finding: Finding) -> tuple[str, ...]:
    if session.target.edited == "ignore" or len(finding.contexts) != 1:
        return ()
    # a look at another table than the target's own does not say what is kept
    if finding.sight.checksum is None and list(finding.tables) == [session.table]:
        return ()
    kept = await session.backend.checksums([session.table])  # by which they were kept
    if kept is None:
        return ()
    history = await session.history()
    there = _with_text(history, finding.heads)
    now = await in_thread(lambda: history.checksums(there))
    if kept.of.keys() - now.keys():  # some were squashed: into one that nothing precedes
        now = {e.revision: now[e.revision] for e in history.describe(now) if e.down_revision}
    return tuple(each for each, was in kept.of.items() if now.get(each, was) != was)


async def keep(state: RunState) -> None:
    """Keep the checksums of what was applied, under the lock.

    Revisions that somebody else has applied, whose files nobody has seen then, are taken as they
    are now.
    """
    run, session = state.run, state.session
    # a fleet's ledger tells for which files a tenant is done
    if run.in_memory or session.commons is not None or len(state.tables) != 1:
        return
    if session.target.edited == "ignore":
        return
    try:
        kept = await state.backend.checksums([session.table]) if run.before else None
        known: Mapping[str, str] = {} if kept is None or run.rebuilt else kept.of
        history, applied = await session.history(), {each.revision for each in state.applied}
        there = _with_text(history, state.after)
        unknown = [each for each in there if each in applied or each not in known]
        read = await in_thread(lambda: history.checksums(unknown))
        found = {each: read.get(each) or known.get(each, "") for each in there}
        if kept is None or found != kept.of:
            await state.hold.keep_checksums(Checksums(found))
    except Exception as error:  # noqa: BLE001 - the migration is all right
        said = f"later edits of applied revisions will not be noticed: {first_line(error)}"
        if session.target.edited == "refuse":
            run.note(said)
        logger.debug("%s: %s", run.name, said)


async def accept(session: Session) -> tuple[str, ...]:
    """Take the files of the applied revisions as they are now; return those that were edited."""
    async with session.lock(lambda *_: None) as hold:
        finding = await inspect(session, hold)
        edited = await _edited(session, finding)
        history = await session.history()
        there = _with_text(history, finding.heads)
        found = await in_thread(lambda: history.checksums(there))
        if finding.heads:
            await hold.keep_checksums(Checksums(found))
    return edited


def _with_text(history: History, heads: Iterable[str]) -> tuple[str, ...]:
    """The revisions that a database at `heads` has, and whose files are no compiled ones."""
    return tuple(e.revision for e in history.ancestry(heads) if e.path.endswith(".py"))
