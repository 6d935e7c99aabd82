"""One env.py at a time runs in a process, or several of one history where that is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

from automigrator.errors import JudgedError
from automigrator.migrations import alembic_private
from automigrator.migrations.runs.inside import NeedsToBeAlone
from automigrator.migrations.runs.process import guarded
from automigrator.migrations.runs.proxy_trial import proxies_are_apart, proxies_known_apart
from automigrator.migrations.runs.together import may_be_beside
from automigrator.migrations.runs.turns import Turn, history_of, holder
from automigrator.support.backoff import Deadline
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.target import Target

logger = logger_of(__name__)

T = TypeVar("T")

_turn: ContextVar[Turn | None] = ContextVar("automigrator_turn", default=None)


@asynccontextmanager
async def alembic_to_ourselves(target: Target, *, alone: bool = False) -> AsyncIterator[None]:
    """Context manager: have Alembic to ourselves, as `alembic.op` is a global.

    In `beside_others` it is had together with runs of the same history, unless `alone`. Raises
    JudgedError when other migrations of this process have it for longer than the target's
    `lock_timeout`.
    """
    turn = await _turn_of(target, alone=alone)
    token = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(token)
        turn.over()


async def alone_in_thread(target: Target, function: Callable[[], T], *, beside: bool = False) -> T:
    """Run in a thread that has Alembic until its end, even when the caller is cancelled.

    `beside`: in `beside_others` it may be had together with runs of the same history. Raises what
    `alembic_to_ourselves` raises.
    """

    def work() -> T:
        _turn.set(turn)
        try:
            return function()
        finally:
            turn.over()

    turn = await _turn_of(target, alone=not beside)
    return await in_thread(work)


async def _turn_of(target: Target, *, alone: bool) -> Turn:
    history = None
    if may_be_beside.get() and await _can_share():
        history = history_of(target)
    turn = Turn(target, history, alone=alone)
    deadline = Deadline(target.lock_timeout)
    told = False
    try:
        while not turn.taken():  # had by other threads and loops
            if deadline.is_over():
                raise JudgedError(
                    "lock-timeout",
                    f"another migration of this process, of target {holder()!r}, has had Alembic "
                    f"to itself for longer than Timeouts(lock={target.lock_timeout:g}); nothing "
                    "was changed",
                    "migrate a process's databases one after another, or raise Timeouts(lock=)",
                )
            if not told:
                told = True
                logger.info("%s: waiting for the migration of %s to end", target.name, holder())
            await asyncio.sleep(0.01)
    except BaseException:
        turn.over()
        raise
    return turn


async def _can_share() -> bool:
    known = proxies_known_apart()
    return await in_thread(proxies_are_apart) if known is None else known


@contextmanager
def running_env() -> Iterator[None]:
    """Context manager: guard the process around one execution of env.py.

    Raises NeedsToBeAlone where the run has others beside it, and must be done again alone.
    """
    turn = _turn.get()
    known = turn.known if turn is not None else None
    inside, ended_well = None, False
    try:
        with (
            _operations_removed() if known is None else alembic_private.dispatched(),
            guarded(known, turn.did if turn is not None else None) as inside,
        ):
            yield
            inside.ensure_not_ended()
            ended_well = True
    except BaseException as error:
        if inside is not None and inside.ended_early and not isinstance(error, NeedsToBeAlone):
            raise NeedsToBeAlone(inside.ended_early) from error
        raise
    finally:
        if turn is not None and inside is not None:
            turn.learn(inside, ended_well=ended_well)


@contextmanager
def _operations_removed() -> Iterator[None]:
    try:
        yield
    finally:
        alembic_private.remove_operations_proxy()
