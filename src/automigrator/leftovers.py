"""What a failed attempt left in the database, read anew."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from automigrator.databases.backend import Backend
from automigrator.diagnosis import Left
from automigrator.inspection import Finding
from automigrator.upgrade.environment import Execution
from automigrator.upgrade.history import History


async def left_behind(
    backend: Backend,
    history: History,
    finding: Finding,
    execution: Execution,
    known_debris: Collection[str] = (),
    within_s: float | None = None,
) -> Left:
    """The state, the revisions that stay applied, and the debris that was not there before.

    What the database does not say within `within_s` seconds is taken for the worst.
    """
    ran = [revision for revision, _ in execution.done]
    if execution.current is not None:
        ran.append(execution.current)
    try:
        async with asyncio.timeout(within_s):
            sight = await backend.look(list(finding.tables))
            debris = tuple(each for each in await backend.debris() if each not in known_debris)
    except Exception:  # noqa: BLE001 - the error that brought us here is the one to report
        # a dead server rolls back what was not committed
        torn = history.uses_autocommit(ran) or not _one_transaction(finding)
        state = "partial-within-revision" if ran and torn else "clean"
        return Left(state, revision=execution.current)  # type: ignore[arg-type]  # str widens
    heads = sight.all_heads()
    if not history.knows(heads):
        # newer code has migrated it meanwhile: nothing there is this run's to undo
        return Left("clean", revision=execution.current)
    applied = history.applied(_new(history, finding, ran), heads)
    lost = [revision for revision in ran if revision not in applied]
    if debris or history.uses_autocommit(lost):
        return Left("partial-within-revision", applied, debris, execution.current)
    if applied:
        return Left("partial-at-boundary", applied, (), execution.current)
    return Left("clean", revision=execution.current)


def _new(history: History, finding: Finding, ran: list[str]) -> list[str]:
    """Those of `ran` that the database did not have before."""
    old = set(history.applied(ran, finding.heads))
    return [revision for revision in dict.fromkeys(ran) if revision not in old]


def _one_transaction(finding: Finding) -> bool:
    return all(context.one_transaction for context in finding.contexts)
