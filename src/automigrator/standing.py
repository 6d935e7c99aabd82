"""How a target stands, and what a run would do to it; finding out changes nothing."""

from __future__ import annotations

from automigrator.diagnosis import Left, diagnose, with_hidden_parameters
from automigrator.failure import Failure
from automigrator.inspection import Finding, inspect, judge
from automigrator.opening import Ground, opened
from automigrator.report import Plan, TargetStatus
from automigrator.skew import Served, judged
from automigrator.target import Ahead, Target
from automigrator.upgrade.history import UnknownRevisionError


async def standing(target: Target, ahead: Ahead) -> TargetStatus:
    """Compare a database with its history; what is wrong with either is the `problem`."""
    async with opened(target) as ground:
        finding: Finding | None = None
        problem: Failure | None = None
        try:
            try:
                finding = await _found(ground)
            except UnknownRevisionError as error:
                served = await judged(ground, ahead, error)
                return _served(target, served)
            judge(target, finding)
        except Exception as error:  # noqa: BLE001 - any error is what is wrong with the target
            with_hidden_parameters(error)
            problem = diagnose(error, target, ground.backend, Left(), attempt=0, otherwise="env")
            if finding is None:
                return TargetStatus(
                    target.name,
                    exists=False,
                    problem=problem,
                    unfinished=ground.backend.unfinished(),
                )
        return TargetStatus(
            target.name,
            exists=finding.sight.exists,
            heads=finding.heads,
            wanted=finding.wanted,
            pending=finding.pending,
            problem=problem,
            unfinished=ground.backend.unfinished(),
        )


async def planned(target: Target, ahead: Ahead, *, sql: bool) -> Plan:
    """The pending revisions in order. Raises what looking raises, and JudgedError."""
    from automigrator.upgrade.offline import rendered

    async with opened(target) as ground:
        try:
            finding = await _found(ground)
        except UnknownRevisionError as error:
            served = await judged(ground, ahead, error)
            return Plan(target.name, served.heads, served.heads, (), notes=(served.note,))
        history = await ground.history()
        text = None
        if sql:
            text = await rendered(target, ground.backend, history, finding.heads)
        return Plan(
            target.name,
            before=finding.heads,
            after=finding.wanted,
            revisions=history.describe(finding.pending),
            sql=text,
        )


def _served(target: Target, served: Served) -> TargetStatus:
    return TargetStatus(
        target.name,
        exists=True,
        heads=served.heads,
        wanted=served.wanted,
        notes=(served.note,),
    )


async def _found(ground: Ground) -> Finding:
    return await inspect(ground.target, ground.backend, await ground.history(), ground.place)
