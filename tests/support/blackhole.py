"""A TCP proxy whose cable can be pulled, or led to another server, as a virtual address is."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Cable:
    """`port` of this machine leads to the server, until `pull` or `lead_to`."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pulled, self._stopped = threading.Event(), threading.Event()
        self._cut = threading.Event()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._forward)
        self._thread.start()

    def pull(self) -> None:
        """What was sent is never answered, nothing is closed."""
        self._pulled.set()

    def lead_to(self, host: str, port: int) -> None:
        """New connections go there; those that exist stay where they are."""
        self._server = (host, port)

    def cut(self) -> None:
        """Close the connections that exist."""
        self._cut.set()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
        for each in (self._listener, *self._peers):
            each.close()

    def _forward(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stopped.is_set():
                for key, _ in selector.select(0.05):
                    if not self._pulled.is_set():
                        self._carry(key.fileobj, selector)  # type: ignore[arg-type]
                if self._cut.is_set():
                    self._cut.clear()
                    for each in list(self._peers):
                        self._close(each, selector)
                if self._pulled.is_set():
                    self._stopped.wait()

    def _carry(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        if source is self._listener:
            client = source.accept()[0]
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                return
            for one, other in ((client, server), (server, client)):
                self._peers[one] = other
                selector.register(one, selectors.EVENT_READ)
        elif source in self._peers:  # else its other end closed it in the same round
            data = b""
            with suppress(OSError):
                data = source.recv(65536)
                self._peers[source].sendall(data)
            if not data:
                self._close(source, selector)

    def _close(self, one: socket.socket, selector: selectors.BaseSelector) -> None:
        other = self._peers.pop(one, None)
        if other is None:
            return
        del self._peers[other]
        for each in (one, other):
            selector.unregister(each)
            each.close()


@contextmanager
def cable(host: str, port: int) -> Iterator[Cable]:
    made = Cable(host, port)
    try:
        yield made
    finally:
        made.close()
