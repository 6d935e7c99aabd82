"""ASGI's types, and whole answers to one request.

Source: ASGI 3.0, its HTTP, WebSocket and lifespan parts.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = Mapping[str, str]

ALWAYS: Headers = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}
"""What every answer of ours carries: none is worth keeping, and only the page does anything."""

TRY_AGAIN_LATER = 1013
"""The code that closes a websocket; IANA's registry, after RFC 6455."""


def header(scope: Scope, name: bytes) -> str:
    """A header of the request, its repetitions joined; empty where there is none."""
    return ",".join(
        value.decode("latin-1") for key, value in scope.get("headers", ()) if key.lower() == name
    )


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(key.encode("ascii"), value.encode("latin-1")) for key, value in headers.items()]


async def respond(
    scope: Scope, send: Send, status: int, body: bytes, headers: Headers, *, kind: str = "http"
) -> None:
    """Send a whole response; none of its body where only the head was asked for.

    `kind`: the prefix of the events; `websocket.http` answers a handshake.
    """
    length = {"content-length": str(len(body))}
    lines = encoded({**ALWAYS, **headers, **length})
    await send({"type": f"{kind}.response.start", "status": int(status), "headers": lines})
    shown = b"" if scope.get("method") == "HEAD" else body
    await send({"type": f"{kind}.response.body", "body": shown})


def as_json(value: Mapping[str, Any]) -> bytes:
    """A JSON document."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def problem(status: HTTPStatus, detail: str, **more: Any) -> dict[str, Any]:
    """A problem in the words of RFC 9457."""
    told = {"type": "about:blank", "title": status.phrase, "status": int(status)}
    return {**told, "detail": detail, **more}


def prefers_html(accept: str) -> bool:
    """Whether a client would rather have HTML than JSON; who takes anything is no browser."""
    quality = dict(_qualities(accept.lower().split(",")))
    html = max(quality.get(each, 0.0) for each in ("text/html", "application/xhtml+xml"))
    plain = max(quality.get(each, 0.0) for each in ("application/problem+json", "application/json"))
    return html > 0 and html >= plain


def _qualities(parts: Iterable[str]) -> Iterable[tuple[str, float]]:
    for part in parts:
        kind, *parameters = (each.strip() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            yield kind, float(quality)
        except ValueError:
            yield kind, 0.0
