"""A TCP proxy before a PostgreSQL server: it notes each session let in, and counts the answers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ENCRYPTION = {80877103, 80877104}
"""What a client sends before its startup packet to ask for TLS or GSS; one byte answers it."""

_CANCEL = 80877102


class Doorkeeper:
    """`port` of this machine leads to the server; `let_in` are the databases of its sessions.

    `trips` are the round trips in them: how often the server was ready for a query again.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.let_in: list[str] = []
        self.trips = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._server)
                self._open += [client, server]
                threading.Thread(target=self._greet, args=(client, server), daemon=True).start()

    def _greet(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, EOFError):
            while True:
                packet = _packet(client)
                server.sendall(packet)
                code = struct.unpack("!i", packet[4:8])[0]
                if code not in _ENCRYPTION:
                    break
                client.sendall(exactly(server, 1))
            threading.Thread(target=_forward, args=(client, server), daemon=True).start()
            if code != _CANCEL:
                words = packet[8:].split(b"\0")
                given = dict(zip(words[::2], words[1::2], strict=False))
                self._answer(client, server, given[b"database"].decode())
        _forward(server, client)

    def _answer(self, client: socket.socket, server: socket.socket, database: str) -> None:
        begun = False
        while True:
            kind = exactly(server, 1)
            packet = _packet(server)
            if kind == b"Z" and begun:
                self.trips += 1
            elif kind == b"Z":  # ready for the first query: the session exists
                self.let_in.append(database)
                begun = True
            client.sendall(kind + packet)


def _packet(source: socket.socket) -> bytes:
    length = exactly(source, 4)
    return length + exactly(source, struct.unpack("!i", length)[0] - 4)


def exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _forward(source: socket.socket, goal: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            goal.sendall(data)
    for each in (source, goal):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def doorkeeper(host: str, port: int) -> Iterator[Doorkeeper]:
    made = Doorkeeper(host, port)
    try:
        yield made
    finally:
        made.close()
