"""PostgreSQL templates: databases that tests get clones of."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import LifoQueue
from typing import Any

from sqlalchemy import URL, make_url

from automigrator.support import urls
from automigrator.testing.postgresql.connection import ServerConnection
from pytest_automigrator import cache, server

PREFIX = "automigrator_pytest_"

_OURS = """
select datname::text, datdba = (select oid from pg_roles where rolname = current_user),
    shobj_description(oid, 'pg_database')
from pg_database where starts_with(datname::text, $1) order by datname
"""
_CLONES = """
select name, set_config(name, 'clone', false) from pg_settings
where name = 'file_copy_method' and source = 'default' and 'clone' = any(enumvals)
"""
"""Lets copies share blocks, from PostgreSQL 18 on; a file system that cannot copies."""
_DAY_S = 86400

_AHEAD = 2
"""Clones of a template that are made before they are asked for."""

_BESIDE = _AHEAD + 1
"""Threads that make and drop clones: one drops the last test's meanwhile."""


class PostgreSQL:
    """Templates and clones on one server.

    Only databases of this role count as ours, whatever their names. A template is made under an
    advisory lock and another name, and then renamed. A session holds a lock of its own: clones
    whose session's lock is free were left by a killed one. From the second test on, the next clones
    are made while a test runs, beside each other: most of it is work on files, which uses one CPU.
    """

    kind = "postgresql"

    def __init__(self, url: str) -> None:
        self._stack = ExitStack()
        admin = make_url(url) if url else self._stack.enter_context(server.running())
        self._admin = urls.settled(admin).set(drivername="postgresql")
        try:
            self._connection = self._connected(reconnects=False)
            method = dict(self._connection.fetch(_CLONES))
            self._free: LifoQueue[ServerConnection] = LifoQueue()
            for _ in range(_BESIDE + 1):  # and one of the tests'; each is opened when it is used
                self._free.put(self._connected(reconnects=True, **method))
            self._ahead = ThreadPoolExecutor(_BESIDE)
            self._stack.callback(self._ahead.shutdown)
            (version,) = self._connection.fetch("select current_setting('server_version_num')::int")
            # far cheaper than the default where it can be chosen
            self._fast = " strategy file_copy" if version[0] >= 150000 else ""
            self._session = uuid.uuid4().hex[:10]
            self._lock(self._session)
        except BaseException:
            self._stack.close()
            raise
        self._numbers = itertools.count()
        self._next: dict[str, deque[Future[str]]] = {}
        self._live: set[str] = set()
        self._swept = False

    def _connected(self, *, reconnects: bool, **more: str) -> ServerConnection:
        dsn = self._admin.render_as_string(hide_password=False)
        # nobody's operators in a schema of the maintenance database
        settings = {"search_path": "pg_catalog", "application_name": "pytest-automigrator", **more}
        made = ServerConnection(dsn, settings=settings, reconnects=reconnects)
        return self._stack.enter_context(closing(made))

    def template(self, key: str, make: Callable[[URL], object]) -> str:
        """The template of that key; `make` fills it where there is none."""
        name = f"{PREFIX}{key}"
        if not self._exists(name):
            with self._locked(key):
                if not self._exists(name):
                    self._make(name, make)
        self._keep(name, key)
        if not self._swept:
            self._swept = True
            self.sweep(cache.UNUSED_DAYS)
        return name

    def _make(self, name: str, make: Callable[[URL], object]) -> None:
        partial = f"{name}_making"
        if self._exists(partial):
            self._drop(partial)
        self._connection.fetch(f'create database "{partial}"')
        try:
            make(self._url(partial))
            self._connection.fetch(f'alter database "{partial}" rename to "{name}"')
        except BaseException:
            self._drop(partial)
            raise
        self._note_use(name)

    def _keep(self, name: str, key: str) -> None:
        """Note the use of a template, once a day, and one process at a time."""
        ((_, _, comment),) = (row for row in self._connection.fetch(_OURS, name) if row[0] == name)
        if _age_s(comment) > _DAY_S and self._try_lock(key):
            try:
                self._note_use(name)
            finally:
                self._unlock(key)

    def _note_use(self, name: str) -> None:
        said = json.dumps({"pytest-automigrator": {"used": int(time.time())}})
        self._connection.fetch(f"comment on database \"{name}\" is '{said}'")

    def clone(self, template: str, folder: Path) -> URL:
        """A database made of a template."""
        ahead = self._next.get(template)
        if ahead is None:  # most templates are wanted once
            self._next[template] = deque()
            return self._url(self._create(template))
        name = ahead.popleft().result() if ahead else self._create(template)
        while len(ahead) < _AHEAD:
            ahead.append(self._ahead.submit(self._create, template))
        return self._url(name)

    def _fetch_beside(self, sql: str) -> None:
        """Run a statement on a free connection; every thread finds one."""
        connection = self._free.get()
        try:
            connection.fetch(sql)
        finally:
            self._free.put(connection)

    def _create(self, template: str) -> str:
        digest = template.removeprefix(PREFIX)[:12].strip("_")
        name = f"{PREFIX}{digest}_{self._session}_{next(self._numbers)}"
        self._live.add(name)
        self._fetch_beside(f'create database "{name}" template "{template}"{self._fast}')
        return name

    def copy(self, url: URL, folder: Path) -> URL:
        """A copy of a database that nobody is connected to."""
        return self._url(self._create(str(url.database)))

    def drop(self, url: URL) -> None:
        """Drop a clone, whoever is connected; meanwhile the test's session goes on."""
        self._ahead.submit(self._dropped, str(url.database))

    def _dropped(self, name: str) -> None:
        self._fetch_beside(f'drop database if exists "{name}" with (force)')
        self._live.discard(name)

    def _drop(self, name: str) -> None:
        self._connection.fetch(f'drop database if exists "{name}" with (force)')

    def sweep(self, days: float) -> list[str]:
        """Drop what killed sessions left, and templates that were not used for so many days."""
        removed = []
        for name, ours, comment in self._connection.fetch(_OURS, PREFIX):
            if not ours:
                continue
            key, _, rest = name.removeprefix(PREFIX).partition("_")
            if not rest and _age_s(comment) < days * _DAY_S:
                continue
            word = key if rest in ("", "making") else rest.partition("_")[0]
            if word != self._session and self._try_lock(word):
                try:
                    self._drop(name)
                    removed.append(name)
                finally:
                    self._unlock(word)
        return removed

    def close(self) -> None:
        """Drop every clone of this session, and leave the server."""
        try:
            for each in itertools.chain.from_iterable(self._next.values()):
                each.exception()
            self._next.clear()
            self._ahead.shutdown()
            for name in sorted(self._live):
                self._fetch_beside(f'drop database if exists "{name}" with (force)')
        finally:
            self._stack.close()

    def _exists(self, name: str) -> bool:
        for found, ours, _ in self._connection.fetch(_OURS, name):
            if found == name:
                if ours:
                    return True
                raise cache.CacheError(
                    f"the database {name} on {urls.rendered(self._admin)} belongs to another role; "
                    "it is not used, and nothing was changed. Have it dropped, or name another "
                    "server or role with automigrator_postgresql"
                )
        return False

    def _url(self, name: str) -> URL:
        return self._admin.set(database=name)

    @contextmanager
    def _locked(self, word: str) -> Iterator[None]:
        deadline = time.monotonic() + cache.WAIT_S
        while not self._try_lock(word):
            if time.monotonic() > deadline:
                raise cache.CacheError(
                    f"another process has made the template {PREFIX}{word} for {cache.WAIT_S:g} s; "
                    "end it, or wait"
                )
            time.sleep(0.05)
        try:
            yield
        finally:
            self._unlock(word)

    def _lock(self, word: str) -> None:
        assert self._try_lock(word), word

    def _try_lock(self, word: str) -> bool:
        (row,) = self._connection.fetch("select pg_try_advisory_lock($1)", _number(word))
        return bool(row[0])

    def _unlock(self, word: str) -> None:
        self._connection.fetch("select pg_advisory_unlock($1)", _number(word))


def _age_s(comment: str | None) -> float:
    """The seconds since a template was used, by its comment."""
    try:
        used = float(json.loads(comment or "")["pytest-automigrator"]["used"])
    except (ValueError, KeyError, TypeError):
        used = 0.0
    return time.time() - used


def _number(word: str) -> int:
    """The key of an advisory lock."""
    hashed: Any = hashlib.blake2b(f"{PREFIX}{word}".encode(), digest_size=8)
    return int.from_bytes(hashed.digest(), signed=True)
