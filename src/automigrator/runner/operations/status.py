"""How a target stands, and what a run would do to it; finding out changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import MetaData

from automigrator.errors import ConfigurationError
from automigrator.failure import Failure
from automigrator.runner.diagnosis import diagnose
from automigrator.runner.inspection import Finding, judge
from automigrator.runner.operations.past_starts import PastStarts, past_starts
from automigrator.runner.records.edits import noticed
from automigrator.runner.session import Session, opened
from automigrator.runner.state import Left
from automigrator.runner.version_skew import Served, inspected
from automigrator.status import Plan, Status, TargetStatus
from automigrator.support.redaction import first_line
from automigrator.target import Ahead, Target

NOT_COMPARED = "the models were not compared: the database is not at the heads of this code"


Metadata = MetaData | Sequence[MetaData]

Models = Metadata | Mapping[str, Metadata]


async def status(
    targets: Sequence[Target], ahead: Ahead, max_failed_starts: int, models: Models | None = None
) -> Status:
    """How every target stands. Raises ConfigurationError where it is not clear whose models."""
    of = _by_target([target.name for target in targets], models)
    most = max_failed_starts
    found = [await standing(each, each.ahead or ahead, most, of.get(each.name)) for each in targets]
    return Status(tuple(found))


def _by_target(names: Sequence[str], models: Models | None) -> Mapping[str, Metadata]:
    if not isinstance(models, Mapping):
        if models is not None and len(names) > 1:
            raise ConfigurationError(
                "there are several targets; say whose models these are with "
                f"models={{{names[0]!r}: metadata}}"
            )
        return {names[0]: models} if models is not None else {}
    for name in models:
        if name not in names:
            raise ConfigurationError(
                f"models= names {name!r}, and there is no target of that name: {', '.join(names)}"
            )
    return models


async def standing(
    target: Target,
    ahead: Ahead,
    max_failed_starts: int | None = None,
    models: Metadata | None = None,
) -> TargetStatus:
    """Compare a database with its history; what is wrong with either is the `problem`.

    With `models`, they are compared with a database that is at its heads. `max_failed_starts`:
    the Migrator's; default None: failed starts are not asked for.
    """
    not_compared = (NOT_COMPARED,) if models is not None else ()
    async with opened(target) as session:
        try:
            found = await inspected(session, ahead)
            if isinstance(found, Served):
                return TargetStatus(
                    target.name,
                    exists=True,
                    heads=found.heads,
                    wanted=found.wanted,
                    unfinished=(sight := await session.backend.look([session.table])).unfinished,
                    notes=(found.note, *sight.notes, *not_compared),
                )
        except Exception as error:  # noqa: BLE001 - any error is what is wrong with the target
            problem = _problem(session, error)
            unfinished = await _unfinished(session, problem)
            return TargetStatus(target.name, exists=False, problem=problem, unfinished=unfinished)
        wrong: Failure | None = None
        drift: tuple[str, ...] | None = None
        edited = ""
        try:
            judge(target, found)
            edited = await noticed(session, found)
            drift = await _drift(session, found, models)
        except Exception as error:  # noqa: BLE001 - as above
            wrong = _problem(session, error)
        starts = PastStarts()
        notes = [*found.notes, *found.sight.notes, *filter(None, [edited])]
        if max_failed_starts is not None and found.sight.exists and found.pending:
            try:
                starts = await past_starts(session, found.pending, max_failed_starts)
            except Exception as error:  # noqa: BLE001 - the rest is known all the same
                notes.append(f"how many starts have failed is not known ({first_line(error)})")
        if drift is None:
            notes += not_compared
        return TargetStatus(
            target.name,
            exists=found.sight.exists,
            heads=found.heads,
            wanted=found.wanted,
            pending=found.pending,
            problem=wrong,
            unfinished=found.sight.unfinished,
            failed_starts=starts.many,
            failing_since=starts.since,
            tries_again_at=starts.tries_again_at,
            last_failure=starts.last_failure,
            notes=tuple(notes),
            drift=drift,
        )


def _problem(session: Session, error: Exception) -> Failure:
    return diagnose(error, session.target, session.backend, Left(), attempt=0, otherwise="env")


async def planned(target: Target, ahead: Ahead, *, sql: bool) -> Plan:
    """The pending revisions in order. Raises what looking raises, and JudgedError."""
    from automigrator.migrations.offline_sql import rendered

    async with opened(target) as session:
        found = await inspected(session, ahead)
        if isinstance(found, Served):
            return Plan(target.name, found.heads, found.heads, (), notes=(found.note,))
        history = await session.history()
        rows = {each.table: found.sight.heads.get(each.table) for each in found.contexts}
        return Plan(
            target.name,
            before=found.heads,
            after=found.wanted,
            revisions=history.describe(found.pending),
            sql=await rendered(await session.migration(), rows) if sql else None,
        )


async def _drift(
    session: Session, finding: Finding, models: Metadata | None
) -> tuple[str, ...] | None:
    if models is None or not finding.sight.exists or finding.pending or finding.unversioned:
        return None
    from automigrator.migrations.comparison import drift

    return await drift(await session.migration(), models)


async def _unfinished(session: Session, problem: Failure) -> bool:
    """Whether a journal is open, where looking at the database or the history failed."""
    if problem.kind != "lock-timeout":  # else another look would wait in vain, too
        try:
            return (await session.backend.look([session.table])).unfinished
        except Exception:  # noqa: BLE001 - it was met before, and is told
            pass
    examiner = session.examiner()
    return examiner is not None and await examiner.unfinished()
