"""Starts that fail in a row at the same revisions, and the one that must not try any more.

A device that fails or dies at every boot would copy, purge or restore its data for ever.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from automigrator.backends.contract.examiner import Damage, Examiner
from automigrator.backends.contract.journal import Counting, Repairs
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.record import FailedStarts, Record
from automigrator.errors import JudgedError, LockLostError, RefusedError
from automigrator.failure import Decision, Failure, FailureKind
from automigrator.report import Outcome
from automigrator.runner.failures import read_after
from automigrator.runner.state import Left, RunState
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

REST_S = 24 * 60 * 60.0
"""Seconds after the last start allowed; twice as long after each further one that fails."""

DOUBLINGS = 5
"""A rest is 32 days at most, whatever a record counts: somebody may have written it."""

EXCUSED: frozenset[FailureKind] = frozenset(
    {"unreachable", "auth", "lock-timeout", "rehearsal", "ahead", "unversioned"}
)
"""Kinds that say nothing about the revisions: a start that met no other is not counted.

`ahead` and `unversioned` are found before a revision is run, and the next start finds them again.
"""

HARMLESS: frozenset[FailureKind] = frozenset({"hook", "read-only", "disk-full"})
"""Kinds that do not count either, where nothing was changed and no copy was kept."""

_CAUSES: dict[FailureKind, str] = {
    "corrupt": "stop the application before it writes more to a damaged file, and put a copy back: "
    "`automigrator snapshots restore newest`, or a backup of your own. The next start looks at the "
    "file, and tries again when it is sound; `await migrator.clear()` has it try in any case",
    "disk-full": "make room on the disk, then call `await migrator.clear()`",
    "read-only": "make the database writable for the user that the application runs as, then call "
    "`await migrator.clear()`",
}
_REVISIONS = (
    "deploy a repair of the revisions, of env.py or of what they import, or call `await "
    "migrator.clear()` once the cause is gone"
)


def counts(state: RunState) -> bool:
    """Whether this start counts as one that failed.

    One that has changed and kept nothing may try for ever, if the surroundings were in the way.
    """
    acts = state.run.acts
    untouched = not (acts.done("snapshot") or acts.began("stamp"))
    excused = EXCUSED | HARMLESS if untouched else EXCUSED
    return any(failure.kind not in excused for failure in state.failures)


class CrashLoopError(Exception):
    """Raised when so many starts have failed that this one must not try; carries their record."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.plan)
        self.record = record


async def count(state: RunState) -> None:
    """Write this start down as failed, before it changes anything: it may die before it can.

    Raises CrashLoopError instead when the limit is reached, and LockLostError.
    """
    hold, limit, start = state.hold, state.max_failed_starts, state.start
    if start.stage != "not counted" or state.run.in_memory or not (limit or state.run.empty):
        return
    start.stage = "begun"
    try:
        start.found = found = await hold.last()
        earlier = earlier_starts(state)
        start.first = state.run.empty or (found is not None and found.first)
        if found is not None and limit and earlier.count >= limit:
            if await is_sound_again(found, state.session.examiner()):
                state.run.note(f"{_said(earlier)}; it is tried again, as the damage is gone")
                start.found = found._replace(starts=FailedStarts(), damaged=False)
                earlier = earlier_starts(state)
            elif not may_try(earlier, limit, hold.since):
                start.starts = earlier
                raise CrashLoopError(found)
            else:
                state.run.note(
                    f"{_said(earlier)}; it is tried once more, as the last try was at "
                    f"{time_text(earlier.last)}"
                )
        if limit:
            start.starts = FailedStarts(earlier.count + 1, earlier.since or hold.since, hold.since)
        _warn_of_a_half(state)
        await hold.leave(await _begun(state, hold, earlier))
    except (CrashLoopError, LockLostError):
        raise
    except Exception as error:  # noqa: BLE001 - the count protects, and must not prevent
        start.starts = earlier_starts(state)
        state.run.note(
            f"failed starts are not counted here, as no record can be kept ({first_line(error)})"
        )
    else:
        start.stage = "counted"


async def is_sound_again(record: Record, examiner: Examiner | None) -> bool:
    """Whether the damage is gone that stopped the last start: another file was put in its place."""
    if not record.damaged or examiner is None:
        return False
    return await examiner.damage() == Damage()


async def is_damaged(state: RunState) -> bool:
    """Whether a failure told of damage, and a look finds it: then its end will be seen as well."""
    examiner = state.session.examiner()
    if state.failures[-1].kind != "corrupt" or examiner is None:
        return False
    try:
        return bool((await examiner.damage()).found)
    except Exception as error:  # noqa: BLE001 - the start has failed, and counts all the same
        logger.debug("%s: looking for damage: %s", state.run.name, first_line(error))
        return False


async def take_back(state: RunState) -> None:
    """Forget that this start began: it was cancelled, or its failure is not the revisions'."""
    execution = state.execution
    if state.start.first and execution is not None and execution.observed.torn:
        return  # `ensure_whole` must learn of the half
    if state.start.stage == "counted" and await _kept(state, state.start.found):
        state.start.stage, state.start.starts = "begun", earlier_starts(state)


async def count_later(state: RunState) -> None:
    """Forget that this start began until it is counted again: nothing has been run yet."""
    await take_back(state)
    if state.start.stage == "begun":
        state.start.stage = "not counted"


def repairs_counted(state: RunState) -> Counting:
    """Return what counts the repairs that this deployment begins, and refuses one too many."""

    async def begun(earlier: Repairs, place: str, by_hand: str) -> Repairs:
        limit, since = state.max_failed_starts, state.hold.since
        if not limit:
            return earlier
        code = await _code(state)
        known = earlier if earlier.code == code else Repairs()
        again = known.last + _rest(known.count - limit)
        if known.count >= limit and abs(since - known.last) < again - known.last:
            raise RefusedError(
                f"{known.count} starts in a row were killed while {place} was being put back, so "
                f"this one did not begin with it; the database was not touched. {by_hand}. A start "
                f"after {time_text(again)} tries once more by itself, and so does the next one "
                "after `await migrator.clear()`"
            )
        return Repairs(known.count + 1, since, code)

    return begun


async def _code(state: RunState) -> str:
    """A digest of all that this deployment may run; what is pending is not known yet."""
    try:
        history = await state.session.history()
        everything = history.ids(history.steps(state.target.revision, ()))
        return await in_thread(partial(history.digest, everything))
    except Exception as error:  # noqa: BLE001 - told once the repair is done
        logger.debug("%s: reading the revisions: %s", state.run.name, first_line(error))
        return ""


async def last_resort(state: RunState, record: Record) -> Outcome:
    """Say what becomes of a start that must not try: nothing is touched, and the log says why."""
    run = state.run
    run.attempt, run.stopped = 0, "after too many failed starts"
    if run.acts.done("recover") and record.state != "clean":
        record = record._replace(state="clean")
        await _kept(state, record)
    # what this start did says nothing of the state
    state.execution, state.lasting = None, Left(record.state)
    failure = _failure(state, record)
    state.failures.append(failure)
    outcome: Outcome = "failed"
    then = "the application is not to start"
    match state.last_resort:
        case "ask":
            decision, _ = await state.decisions.decide(failure)
        case "continue":
            run.failure = failure
            decision = state.decisions.checked(Decision.CONTINUE, "last_resort='continue'")
        case "abort":
            decision = Decision.ABORT
    if decision is Decision.CONTINUE:
        outcome, then = "degraded", "the application starts on the database as it is"
        if failure.kind == "corrupt":
            then += ", which is damaged: reads may fail, and writes may make it worse"
    starts = state.start.starts
    facts = {
        "failed_starts": starts.count,
        "since": time_text(starts.since),
        "tries_again_at": time_text(tries_again_at(starts, state.max_failed_starts)),
        "outcome": outcome,
        "failure": failure.to_dict(),
    }
    state.tell("crash-loop", told=f"{failure.headline}; {then}", **facts)
    await read_after(state)
    return outcome


def may_try(starts: FailedStarts, limit: int, now: float) -> bool:
    """Whether a start at `now` may try, after these have failed; `limit` 0: always."""
    if not limit or starts.count < limit:
        return True
    # also a clock that was set back by as much: else it would have to come round again
    return abs(now - starts.last) >= _rest(starts.count - limit)


def tries_again_at(starts: FailedStarts, limit: int) -> float:
    """When a start may try once more, on the clock of the record."""
    return starts.last + _rest(starts.count - limit)


def _rest(beyond: int) -> float:
    return REST_S * 2.0 ** min(beyond, DOUBLINGS)


async def _kept(state: RunState, record: Record | None) -> bool:
    """Whether the record could be kept; out of reach, the start stays counted as before."""
    try:
        await state.hold.leave(record)
    except Exception as error:  # noqa: BLE001 - it has no bearing on how this start ends
        logger.debug("%s: the record stays: %s", state.run.name, first_line(error))
        return False
    return True


async def _begun(state: RunState, hold: Hold, earlier: FailedStarts) -> Record:
    """The record of a start that begins, with what it leaves if it dies."""
    start = state.start
    found = start.found if earlier.count else None
    left = found.state if found is not None and not state.run.acts.done("recover") else "clean"
    if state.finding is not None and state.may_commit:
        left = "partial-within-revision"
    failures = found.failures if found is not None else ()
    damaged = found is not None and found.damaged
    begun = Record(state.plan, "begun", hold.leader, failures, left, start.starts)
    return begun._replace(first=start.first, damaged=damaged)


def _warn_of_a_half(state: RunState) -> None:
    """Note that what runs now may have run to its middle, where nothing can tell."""
    found = state.start.found
    if found is None or found.outcome != "begun" or state.run.acts.done("recover"):
        return
    if found.state == "partial-within-revision":
        state.run.note(
            f"{found.leader} died in a migration with a revision that may commit in its middle, "
            "and there is no snapshot to put back: half of it may be in the database, and it runs "
            "again from its beginning now. Look at what it has written; backup-restore in "
            "recovery= would have undone such a half"
        )


async def ensure_whole(state: RunState) -> None:
    """Refuse tables without a version row that a start of ours may have made half.

    Neither a baseline nor anything else tells half of an installation from a whole one.
    """
    found = await state.hold.last()
    if found is None or not found.first or (found.outcome != "begun" and found.state == "clean"):
        return
    raise JudgedError(
        "unversioned",
        f"{found.leader} began to install into this database when it was empty, and ended before "
        "a revision was whole: now it has tables, and no version row. They may be half of a "
        "revision, so none is run and no baseline is stamped; nothing was changed",
        "if nobody has written to it, delete the database and start again; or finish by hand what "
        "is half, and write the revision down with `alembic stamp`. If the tables are whole and "
        "not that start's, `await migrator.clear()` forgets it. backup-restore in recovery= would "
        "have undone it",
    )


def earlier_starts(state: RunState) -> FailedStarts:
    """Those that failed before this one at the same revisions."""
    found = state.start.found
    return found.starts if found is not None and found.plan == state.plan else FailedStarts()


def _failure(state: RunState, record: Record) -> Failure:
    starts = state.start.starts
    known = record.last_failure or Failure("revision", "")
    where = f"revision {known.revision}: " if known.revision else ""
    last = f"{where}{known.message}"
    if record.outcome == "begun":
        why = "the last one died while it migrated: killed, out of memory, or without power"
        why += f". The last failure before that: {last}" if last else ""
    else:
        why = f"the last failure: {last}"
    again = time_text(tries_again_at(starts, state.max_failed_starts))
    advice = _CAUSES.get(known.kind, _REVISIONS)
    return Failure(
        known.kind,
        f"{_said(starts)}, so this one tried nothing: no snapshot, no migration, no purge and no "
        f"restore; {why}",
        state=record.state,
        revision=known.revision,
        statement=known.statement,
        advice=f"{advice}; a start after {again} tries once more by itself",
        attempt=0,
        database=state.target.url,
    )


def _said(starts: FailedStarts) -> str:
    many = "1 start has" if starts.count == 1 else f"{starts.count} starts in a row have"
    return f"{many} failed at these revisions since {time_text(starts.since)}"


def time_text(at: float) -> str:
    """Return a time of a record for a person, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
