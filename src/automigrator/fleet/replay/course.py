"""The course of an upgrade: stretches that are replayed, and those that Alembic runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from typing import NamedTuple

from automigrator.fleet.replay.plan import Plan, UnsafeError
from automigrator.fleet.replay.player import NOBODY, Player, Told
from automigrator.fleet.replay.renderer import rendered
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Configured, Execution, Migration
from automigrator.migrations.history import History
from automigrator.migrations.offline_sql import Heads
from automigrator.migrations.ways import Way


class Stretch(NamedTuple):
    """Revisions that follow each other; `plan` is None for those that Alembic runs."""

    revisions: Heads
    plan: Plan | None


class Course(NamedTuple):
    """All pending revisions, in order."""

    stretches: tuple[Stretch, ...]

    @property
    def needs_env(self) -> bool:
        """Whether env.py is run for a part of it."""
        return any(each.plan is None for each in self.stretches)

    @property
    def one_transaction(self) -> bool:
        """Whether all of it is in one."""
        plans = [each.plan for each in self.stretches]
        return len(plans) == 1 and plans[0] is not None and plans[0].one_transaction

    def of(self, tenant: str | None) -> Course:
        """The course of one tenant."""
        return Course(
            tuple(each._replace(plan=each.plan and each.plan.of(tenant)) for each in self.stretches)
        )


async def composed(
    migration: Migration,
    context: Configured,
    heads: Heads | None,
    tenant: str | None,
    unsafe: Collection[str],
) -> Course:
    """Render the pending revisions but for the `unsafe`. Raises UnsafeError."""
    stretches = []
    for revisions, alembic, at in _stretches(migration.history, context, heads, unsafe):
        plan = None
        if not alembic:
            target = migration.target
            if len(revisions) < len(context.pending):
                target = target._replace(revision=revisions[-1])
            asked = migration._replace(target=target)
            plan = await rendered(asked, context, at, tenant)
            if plan.revisions != revisions:
                raise UnsafeError("env.py's offline mode runs other revisions")
        stretches.append(Stretch(revisions, plan))
    return Course(tuple(stretches))


def _stretches(
    history: History, context: Configured, heads: Heads | None, unsafe: Collection[str]
) -> Iterator[tuple[Heads, bool, Heads | None]]:
    """Yield revisions, whether Alembic runs them, and the heads that they start from."""
    at = heads
    for alembic, group in groupby(context.pending, lambda each: each in unsafe):
        revisions = tuple(group)
        whole = len(revisions) == len(context.pending)
        if not whole and history.ids(history.steps(revisions[-1], at or ())) != revisions:
            raise UnsafeError("branches of the history cross what Alembic is to run")
        yield revisions, alembic, at
        at = history.maximal((*(at or ()), *revisions))


async def followed(
    migration: Migration,
    course: Course,
    execution: Execution,
    way: Way | None,
    told: Told = NOBODY,
) -> None:
    """Apply all of a course; `way` is needed where env.py is. Raises what either raises."""
    for each in course.stretches:
        if each.plan is not None:
            await Player(migration, each.plan, execution, told).play()
            continue
        assert way is not None
        command = Command(each.revisions[-1], True, False, *told)
        await drive(migration, way, command, execution)
        if execution.error is not None:
            raise execution.error
