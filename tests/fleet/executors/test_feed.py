"""The tenants that an executor takes, and those that it takes again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from automigrator.fleet.executors.feed import Feed


async def names(*given: str) -> AsyncIterator[str]:
    for name in given:
        yield name


async def test_it_gives_each_tenant_once_and_ends_when_all_are_done() -> None:
    feed = Feed(names("a", "b"))
    assert [await feed.take(), await feed.take()] == ["a", "b"]
    end = asyncio.ensure_future(feed.take())
    await asyncio.sleep(0)
    feed.done("a")
    await asyncio.sleep(0)
    assert not end.done(), "b may have to be taken again"
    feed.done("b")
    assert await end is None


async def test_one_that_is_given_back_is_taken_while_the_rollout_waits() -> None:
    reported = asyncio.Event()

    async def in_groups() -> AsyncIterator[str]:
        yield "canary"
        await reported.wait()
        yield "rest"

    feed = Feed(in_groups())
    assert await feed.take() == "canary"
    waiting = asyncio.ensure_future(feed.take())
    await asyncio.sleep(0)
    feed.give_back("canary")
    assert await waiting == "canary"
    reported.set()
    feed.done("canary")
    assert await feed.take() == "rest"
    await feed.aclose()


async def test_nothing_is_asked_for_that_nobody_takes() -> None:
    asked = []

    async def counted() -> AsyncIterator[str]:
        for name in ("a", "b", "c"):
            asked.append(name)
            yield name

    feed = Feed(counted())
    await feed.take()
    await asyncio.sleep(0)
    assert asked == ["a"]
    await feed.aclose()


async def test_a_take_that_is_cancelled_loses_no_tenant() -> None:
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        await gate.wait()
        yield "a"

    feed = Feed(slow())
    taking = asyncio.ensure_future(feed.take())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait({taking})
    gate.set()
    assert await feed.take() == "a"


async def test_an_error_of_the_tenants_is_raised() -> None:
    async def broken() -> AsyncIterator[str]:
        yield "a"
        raise ZeroDivisionError

    feed = Feed(broken())
    await feed.take()
    with pytest.raises(ZeroDivisionError):
        await feed.take()
