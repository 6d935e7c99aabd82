"""A PostgreSQL server for the tests: one named by the environment, else one started here."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url
from support.canaries import PASSWORD

from automigrator.testing.postgresql.connection import ServerConnection
from automigrator.testing.postgresql.programs import (
    Place,
    candidates,
    folder_of_one,
    free_port,
    unprivileged,
)

__all__ = ["Server", "folder_of_one", "unprivileged"]

VARIABLE = "AUTOMIGRATOR_TEST_POSTGRES"
"""A DSN of a role with CREATEDB; its database is used for maintenance."""


class Server:
    """A running server; every method may be called from sync and async tests alike."""

    def __init__(self, admin: URL) -> None:
        self.admin = admin.set(drivername="postgresql+asyncpg")
        self.maintenance_database = admin.database or "postgres"

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens a connection of its own."""
        return {name: each for name, each in vars(self).items() if name != "_maintenance"}

    def url(self, database: str) -> str:
        """An asyncpg URL with its password."""
        return self.admin.set(database=database).render_as_string(hide_password=False)

    def execute(self, sql: str, *args: Any, database: str | None = None) -> list[Any]:
        """Run one statement outside a transaction and return its rows."""
        if database is None:
            return self._maintenance.fetch(sql, *args)
        with closing(ServerConnection(self._dsn(database))) as connection:
            return connection.fetch(sql, *args)

    @functools.cached_property
    def _maintenance(self) -> ServerConnection:
        return ServerConnection(self._dsn(self.maintenance_database))

    def close(self) -> None:
        """Close the connection to the maintenance database; it is opened again when needed."""
        self._maintenance.close()
        del self._maintenance

    def _dsn(self, database: str) -> str:
        url = self.admin.set(drivername="postgresql", database=database)
        return url.render_as_string(hide_password=False)

    def databases(self, prefix: str = "") -> list[str]:
        rows = self.execute(
            "select datname from pg_database where starts_with(datname, $1) order by 1", prefix
        )
        return [row[0] for row in rows]

    def create(self, name: str) -> None:
        # far cheaper than the default where it can be chosen
        fast = "strategy file_copy" if self._version() >= 15 else ""
        self.execute(f"create database {_quoted(name)} {fast}")

    @functools.cache  # noqa: B019 - there is one server a session
    def _version(self) -> int:
        (row,) = self.execute("select current_setting('server_version_num')::int / 10000")
        return int(row[0])

    def drop(self, name: str) -> None:
        """Drop it if it is there, whoever is connected."""
        self.execute(f"drop database if exists {_quoted(name)} with (force)")

    def drop_all(self, prefix: str) -> None:
        """Drop every database whose name starts with `prefix`."""
        for name in self.databases(prefix):
            self.drop(name)


@contextmanager
def running() -> Iterator[Server]:
    """The server named by AUTOMIGRATOR_TEST_POSTGRES, else one of our own, removed at exit."""
    if dsn := os.environ.get(VARIABLE):
        with closing(Server(make_url(dsn))) as server:
            yield server
        return
    with stoppable() as (server, _):
        yield server


Stop = Callable[[], Callable[[], object]]
"""Stops a server at once and returns what starts it again, as often as wanted."""


@contextmanager
def stoppable(language: str = "") -> Iterator[tuple[Server, Stop]]:
    """A server of our own, and what stops it; it speaks `language` where that is installed."""
    with folder_of_one(language) as place:
        initialise(place)
        with serving(place) as both:
            yield both


def initialise(place: Place) -> None:
    """Give the place a data folder: a copy of what `initdb` has made, which takes a second."""
    made = _INITIALISED.get(place.language)
    if made is None or not made.is_dir():
        made = _INITIALISED[place.language] = place.folder / "initialised"
        initdb = ["initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        place.run(*initdb, "-D", str(made))
    place.run("/bin/cp", "-a", str(made), str(place.data))


_INITIALISED: dict[str, Path] = {}
"""By language; in the folder of the server that was the first to need it."""


@contextmanager
def newest_on(folder: Path, version: int) -> Iterator[Server]:
    """A server of our own whose data is in a folder; skips the test where none is so new."""
    for each in candidates():
        command = [each / "postgres", "-V"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        if int(answer.stdout.split()[2].split(".")[0]) >= version:
            break
    else:
        pytest.skip(f"no PostgreSQL {version} on this machine")
    with folder_of_one(below=folder, programs=each) as place:
        place.run("initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", str(place.data))
        with serving(place) as (server, _):
            yield server


@contextmanager
def serving(place: Place, **settings: str) -> Iterator[tuple[Server, Stop]]:
    """The server of a place whose data folder is there, and what stops it."""
    port = free_port()
    with ExitStack() as stack, closing(Server(_url(port))) as server:
        process = stack.enter_context(_started(place, port, **settings))

        def stop() -> Callable[[], object]:
            process.send_signal(signal.SIGQUIT)
            process.wait(15)
            stack.close()
            return restart

        def restart() -> None:
            nonlocal process
            process = stack.enter_context(_started(place, port, **settings))

        yield server, stop


@contextmanager
def starting_up() -> Iterator[Server]:
    """A server that waits for its archive, and lets nobody in until then."""
    with folder_of_one() as place:
        initialise(place)
        (place.data / "recovery.signal").touch()
        port = free_port()
        # a signal would reach the server only after its command
        enough = place.folder / "enough"
        wait = f"until test -e {enough}; do sleep 0.1; done; exit 200"
        started = _started(place, port, ready=_REJECTS, restore_command=wait)
        with started, closing(Server(_url(port))) as server:
            try:
                yield server
            finally:
                enough.touch()


def _url(port: int) -> URL:
    """It trusts everybody: the password is there to be kept secret."""
    return URL.create("postgresql", "postgres", PASSWORD, "127.0.0.1", port, "postgres")


_ACCEPTS, _REJECTS = 0, 1
"""What pg_isready says of a server."""


@contextmanager
def _started(
    place: Place, port: int, *, ready: int = _ACCEPTS, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 150,
        "full_page_writes": "off",
        "autovacuum": "off",  # it would visit every test's database
        "max_prepared_transactions": 4,
        "wal_level": "logical",
        **more,
    }
    arguments = [part for item in settings.items() for part in ("-c", "{}={}".format(*item))]
    log = place.folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [place.binaries / "postgres", "-F", "-D", place.data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for the tests; they stop the server
            **place.common,
        )
    guard = _guard(process.pid, place.folder)
    try:
        _wait_until_ready(place.binaries, port, process, log, ready)
        yield process
    finally:
        guard.kill()
        guard.communicate()
        process.send_signal(signal.SIGQUIT)  # nobody wants its data any more
        process.wait(15)


def _guard(pid: int, folder: Path) -> subprocess.Popen[bytes]:
    """Stop the server when this process is killed: the pipe closes with it."""
    script = 'read _; kill -QUIT "$1"; sleep 1; rm -rf "$2"'
    return subprocess.Popen(
        ["sh", "-c", script, "guard", str(pid), str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _wait_until_ready(
    binaries: Path, port: int, process: subprocess.Popen[bytes], log: Path, code: int
) -> None:
    deadline = time.monotonic() + 60
    while True:
        ready = subprocess.run(
            [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False
        )
        if ready.returncode == code:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
