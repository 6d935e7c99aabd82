"""One target's part of a run, step by step: look, lock, attempt, answer a failure, report."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

from automigrator import skew
from automigrator.answering import answered, failed, look_again, read_after
from automigrator.applying import apply
from automigrator.asking import Asking
from automigrator.cancelling import cut_short, ran_out
from automigrator.course import Course
from automigrator.crash_loops import CrashLoopError, count, last_resort
from automigrator.databases.backend import Sight
from automigrator.diagnosis import JudgedError, Left
from automigrator.errors import PluginError
from automigrator.failure import Decision
from automigrator.following import inherited, leave
from automigrator.inspection import Finding, inspect, judge
from automigrator.reaching import reach
from automigrator.rehearsing import rehearse
from automigrator.repairing import repair
from automigrator.report import Outcome
from automigrator.retrying import patiently
from automigrator.run_limit import RUNNING
from automigrator.threads import to_the_end
from automigrator.upgrade.environment import EnvError, Execution
from automigrator.upgrade.history import UnknownRevisionError
from automigrator.upgrade.stamping import bootstrap, stamp

logger = logging.getLogger(__name__)


async def bring_to_head(course: Course) -> Outcome:
    """Migrate one target and say how that ended; `failed` when no plugin told the run to go on.

    Every error but a cancellation becomes a failure that the plugins are asked about. Raises
    PluginError, nothing touched, when a strategy that is named cannot be used.
    """
    backend, run = course.ground.backend, course.run
    asking = Asking(
        run,
        course.allow_partial,
        lambda failure: look_again(course, failure),
        around=course.hook_told,
    )
    async with AsyncExitStack() as lock:
        try:
            if await _at_head(course):
                return "current"
            course.at = "loading the plugins"
            await _arm(course, asking)
            await _hold(course, lock)
        except PluginError:
            raise
        except Exception as error:  # noqa: BLE001 - any error is a failure of the target
            run.attempt = 1
            await _arm(course, asking)
            decision = await answered(course, asking, error)
            return "degraded" if decision is Decision.CONTINUE else "failed"
        try:
            outcome = await _closed(course, await _attempts(course, asking))
        except asyncio.CancelledError:
            if course.limit is None or not course.limit.is_over():
                course.attempt_finished("cancelled")
                await to_the_end(cut_short(course))
                raise
            await to_the_end(ran_out(course))
            outcome = "failed"
        else:
            course.at = "writing down how it ended"
            await leave(course, outcome)
        if outcome in ("migrated", "recovered"):
            report = course.report(outcome)
            hooks = course.progress.hooks
            run.notes += await hooks.after_migrate(run, report, course.hook_told)
        run.locked = False
    course.at = "emptying the application's pool"
    await backend.refresh()  # whoever changed the schema: this process, or one that it waited for
    return outcome


async def _closed(course: Course, outcome: Outcome) -> Outcome:
    """Forget the journal before the application serves: a later undo would lose what it wrote."""
    if course.run.unfinished:
        return outcome
    course.at = "closing the journal"
    try:
        await course.ground.backend.close()
    except Exception as error:  # noqa: BLE001 - any error is a failure of the target
        course.doing = "unreachable"
        await failed(course, error)  # nobody is asked: what was migrated is all right
        return "failed"
    return outcome


async def _arm(course: Course, asking: Asking) -> None:
    """Load the strategies: only now may they be needed."""
    course.progress.hooks = asking.hooks = await course.owner.hooks_of(course.ground.target)


async def _at_head(course: Course) -> bool:
    """Step 2: whether there is nothing to do. An absent database is created on the way."""
    ground, run = course.ground, course.run
    backend = ground.backend
    try:
        sight = await _reached(course)
    except Exception as error:
        if backend.classify(error) == "corrupt":
            return False  # only under the lock may a strategy act on it
        raise
    run.before = course.after = sight.all_heads()
    if backend.unfinished():
        return False
    if not sight.exists:
        await _create(course)
    course.at = "reading the revisions, and how the database stands"
    try:
        history = await ground.history()
        try:
            finding = await inspect(ground.target, backend, history, ground.place)
        except UnknownRevisionError as error:
            await skew.serve(course, error)
            return True
        judge(ground.target, finding)
    except Exception as error:  # noqa: BLE001 - looked at again, and judged, under the lock
        logger.debug("%s: looking without the lock: %s", run.name, type(error).__name__)
        return False
    course.finding = finding
    run.before = course.after = finding.heads
    run.wanted = finding.wanted
    if finding.pending and not finding.sight.writable:
        course.finding = None
        await _reached(course, to_write=True)  # the lock refuses what is a standby even then
    return not finding.pending and not finding.unversioned


async def _reached(course: Course, *, to_write: bool = False) -> Sight:
    """Step 3; during a fail-over the address may lead to a standby that is yet to be promoted."""
    ground = course.ground
    what = "a standby to be promoted" if to_write else "the database server"

    waited_s = 0.0

    def waiting(seconds: float) -> None:
        nonlocal waited_s
        waited_s = seconds
        course.at = f"waiting for {what}"
        course.progress("waiting", course.run.name, on="server", what=what, seconds=seconds)

    sight = await reach(
        ground.backend,
        lambda: ground.backend.look([ground.table]),
        ground.target.connect_timeout,
        waiting,
        lambda sight: sight.writable or not to_write,
    )
    if waited_s and (sight.writable or not to_write):
        course.progress("reached", course.run.name, waited_s=waited_s)
    return sight


async def _create(course: Course) -> None:
    target = course.ground.target
    if not target.create:
        raise JudgedError(
            "unreachable",
            f"the database {target.url} does not exist, and Target(create=False) says not to "
            "create it; nothing was changed",
            "create the database, or leave create=False out",
        )
    began = time.monotonic()
    course.at = "creating the database"
    course.progress("create-started", course.run.name)
    ours = await course.owner.create_database(course.run)
    course.progress("created", course.run.name, ours=ours, seconds=time.monotonic() - began)


async def _hold(course: Course, lock: AsyncExitStack) -> None:
    """Step 5."""
    ground = course.ground
    course.doing, course.at = "lock-timeout", "taking the migration lock"
    looked_s = time.monotonic() - course.began
    course.hold = await lock.enter_async_context(
        ground.backend.lock([ground.table], ground.target.lock_timeout, course.waiting)
    )
    course.hold.since -= looked_s  # a leader that failed while this run only looked binds it, too
    course.run.locked = True
    course.progress("locked", course.run.name, waited_s=course.hold.waited_s)


async def _attempts(course: Course, asking: Asking) -> Outcome:
    """Steps 6 to 8, as often as the plugins ask for it and the core grants it."""
    run = course.run
    while True:
        run.attempt += 1
        try:
            leaders = await patiently(course, lambda: _attempt(course))
        except CrashLoopError as loop:
            return await last_resort(course, asking, loop.record)
        except Exception as error:  # noqa: BLE001 - any error is a failure of the target
            decision = await answered(course, asking, error)
        else:
            course.attempt_finished("applied")
            if leaders is not None:
                return leaders
            if course.failures:
                return "recovered"
            return "migrated" if course.applied or course.stamped else "current"
        if decision is not Decision.RETRY:
            return "degraded" if decision is Decision.CONTINUE else "failed"


async def _attempt(course: Course) -> Outcome | None:
    """Bring the database to the wanted heads, or raise; returns only when they are read anew.

    Except where a leader has just failed at it: then this returns how that one ended.
    """
    ground, run, backend = course.ground, course.run, course.ground.backend
    seen, course.finding, course.execution = course.finding, None, Execution()
    run.failure, course.rehearsing = None, None
    course.doing = "unreachable"
    course.at = "finishing or undoing what was begun before"
    if run.taken is None:  # else the journal is this run's own, not a dead leader's
        try:
            repaired = await repair(course, [ground.table])
        except BaseException:
            # a dead leader's half is still there, and the next start must try again
            course.lasting, run.unfinished = Left("partial-within-revision"), True
            raise
        if run.unfinished:  # at an earlier try
            course.lasting, run.unfinished = Left(), False
        if repaired is not None:
            run.notes.append(repaired)
            course.repaired = True
    course.doing, course.at = "history", "reading the revisions"
    history = await ground.history()
    if not course.prepared and seen is not None:
        # before env.py is asked again: many may wait for their turn to be told
        course.plan, course.finding = history.digest(seen.pending), seen
        if (leaders := await inherited(course)) is not None:
            await read_after(course)
            return leaders
    told, course.plan, course.finding = course.plan, "", None
    course.doing, course.at = "env", "asking env.py how the database stands"
    try:
        finding = await _found(course)
    except UnknownRevisionError as error:
        await skew.serve(course, error)
        return "current"
    except Exception as error:
        if not course.begun and backend.classify(error) == "corrupt":
            # what is pending cannot be read, and a strategy may act on that all the same
            everything = history.steps(ground.target.revision, ())
            course.plan = history.digest(history.ids(everything))
            await count(course)
        raise
    if not course.prepared:
        run.before = finding.heads
    course.after = finding.heads
    if not finding.pending and not finding.unversioned:
        await skew.declare(course, finding)
        return None
    if not course.prepared and course.plan != told and (leaders := await inherited(course)):
        return leaders
    course.at = "writing down that this start began"
    await count(course)
    if not course.prepared:
        await rehearse(course, finding)
        await skew.declare(course, finding)
        await course.progress.hooks.before_migrate(run, course.hook_told)
        course.prepared = True
    if await _stamped(course, finding):
        course.stamped = True
        finding = await _found(course)
        await skew.declare(course, finding)
    first = len(course.applied)
    if finding.pending:
        course.at = "looking for what lies about already"
        course.debris = await backend.debris()
        course.at = RUNNING
        await apply(course, finding)
    course.at = "reading the heads that the database has now"
    course.doing = "env" if course.execution.error is None else "revision"
    sight = await backend.look(list(finding.tables))
    course.after = sight.all_heads()
    if not finding.reached(history, sight):
        del course.applied[first:]  # until the database itself says which stay
        raise course.execution.error or EnvError(
            f"env.py returned as if all were well, and the database is at "
            f"{', '.join(course.after) or 'base'}, not at {', '.join(finding.wanted)}"
        )
    return None


async def _found(course: Course) -> Finding:
    """Step 4, and what the hooks are shown of it."""
    ground, run = course.ground, course.run
    history = await ground.history()
    finding = await inspect(ground.target, ground.backend, history, ground.place, needs_way=True)
    judge(ground.target, finding)
    course.finding = finding
    run.wanted, run.tables = finding.wanted, finding.tables
    run.pending = history.describe(finding.pending)
    course.plan = history.digest(finding.pending)
    run.empty = not finding.heads and not finding.sight.has_tables
    run.transactional = (
        all(context.one_transaction for context in finding.contexts)
        and sum(bool(context.pending) for context in finding.contexts) <= 1
        and not history.uses_autocommit(finding.pending)
    )
    return finding


async def _stamped(course: Course, finding: Finding) -> bool:
    """Whether the database was given a starting point other than base."""
    ground, target = course.ground, course.ground.target
    history = await ground.history()
    table = finding.tables[0]
    empty = not finding.sight.has_tables and not finding.heads
    if target.bootstrap is not None and empty:
        began = time.monotonic()
        course.at = "running bootstrap"
        course.progress("bootstrap-started", course.run.name)
        revision = await bootstrap(
            target, ground.backend, history, ground.place, table, course.hold
        )
        seconds = time.monotonic() - began
        course.progress("bootstrapped", course.run.name, revision=revision, seconds=seconds)
        return True
    if finding.unversioned and target.baseline not in (None, "base"):
        assert target.baseline is not None
        await stamp(ground.backend, history, ground.place, table, target.baseline, course.hold)
        course.progress("stamped", course.run.name, revision=target.baseline)
        return True
    return False
