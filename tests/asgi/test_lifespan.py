"""Applications whose lifespans do what the specification lets them, and some that do not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support.asgi_calls import Server, served

from automigrator.asgi import Gate, startup

GateOf = Callable[..., Gate]


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(startup, "_exit", codes.append)
    return codes


def application(lifespan: Callable[[Any, Any], Any]) -> Any:
    """One that answers requests with 204, and has this lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    return app


async def starts(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})


class TestTheStart:
    async def test_one_without_a_lifespan_raises_and_is_served(self, gate_of: GateOf) -> None:
        async def lifespan(receive: Any, send: Any) -> None:
            raise KeyError("path")

        async with served(gate_of(application(lifespan), mode="skip")) as server:
            await server.ready()
            assert (await server.get("/users")).status == 204

    async def test_what_is_no_asgi_application_is_told_by_its_first_request(
        self, gate_of: GateOf
    ) -> None:
        def app(environ: Any, start_response: Any) -> Any:
            return []

        async with served(gate_of(app, mode="skip")) as server:
            await server.ready()
            with pytest.raises(TypeError, match="positional"):
                await server.get("/users")

    @pytest.mark.parametrize("says", [True, False])
    async def test_one_that_returns_early_is_served(self, gate_of: GateOf, says: bool) -> None:
        async def lifespan(receive: Any, send: Any) -> None:
            await (starts(receive, send) if says else receive())

        async with served(gate_of(application(lifespan), mode="skip")) as server:
            await server.ready()
            assert (await server.get("/users")).status == 204

    async def test_one_that_raises_has_not_started(self, gate_of: GateOf, exits: list[int]) -> None:
        async def lifespan(receive: Any, send: Any) -> None:
            await receive()
            raise RuntimeError("no cache")

        async with served(gate_of(application(lifespan), mode="skip")) as server:
            state = await server.state_is("failed")
            assert (await server.get("/users")).status == 503
        assert state["reason"] == "the application did not start: RuntimeError: no cache"
        assert exits == [3]

    async def test_one_that_still_starts_is_cancelled_with_the_server(
        self, gate_of: GateOf
    ) -> None:
        seen = []

        async def lifespan(receive: Any, send: Any) -> None:
            await receive()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                seen.append("cleaned up")

        async with served(gate_of(application(lifespan), mode="skip")) as server:
            await server.state_is("application")
        assert seen == ["cleaned up"]
        assert server.said[-1] == {"type": "lifespan.shutdown.complete"}


class TestTheEnd:
    @pytest.mark.parametrize("says", [True, False])
    async def test_a_failure_is_the_server_s(self, gate_of: GateOf, says: bool) -> None:
        async def lifespan(receive: Any, send: Any) -> None:
            await starts(receive, send)
            assert (await receive())["type"] == "lifespan.shutdown"
            if not says:
                raise RuntimeError("not empty")
            await send({"type": "lifespan.shutdown.failed", "message": "not empty"})

        async with served(gate_of(application(lifespan), mode="skip")) as server:
            await server.ready()
        said = server.said[-1]
        assert said["type"] == "lifespan.shutdown.failed"
        assert said["message"].startswith("the application did not end: ")
        assert said["message"].endswith("not empty")

    async def test_one_that_never_answers_is_waited_for_and_ends_with_the_server(
        self, gate_of: GateOf
    ) -> None:
        """A server that has a limit cancels; one that has none would wait without the gate, too."""
        seen = []

        async def lifespan(receive: Any, send: Any) -> None:
            await starts(receive, send)
            await receive()
            seen.append("asked")
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cancelled")

        server = Server(gate_of(application(lifespan), mode="skip"))
        await server.start()
        await server.ready()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.stop(), 0.05)
        assert seen == ["asked", "cancelled"]
        assert [each["type"] for each in server.said] == ["lifespan.startup.complete"]

    async def test_one_that_dies_while_it_serves_is_told_at_once(
        self, gate_of: GateOf, caplog: pytest.LogCaptureFixture
    ) -> None:
        dies = asyncio.Event()

        async def lifespan(receive: Any, send: Any) -> None:
            await starts(receive, send)
            await dies.wait()
            raise RuntimeError("the consumer has died")

        async with served(gate_of(application(lifespan), mode="skip")) as server:
            await server.ready()
            dies.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            (told,) = [each for each in caplog.records if each.levelno == logging.ERROR]
            assert told.exc_info is not None
            assert str(told.exc_info[1]) == "the consumer has died"
            assert (await server.get("/users")).status == 204
        assert server.said[-1] == {"type": "lifespan.shutdown.complete"}
