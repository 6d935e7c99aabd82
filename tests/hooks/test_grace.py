"""A hook that is cancelled has a short grace; what acts on the database is never cut off."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from automigrator.errors import HookError, RefusedError
from automigrator.hooks import calls
from automigrator.hooks.calls import acting
from automigrator.hooks.registry import Hooks
from automigrator.hooks.spec import hookimpl

LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "GRACE_S", 0.2)


@pytest.fixture
def going_on() -> Iterator[threading.Event]:
    """What a hook waits for that does not end by itself."""
    event = threading.Event()
    yield event
    event.set()


class Plugin:
    def __init__(self, before_migrate: Callable[[], Any]) -> None:
        self._before_migrate = before_migrate


class Async(Plugin):
    @hookimpl
    async def before_migrate(self) -> None:
        await self._before_migrate()


class Sync(Plugin):
    @hookimpl
    def before_migrate(self) -> None:
        self._before_migrate()


class Left:
    """Whom it was told of that is left behind."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextlib.contextmanager
    def __call__(self, hook: str, blame: str) -> Iterator[Callable[[], object]]:
        yield lambda: self.names.append(f"{hook} of {blame}")


async def cancelled(hooks: Hooks, left: Left) -> float:
    """Cancel the call of a hook soon after it began; returns the seconds until it has ended."""
    task = asyncio.create_task(hooks.before_migrate(object(), left))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


async def test_one_that_swallows_its_cancellation_is_left_behind_and_named(
    going_on: threading.Event,
) -> None:
    async def stubborn() -> None:
        while not going_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    left = Left()

    assert await cancelled(Hooks([Async(stubborn)], []), left) < LIMIT_S

    assert left.names == ["before_migrate of Async"]
    going_on.set()
    await asyncio.sleep(0.05)


async def test_a_plain_function_blocks_neither_the_loop_nor_whoever_cancels(
    going_on: threading.Event,
) -> None:
    left = Left()

    assert await cancelled(Hooks([Sync(lambda: going_on.wait(60))], []), left) < LIMIT_S

    assert left.names == ["before_migrate of Sync"]


async def test_a_plain_function_has_a_deadline_too(going_on: threading.Event) -> None:
    left = Left()
    hooks = Hooks([Sync(lambda: going_on.wait(60))], [], deadline_s=0.05)

    with pytest.raises(HookError, match=r"deadline of 0\.05 s .* left behind.* within 0\.2 s"):
        await hooks.before_migrate(object(), left)  # type: ignore[arg-type]

    assert left.names == ["before_migrate of Sync"]


@pytest.mark.parametrize("kind", [Async, Sync])
async def test_one_that_ends_within_its_grace_is_waited_for(kind: type[Plugin]) -> None:
    ended: list[str] = []

    async def tidies() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.append("async")

    def short() -> None:
        time.sleep(0.1)
        ended.append("sync")

    left = Left()

    await cancelled(Hooks([kind(tidies if kind is Async else short)], []), left)

    assert (len(ended), left.names) == (1, [])


async def test_a_strategy_is_awaited_as_long_as_it_takes() -> None:
    ended: list[str] = []

    async def restores() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(0.5)
        ended.append("restored")

    left = Left()

    await cancelled(Hooks([], [("restore", Async(restores))]), left)

    assert (ended, left.names) == (["restored"], [])


async def test_an_act_on_the_database_ends_before_its_hook_is_left_and_no_other_begins() -> None:
    ended: list[str] = []

    async def acts() -> None:
        with acting("restore a snapshot"):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await asyncio.sleep(0.6)
            ended.append("restored")
        try:
            with acting("take a snapshot"):
                raise AssertionError("nothing may begin any more")
        except RefusedError as error:
            ended.append(str(error))

    left = Left()

    await cancelled(Hooks([Async(acts)], []), left)

    assert ended[0] == "restored" and left.names == []
    assert ended[1:] == ["cannot take a snapshot: the hook was told to end; nothing was changed"]
