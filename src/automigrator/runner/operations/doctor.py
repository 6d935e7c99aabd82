"""A close look at targets, and on request the removal of what is provably debris."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from automigrator.backends.contract.examiner import Damage, Examiner
from automigrator.backends.contract.values import Verdict
from automigrator.failure import Failure
from automigrator.migrations.created_tables import there_already
from automigrator.runner.operations.checkup import Checkup, TargetCheckup
from automigrator.runner.operations.status import standing
from automigrator.runner.session import Session, opened
from automigrator.status import TargetStatus
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line
from automigrator.target import Ahead, Target

logger = logger_of(__name__)

T = TypeVar("T")


async def checkup(
    targets: Sequence[Target], ahead: Ahead, max_failed_starts: int, *, repair: bool
) -> Checkup:
    """Look at every target; nothing is changed unless `repair` says so."""
    found = []
    for target in targets:
        async with opened(target) as session:
            status = await standing(target, target.ahead or ahead, max_failed_starts)
            seen = await _examined(session, status)
            found.append(await _repaired(session, seen) if repair else seen)
    return Checkup(tuple(found))


async def _examined(session: Session, status: TargetStatus) -> TargetCheckup:
    backend = session.backend
    unknown: list[str] = []

    async def known(what: str, asked: Awaitable[T], otherwise: T) -> T:
        """One part that fails must not hide the others."""
        try:
            return await asked
        except Exception as error:  # noqa: BLE001 - it is said
            unknown.append(f"{what} ({first_line(error)})")
            return otherwise

    sight = None
    if not _locked(status.problem):  # else a look has just waited in vain
        try:
            async with asyncio.timeout(session.target.connect_timeout):
                sight = await backend.look([session.table])
        except Exception as error:  # noqa: BLE001 - what is wrong is what is asked for
            found = backend.classify(error)
            if not _locked(found):
                return TargetCheckup(status, reachable=found.kind == "corrupt")
    examiner = session.examiner()
    if examiner is None:
        what = f"anything else: the backend of {backend.name} offers no close look"
        return TargetCheckup(status, unknown=(what,))
    copies = await known("what is kept beside it", examiner.copies(), ())
    if sight is not None and not sight.exists:
        return TargetCheckup(status, copies=copies, unknown=tuple(unknown))
    holder = await known("who holds the lock", examiner.holder(), None)
    record = await known("how the last start ended", examiner.record(), None)
    if sight is None:
        unknown.append(
            "whether it is damaged, and what was left behind: the database is locked, and is not "
            "read until whoever has locked it is done"
        )
        return TargetCheckup(
            status, holder=holder, record=record, copies=copies, unknown=tuple(unknown)
        )
    return TargetCheckup(
        status,
        holder=holder,
        record=record,
        copies=copies,
        damage=await known("whether it is damaged", examiner.damage(), Damage()),
        debris=await known("what was left behind", examiner.debris(), ()),
        hints=await known("what exists already", _hints(session, examiner, status.pending), ()),
        unknown=tuple(unknown),
    )


def _locked(found: Failure | Verdict | None) -> bool:
    """Whether the database answers, and cannot be read for another's lock."""
    return found is not None and found.kind == "lock-timeout"


async def _hints(session: Session, examiner: Examiner, pending: Sequence[str]) -> tuple[str, ...]:
    return await there_already(examiner, await session.history(), pending) if pending else ()


async def _repaired(session: Session, seen: TargetCheckup) -> TargetCheckup:
    """Remove what is provably debris, under the lock, and say what was done and what was not."""
    left = [f"kept: {each.what}: {each.why}" for each in seen.debris if not each.provable]
    provable = [each for each in seen.debris if each.provable]
    if not provable:
        return seen._replace(repairs=tuple(left))
    if seen.holder:
        # what it leaves is not known before it ends, and nobody is to wait for that unasked
        left.insert(
            0,
            f"nothing was removed: the migration lock is held by {seen.holder}; try again when "
            "that process is done",
        )
        return seen._replace(repairs=tuple(left))

    def waiting(seconds: float, leader: str) -> None:
        logger.info("%s: waiting for the migration lock, held by %s", seen.name, leader)

    examiner = session.examiner()
    assert examiner is not None
    done: list[str] = []
    try:
        async with session.lock(waiting) as hold:
            sight = await hold.look([session.table])
            if sight.unfinished:
                done.append(
                    "nothing was removed: a run did not end, and the next start must first finish "
                    "or undo what it began"
                )
            else:
                history = await session.history()
                applied = [each for each in sight.all_heads() if history.knows([each])]
                for each in provable:
                    await hold.confirm()
                    again = each.rebuilds and history.names(each.object[1], applied)
                    act = examiner.rebuild if again else examiner.remove
                    why_not = await act(each)
                    kept = f"kept: {each.what}: {why_not}"
                    made = "built again, as a revision made it" if again else "removed"
                    done.append(kept if why_not else f"{made}: {each.what}")
    except Exception as error:  # noqa: BLE001 - what was done so far is what is asked for
        done.append(f"nothing more was removed: {first_line(error)}")
    for line in done:
        logger.warning("%s: %s", seen.name, line)
    debris = await examiner.debris()
    return seen._replace(debris=debris, repairs=(*done, *left))
