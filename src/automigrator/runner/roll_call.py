"""The heads of many targets, by few looks; nothing is locked, and no Alembic is imported."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AsyncExitStack

from automigrator.runner.commons import Commons
from automigrator.runner.fast_path import is_behind, knows_table, wanted_rows
from automigrator.runner.session import Session, opened
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.target import Target

Heads = tuple[str, ...] | None
"""None where only a full look can tell."""

AT_ONCE = 100
"""Targets that are open at the same time."""

logger = logger_of(__name__)


async def heads_of(targets: Sequence[Target], *, alone: bool = True) -> dict[str, Heads]:
    """The heads of each target by its name; see `Cohort.heads`.

    `alone`: also of targets that share their database with none of the others.
    """
    found: dict[str, Heads] = dict.fromkeys(target.name for target in targets)
    known = await in_thread(lambda: [target for target in targets if knows_table(target)])
    for first in range(0, len(known), AT_ONCE):
        found |= await _heads_of(known[first : first + AT_ONCE], alone)
    return found


async def _heads_of(targets: Sequence[Target], alone: bool) -> dict[str, Heads]:
    found: dict[str, Heads] = {}
    async with AsyncExitStack() as stack:
        groups: dict[Hashable, list[Session]] = {}
        for target in targets:
            session = await stack.enter_async_context(opened(target))
            groups.setdefault(session.backend.together or target.name, []).append(session)
        for sessions in groups.values():
            if len(sessions) == 1 and not alone:
                continue
            asked = [(each.backend, each.table) for each in sessions]
            try:
                heads = await sessions[0].backend.heads_of(asked)
            except Exception as error:  # noqa: BLE001 - met again by those that look at each
                logger.debug("heads of many targets: %s", type(error).__name__)
                continue
            found |= {each.target.name: h for each, h in zip(sessions, heads, strict=True)}
    return found


async def lacking(
    targets: Sequence[Target], commons: Commons, *, alone: bool
) -> tuple[Target, ...]:
    """The targets that are not at the wanted heads beyond doubt; see `Cohort.lacking`."""
    heads = await heads_of(targets, alone=alone)
    return await in_thread(lambda: tuple(t for t in targets if _lacks(t, heads[t.name], commons)))


def _lacks(target: Target, heads: Heads, commons: Commons) -> bool:
    if heads is None:
        return True
    if is_behind(target, heads):
        commons.note_behind(target)
    return not heads or frozenset(heads) != wanted_rows(target)
