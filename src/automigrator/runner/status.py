"""How a target stands, and what a run would do to it; finding out changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import MetaData

from automigrator.errors import ConfigurationError, UnknownRevisionError
from automigrator.failure import Failure
from automigrator.runner.diagnosis import diagnose
from automigrator.runner.inspection import Finding, inspect, judge
from automigrator.runner.session import Session, opened
from automigrator.runner.state import Left
from automigrator.runner.version_skew import Served, judged
from automigrator.status import Plan, Status, TargetStatus
from automigrator.support.redaction import hide_secrets
from automigrator.target import Ahead, Target, passwords_of

NOT_COMPARED = "the models were not compared: the database is not at the heads of this code"


Metadata = MetaData | Sequence[MetaData]

Models = Metadata | Mapping[str, Metadata]


async def status(targets: Sequence[Target], ahead: Ahead, models: Models | None = None) -> Status:
    """How every target stands. Raises ConfigurationError where it is not clear whose models."""
    of = _by_target([target.name for target in targets], models)
    found = [await standing(each, each.ahead or ahead, of.get(each.name)) for each in targets]
    return Status(tuple(found))


def _by_target(names: Sequence[str], models: Models | None) -> Mapping[str, Metadata]:
    if models is None:
        return {}
    if not isinstance(models, Mapping):
        if len(names) > 1:
            raise ConfigurationError(
                "there are several targets; say whose models these are with "
                f"models={{{names[0]!r}: metadata}}"
            )
        return {names[0]: models}
    for name in models:
        if name not in names:
            raise ConfigurationError(
                f"models= names {name!r}, and there is no target of that name: {', '.join(names)}"
            )
    return models


async def standing(target: Target, ahead: Ahead, models: Metadata | None = None) -> TargetStatus:
    """Compare a database with its history; what is wrong with either is the `problem`.

    With `models`, they are compared with a database that is at its heads.
    """
    async with opened(target) as session:
        finding: Finding | None = None
        problem: Failure | None = None
        drift: tuple[str, ...] | None = None
        try:
            try:
                finding = await _found(session)
            except UnknownRevisionError as error:
                served = await judged(session, ahead, error)
                return await _served(session, served, models is not None)
            judge(target, finding)
            drift = await _drift(session, finding, models)
        except Exception as error:  # noqa: BLE001 - any error is what is wrong with the target
            hide_secrets(error, passwords_of(target))
            problem = diagnose(error, target, session.backend, Left(), attempt=0, otherwise="env")
            if finding is None:
                return TargetStatus(
                    target.name,
                    exists=False,
                    problem=problem,
                    unfinished=await _unfinished(session),
                )
        return TargetStatus(
            target.name,
            exists=finding.sight.exists,
            heads=finding.heads,
            wanted=finding.wanted,
            pending=finding.pending,
            problem=problem,
            unfinished=finding.sight.unfinished,
            notes=(NOT_COMPARED,) if models is not None and drift is None else (),
            drift=drift,
        )


async def planned(target: Target, ahead: Ahead, *, sql: bool) -> Plan:
    """The pending revisions in order. Raises what looking raises, and JudgedError."""
    from automigrator.migrations.offline_sql import rendered

    async with opened(target) as session:
        try:
            finding = await _found(session)
        except UnknownRevisionError as error:
            served = await judged(session, ahead, error)
            return Plan(target.name, served.heads, served.heads, (), notes=(served.note,))
        history = await session.history()
        text = None
        if sql:
            text = await rendered(await session.migration(), finding.heads)
        return Plan(
            target.name,
            before=finding.heads,
            after=finding.wanted,
            revisions=history.describe(finding.pending),
            sql=text,
        )


async def _drift(
    session: Session, finding: Finding, models: Metadata | None
) -> tuple[str, ...] | None:
    if models is None or not finding.sight.exists or finding.pending or finding.unversioned:
        return None
    from automigrator.migrations.comparison import drift

    return await drift(await session.migration(), models)


async def _served(session: Session, served: Served, compare: bool) -> TargetStatus:
    return TargetStatus(
        session.target.name,
        exists=True,
        heads=served.heads,
        wanted=served.wanted,
        unfinished=(await session.backend.look([session.table])).unfinished,
        notes=(served.note, *([NOT_COMPARED] if compare else [])),
    )


async def _found(session: Session) -> Finding:
    return await inspect(session)


async def _unfinished(session: Session) -> bool:
    """Whether a journal is open, where looking at the database or the history failed."""
    try:
        return (await session.backend.look([session.table])).unfinished
    except Exception:  # noqa: BLE001 - it was met before, and is told
        examiner = session.backend.examiner([session.table])
        return examiner is not None and await examiner.unfinished()
