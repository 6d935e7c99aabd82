"""ASGI middleware: requests of tenants that are not at head yet are answered 503, no others."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Literal

from automigrator.errors import ConfigurationError
from automigrator.fleet.fleet import Fleet
from automigrator.support.asgi import (
    TRY_AGAIN_LATER,
    Application,
    Receive,
    Scope,
    Send,
    as_json,
    problem,
    respond,
)

TenantOf = Callable[[Scope], str | Awaitable[str | None] | None]

Unknown = Literal["pass", "refuse"]

_UPGRADING = "this tenant is being upgraded; try again in a moment"
_OUT_OF_SERVICE = "this tenant is out of service until an operator has repaired it"
_NOBODY = "there is no such tenant"


class TenantGate:
    """Lets a tenant's requests through to the application once the tenant is at head.

    `app`: the application. `fleet`: whose `ready` is asked, in memory. `tenant_of`: called, or
    awaited, with the ASGI scope of a request or websocket; returns the tenant's name, or None for
    a request of no tenant, which passes. `unknown`: what becomes of a name that no tenant has,
    `"pass"` (default), as the application knows best, or `"refuse"`, 404; until the tenants were
    read once it is 503 either way. `retry_after`: seconds of the header; default 5.

    Answers are generic: they name no tenant, no revision and no error. Raises ConfigurationError.
    """

    def __init__(
        self,
        app: Application,
        fleet: Fleet,
        tenant_of: TenantOf,
        *,
        unknown: Unknown = "pass",
        retry_after: int = 5,
    ) -> None:
        if not callable(tenant_of):
            raise ConfigurationError("tenant_of= is called with a request's scope")
        if unknown not in ("pass", "refuse"):
            raise ConfigurationError(f"unknown={unknown!r} is neither 'pass' nor 'refuse'")
        self._app, self._fleet, self._tenant_of = app, fleet, tenant_of
        self._unknown, self._retry_after = unknown, str(retry_after)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; see ASGI."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        found = self._tenant_of(scope)
        name = await found if inspect.isawaitable(found) else found
        if name is None or self._fleet.ready(name):
            return await self._app(scope, receive, send)
        standing = self._fleet.standing(name)
        if standing == "unknown":
            if self._unknown == "pass":
                return await self._app(scope, receive, send)
            return await self._answer(scope, receive, send, HTTPStatus.NOT_FOUND, _NOBODY)
        detail = _OUT_OF_SERVICE if standing == "out of service" else _UPGRADING
        await self._answer(scope, receive, send, HTTPStatus.SERVICE_UNAVAILABLE, detail)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, status: HTTPStatus, detail: str
    ) -> None:
        headers = {"content-type": "application/problem+json"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["retry-after"] = self._retry_after
        body = as_json(problem(status, detail))
        if scope["type"] == "http":
            return await respond(scope, send, status, body, headers)
        await receive()
        if "websocket.http.response" in scope.get("extensions", {}):
            return await respond(scope, send, status, body, headers, kind="websocket.http")
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": detail})
