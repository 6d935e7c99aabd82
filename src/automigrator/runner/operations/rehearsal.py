"""Applies what is pending to a copy that a person made, and measures it; the copy stays so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from automigrator.backends.contract.lock import Hold
from automigrator.errors import AutomigratorError, RefusedError
from automigrator.failure import Failure, FailureKind
from automigrator.migrations.baseline import stamp
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Execution, left_open
from automigrator.rehearsal import Rehearsal
from automigrator.rehearsed import Rehearsed
from automigrator.report import Applied
from automigrator.runner.diagnosis import diagnose
from automigrator.runner.inspection import Finding, baseline_of, inspect, judge
from automigrator.runner.rehearsals.copy_meter import CopyMeter, usage_of
from automigrator.runner.session import Session, opened
from automigrator.runner.state import Left
from automigrator.support.redaction import first_line
from automigrator.target import Target, passwords_of

ALONE = (
    "the database of target {name!r} cannot be asked which one it is ({why}), so nobody knows "
    "whether the copy is another one; nothing was changed. Rehearse from where it can be reached, "
    "or say with apart=True (--apart) that the copy is no database of the application"
)


async def rehearsed_on(
    targets: Sequence[Target], chosen: Target, copy: Target, limits: Rehearsal, *, apart: bool
) -> Rehearsed:
    """Apply what is pending for `chosen` to the database of `copy`, for good, and measure it.

    `targets`: all of the application's, none of which the copy may be. `apart`: one that cannot be
    asked counts as another one. Raises RefusedError, and what looking at the copy raises; what a
    revision raises is the answer's `failure`.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(opened(copy))
        if not (await session.backend.look([session.table])).exists:
            raise RefusedError(f"the copy {copy.url} does not exist; nothing was changed")
        live = await stack.enter_async_context(_beside(session, targets, chosen, apart))
        before = await usage_of(live.backend) if live is not None else None
        metering = CopyMeter(session.backend, (*passwords_of(copy), *passwords_of(chosen)))
        async with session.lock(lambda *_: None) as hold:
            finding = await _found(session, hold)
            execution = Execution()
            failure = None
            if finding.pending:
                failure = await _applied(session, hold, finding, metering, execution)
            after = (await hold.look(finding.tables)).all_heads()
        backend = live.backend if live is not None else None
        measurement = await metering.measurement(backend, before, limits)
    notes = () if live is not None else (_NOT_ASKED,)
    return Rehearsed(
        chosen.name,
        copy.url,
        finding.heads,
        after,
        tuple(Applied(*each) for each in execution.done.items()),
        measurement,
        failure,
        notes,
    )


_NOT_ASKED = (
    "the application's database was not asked how its tables are used: how many would wait is not "
    "known, nor whether the copy is as large"
)


@asynccontextmanager
async def _beside(
    session: Session, targets: Sequence[Target], chosen: Target, apart: bool
) -> AsyncIterator[Session | None]:
    """Context manager: the chosen target, where it can be reached; no target is the copy.

    Raises RefusedError.
    """
    identity = await session.backend.identity(session.place)
    async with AsyncExitStack() as stack:
        found: Session | None = None
        for target in targets:
            try:
                live = await stack.enter_async_context(opened(target))
                if live.backend.name != session.backend.name:
                    continue
                if not (await live.backend.look([live.table])).exists:
                    continue
                same = identity == await live.backend.identity(live.place)
            except Exception as error:
                if not apart:
                    why = first_line(error)
                    raise RefusedError(ALONE.format(name=target.name, why=why)) from error
                continue
            if same:
                raise RefusedError(
                    f"{session.target.url} is the database of target {target.name!r} itself, and "
                    "no copy; nothing was changed. A rehearsal changes the database that it is "
                    "given: name a restored or masked copy"
                )
            found = live if target is chosen else found
        yield found


async def _found(session: Session, hold: Hold) -> Finding:
    """How the copy stands; one without a version row is given the target's baseline."""
    finding = await inspect(session, hold, needs_way=True)
    judge(session.target, finding)
    baseline = baseline_of(session.target, finding)
    if baseline is None:
        return finding
    await stamp(await session.migration(hold), finding.tables[0], baseline)
    return await inspect(session, hold, needs_way=True)


async def _applied(
    session: Session, hold: Hold, finding: Finding, metering: CopyMeter, execution: Execution
) -> Failure | None:
    """Run what is pending on the copy; what it raised is returned as a failure."""
    assert finding.way is not None
    migration = await session.migration(hold)
    command = Command(session.target.revision, apply=True)
    try:
        async with metering.of(session.place) as execution.measuring:
            await drive(migration, finding.way, command, execution)
        sight = await hold.look(finding.tables)
        if not finding.reached(await session.history(), sight):
            raise execution.error or AutomigratorError(
                f"env.py returned as if all were well{left_open(execution.contexts)}"
            )
    except Exception as error:  # noqa: BLE001 - any error is the answer
        left = Left(revision=execution.current)
        observed = execution.observed if execution.met_a_revision else None
        kind: FailureKind = "revision" if execution.met_a_revision else "env"
        failure = diagnose(
            error,
            session.target,
            session.backend,
            left,
            attempt=1,
            otherwise=kind,
            observed=observed,
        )
        return failure._replace(in_rehearsal=True)
    return None
