"""What a client is answered while tenants are migrated: 503 for those that are not there yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.asgi_calls import Server

from automigrator import ConfigurationError
from automigrator.fleet import Fleet, TenantGate


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


def tenant_of(scope: Any) -> str | None:
    """The tenant is the first part of the path; `/` is nobody's."""
    return scope["path"].strip("/").partition("/")[0] or None


@pytest.fixture
def fleet(fleet_of: Callable[..., Fleet], folder: Path) -> Fleet:
    """Tenants a and b, of which b fails."""
    fleet = fleet_of("a", "b")
    fleets.spoil(folder / "b.db")
    return fleet


async def test_a_tenant_is_served_once_it_is_at_head(fleet: Fleet) -> None:
    server = Server(TenantGate(application, fleet, tenant_of))
    answer = await server.get("/a/page")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["detail"] == "this tenant is being upgraded; try again in a moment"
    assert answer.headers["cache-control"] == "no-store"
    assert (await server.get("/")).body == b"served"  # no tenant's

    await fleet.run()
    assert (await server.get("/a/page")).body == b"served"
    answer = await server.get("/b/page")
    assert (answer.status, "until an operator" in answer.json["detail"]) == (503, True)
    assert "revision" not in answer.body.decode() and "posts" not in answer.body.decode()


async def test_a_quarantined_tenant_stays_out_of_service(fleet: Fleet, folder: Path) -> None:
    server = Server(TenantGate(application, fleet, tenant_of))
    await fleet.run()
    await fleet.run()
    assert (await server.get("/b")).status == 503
    fleets.mend(folder / "b.db")
    await fleet.retry("b")
    await fleet.run()
    assert (await server.get("/b")).status == 200


async def test_a_name_that_no_tenant_has_passes_or_is_refused(fleet: Fleet) -> None:
    passing = Server(TenantGate(application, fleet, tenant_of))
    refusing = Server(TenantGate(application, fleet, tenant_of, unknown="refuse"))
    assert (await passing.get("/new")).status == 503  # nobody knows the tenants yet
    await fleet.run()
    assert (await passing.get("/new")).status == 200
    assert (await refusing.get("/new")).status == 404
    assert "retry-after" not in (await refusing.get("/new")).headers


async def test_the_tenant_may_be_looked_up(fleet: Fleet) -> None:
    async def looked_up(scope: Any) -> str:
        return "a"

    server = Server(TenantGate(application, fleet, looked_up))
    assert (await server.get("/")).status == 503


async def test_a_websocket_is_closed_before_its_handshake(fleet: Fleet) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    gate = TenantGate(application, fleet, tenant_of)
    await gate({"type": "websocket", "path": "/a"}, receive, send)
    assert (sent[0]["type"], sent[0]["code"]) == ("websocket.close", 1013)
    sent.clear()
    extensions = {"websocket.http.response": {}}
    await gate({"type": "websocket", "path": "/a", "extensions": extensions}, receive, send)
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 503)


async def test_the_lifespan_is_the_applications(fleet: Fleet) -> None:
    seen: list[str] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await TenantGate(noting, fleet, tenant_of)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_wrong_options_are_refused(fleet: Fleet) -> None:
    with pytest.raises(ConfigurationError):
        TenantGate(application, fleet, "x-tenant")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        TenantGate(application, fleet, tenant_of, unknown="drop")  # type: ignore[arg-type]
