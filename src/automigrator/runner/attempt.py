"""Step 7 of a run: env.py driven to the wanted heads, by another way where one cannot."""

from __future__ import annotations

import time

from automigrator.errors import EnvError, UnknownRevisionError
from automigrator.migrations.drive import drive
from automigrator.migrations.environment import Execution
from automigrator.migrations.stamping import bootstrap, stamp
from automigrator.migrations.ways import Way, sync_way
from automigrator.report import Applied, Outcome
from automigrator.runner import version_skew
from automigrator.runner.failures import left_behind, read_after, repair
from automigrator.runner.inspection import Finding, inspect, judge
from automigrator.runner.leader_record import count, inherited
from automigrator.runner.rehearsal import rehearse
from automigrator.runner.state import Course, Left
from automigrator.runner.time_limit import RUNNING
from automigrator.support.redaction import first_line


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
        await version_skew.serve(course, error)
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
        await version_skew.declare(course, finding)
        return None
    if not course.prepared and course.plan != told and (leaders := await inherited(course)):
        return leaders
    course.at = "writing down that this start began"
    await count(course)
    if not course.prepared:
        await rehearse(course, finding)
        await version_skew.declare(course, finding)
        await course.hooks.before_migrate(run, course.hook_told)
        course.prepared = True
    if await _stamped(course, finding):
        course.stamped = True
        finding = await _found(course)
        await version_skew.declare(course, finding)
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


async def apply(course: Course, finding: Finding) -> None:
    """Run what is pending, along the way that was found.

    What the async driver refuses is run by a sync one in a thread, from where the database then
    is. Raises what env.py or a revision raised.
    """
    assert finding.way is not None
    course.attempt_started(len(finding.pending))
    try:
        await _driven(course, finding.way)
    except Exception as error:
        way = sync_way(course.ground.target, course.ground.place, finding.way, error)
        if way is None:
            raise
        refused = error
    else:
        return
    await _by_another(course, finding, way, refused)


async def _by_another(course: Course, finding: Finding, way: Way, refused: Exception) -> None:
    ground, execution = course.ground, course.execution
    assert execution is not None
    left = await left_behind(
        ground.backend, await ground.history(), finding, execution, course.debris
    )
    if left.state == "partial-within-revision":
        raise refused
    message = first_line(refused)
    note = f"{left.revision} cannot run by {finding.way}: {message}"
    course.progress(
        "drive-changed",
        course.run.name,
        revision=left.revision,
        was=str(finding.way),
        now=str(way),
        message=message,
    )
    stay = [(revision, s) for revision, s in execution.done if revision in left.applied]
    course.applied += [Applied(*each) for each in stay]
    other = course.execution = Execution(done=list(stay))
    try:
        await _driven(course, way)
    except Exception:
        if other.current is not None or other.error is not None:
            raise
    else:
        course.run.notes.append(f"{note}; it ran by {way}, as drive='thread' lets it do at once")
        return
    # env.py cannot be run that way at all: what it met first is what to report
    course.execution, course.drive, course.doing = execution, str(finding.way), "revision"
    raise refused


async def _driven(course: Course, way: Way) -> None:
    ground, execution = course.ground, course.execution
    assert execution is not None
    course.drive = str(way)
    course.doing = "revision"
    first = len(course.applied)
    try:
        await drive(
            ground.target,
            ground.backend,
            await ground.history(),
            ground.place,
            way,
            revision=ground.target.revision,
            apply=True,
            started=course.started,
            done=course.done,
            hold=course.hold,
            execution=execution,
        )
    except BaseException:
        # with revisions done it was their commit that failed
        if execution.current is None and execution.error is None and not execution.done:
            course.doing = "env"
        del course.applied[first:]  # until the database itself says which stay
        raise
