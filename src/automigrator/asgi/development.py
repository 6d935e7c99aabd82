"""In development only: who may see the pending revisions, and run them from the page.

A page that migrates is a door. It opens on this machine alone, for a browser that is not led by
another site, and for a person who reads the terminal.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from contextlib import suppress
from http import HTTPStatus

from automigrator.errors import AutomigratorError
from automigrator.events.standard_error import standard_error
from automigrator.support.asgi import Scope, header

TOKEN_HEADER = b"x-automigrator-token"

_FORWARDING = re.compile(
    r"via|cdn-loop|.*(forwarded|client-ip|connecting-ip|real-ip|original-host).*"
)
"""Headers by which proxies and tunnels say that they ask for somebody else."""

_NAMES = ("localhost", "127.0.0.1", "[::1]")


class RequestRefusedError(AutomigratorError):
    """Raised for a request that must not be answered; `status` is the answer's."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        super().__init__(message)
        self.status = status


class Button:
    """Decides who may run the migrations; `token` is this process's, and only its terminal's."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(9)

    def announce(self, pending: int) -> None:
        """Print on standard error what a person needs to run them."""
        if (output := standard_error()) is not None:
            what = "1 revision is pending" if pending == 1 else f"{pending} revisions are pending"
            output.show([f"automigrator: {what}; to run them from the page: {self.token}"])

    def ensure_pressed(self, scope: Scope) -> None:
        """Raise RequestRefusedError unless a person at this machine presses the button."""
        ensure_local(scope)
        if scope["method"] != "POST":
            raise RequestRefusedError("only POST runs migrations", HTTPStatus.METHOD_NOT_ALLOWED)
        if scope.get("query_string") or header(scope, b"content-length") not in ("", "0"):
            raise RequestRefusedError("this takes no parameters", HTTPStatus.BAD_REQUEST)
        origin = f"{scope.get('scheme', 'http')}://{header(scope, b'host')}"
        if header(scope, b"origin") != origin:
            raise RequestRefusedError("another site's page must not run migrations")
        if header(scope, b"sec-fetch-site") not in ("", "same-origin"):
            raise RequestRefusedError("another site's page must not run migrations")
        given = header(scope, TOKEN_HEADER).encode("latin-1")
        if not hmac.compare_digest(given, self.token.encode("ascii")):
            raise RequestRefusedError("this is not the token that the terminal shows")


def ensure_local(scope: Scope) -> None:
    """Raise RequestRefusedError unless a client of this machine asks this machine by its own name.

    A proxy on this machine is refused as well: it asks for somebody else.
    """
    names = [key.decode("latin-1").lower() for key, _ in scope.get("headers", ())]
    if any(_FORWARDING.fullmatch(each.replace("_", "-")) for each in names):
        raise RequestRefusedError("in development a proxy is not answered")
    server, client = scope.get("server"), scope.get("client")
    if not (server and client and _is_loopback(server[0]) and _is_loopback(client[0])):
        raise RequestRefusedError(
            "in development the server has to be bound to a loopback address: 127.0.0.1 or ::1"
        )
    allowed = {*_NAMES, *(f"{name}:{server[1]}" for name in _NAMES)}
    if header(scope, b"host").lower() not in allowed:
        raise RequestRefusedError(
            "in development the host is localhost", HTTPStatus.MISDIRECTED_REQUEST
        )


def _is_loopback(address: str) -> bool:
    with suppress(ValueError):
        found = ipaddress.ip_address(address)
        # an IPv4 address as an IPv6 one comes of a server that is bound to all addresses
        return found.is_loopback and getattr(found, "ipv4_mapped", None) is None
    return False
