"""One target's part of a run, step by step: look, lock, attempt, answer a failure, report."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

from automigrator.backends.contract.values import Sight
from automigrator.errors import JudgedError, PluginError, UnknownRevisionError
from automigrator.failure import Decision
from automigrator.hooks.decisions import Asking
from automigrator.report import Outcome
from automigrator.runner import version_skew
from automigrator.runner.attempt import _attempt
from automigrator.runner.failures import answered, failed, look_again
from automigrator.runner.inspection import inspect, judge
from automigrator.runner.interruption import cut_short, ran_out
from automigrator.runner.leader_record import CrashLoopError, last_resort, leave
from automigrator.runner.retry import patiently, reach
from automigrator.runner.state import Course
from automigrator.support.concurrency import to_the_end

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
            run.notes += await course.hooks.after_migrate(run, report, course.hook_told)
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
    course.hooks = asking.hooks = await course.owner.hooks_of(course.ground.target)
    course.progress.listeners = course.hooks


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
            await version_skew.serve(course, error)
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
