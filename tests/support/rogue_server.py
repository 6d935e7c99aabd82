"""A server that proves nothing, and asks everybody for the password in clear text."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from support.doorkeeper import exactly

_TLS, _GSS, _CANCEL = 80877103, 80877104, 80877102

_CLEAR_TEXT = b"R" + struct.pack("!ii", 8, 3)

_REFUSAL = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0"


class Rogue:
    """`port` of an address of this machine; `passwords` are those that were given to it.

    With a `certificate`, which holds its key as well, it offers TLS. `place`: a Unix socket
    instead of the port.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        certificate: Path | None = None,
        place: Path | None = None,
    ) -> None:
        self.passwords: list[str] = []
        self.asked = 0
        """The number of clients that began to log in."""
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        if place is None:
            self._listener = socket.create_server((address, port))
            self.port = int(self._listener.getsockname()[1])
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(place / ".s.PGSQL.5432"))
            self._listener.listen()
            self.port = 5432
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._greet, args=(client,), daemon=True).start()

    def _greet(self, client: socket.socket) -> None:
        client.settimeout(10)
        with ExitStack() as stack, suppress(OSError, EOFError):
            stack.enter_context(client)
            while (code := struct.unpack("!i", _packet(client)[:4])[0]) in (_TLS, _GSS):
                if code == _TLS and self._context is not None:
                    client.sendall(b"S")
                    client = self._context.wrap_socket(client, server_side=True)
                    stack.enter_context(client)
                else:
                    client.sendall(b"N")
            if code == _CANCEL:
                return
            self.asked += 1
            client.sendall(_CLEAR_TEXT)
            if client.recv(1) == b"p":
                self.passwords.append(_packet(client).rstrip(b"\0").decode())
            client.sendall(b"E" + struct.pack("!i", len(_REFUSAL) + 4) + _REFUSAL)


def _packet(source: socket.socket) -> bytes:
    return exactly(source, struct.unpack("!i", exactly(source, 4))[0] - 4)


@contextmanager
def rogue(
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    certificate: Path | None = None,
    place: Path | None = None,
) -> Iterator[Rogue]:
    made = Rogue(address, port, certificate=certificate, place=place)
    try:
        yield made
    finally:
        made.close()
