"""Finishes or undoes what a killed process, or a cancelled attempt, left half done; and tells."""

from __future__ import annotations

import time
from collections.abc import Sequence

from automigrator.course import Course
from automigrator.databases.backend import VersionTable


async def repair(
    course: Course, tables: Sequence[VersionTable], *, begun: bool = False
) -> str | None:
    """What was done; None when there was nothing to do. Raises what the backend raises.

    `begun` says that there is something, where the backend has not been asked for long.
    """
    backend, tell, target = course.ground.backend, course.progress, course.ground.target
    if begun or backend.unfinished():
        with tell.step("repair-started", "repair-failed", target) as seconds:
            done = await backend.recover(tables)
        tell("repaired", target.name, what=done or "nothing was left to do", seconds=seconds())
        return done
    began = time.monotonic()
    done = await backend.recover(tables)
    if done is not None:
        tell("repaired", target.name, what=done, seconds=time.monotonic() - began)
    return done
