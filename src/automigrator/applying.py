"""Step 7 of a run: env.py driven to the wanted heads, by another way where one cannot."""

from __future__ import annotations

from automigrator.course import Course
from automigrator.inspection import Finding
from automigrator.leftovers import left_behind
from automigrator.report import Applied
from automigrator.saying import first_line
from automigrator.upgrade.async_drivers import sync_way
from automigrator.upgrade.drives import Way, drive
from automigrator.upgrade.environment import Execution


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
