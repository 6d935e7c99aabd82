"""A TCP proxy whose cable can be pulled: what was sent is never answered, nothing is closed."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Cable:
    """`port` of this machine leads to the server, until `pull`."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pulled, self._stopped = threading.Event(), threading.Event()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._forward)
        self._thread.start()

    def pull(self) -> None:
        self._pulled.set()

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
                if self._pulled.is_set():
                    self._stopped.wait()

    def _carry(self, source: socket.socket, selector: selectors.BaseSelector) -> None:
        if source is self._listener:
            client, server = source.accept()[0], socket.create_connection(self._server)
            for one, other in ((client, server), (server, client)):
                self._peers[one] = other
                selector.register(one, selectors.EVENT_READ)
            return
        data = b""
        with suppress(OSError):
            data = source.recv(65536)
            self._peers[source].sendall(data)
        if not data:
            for each in (source, self._peers[source]):
                with suppress(KeyError):
                    selector.unregister(each)
                    del self._peers[each]
                each.close()


@contextmanager
def cable(host: str, port: int) -> Iterator[Cable]:
    made = Cable(host, port)
    try:
        yield made
    finally:
        made.close()
