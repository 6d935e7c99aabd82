"""Tenants from a query: schemas of a database, databases of servers, SQLite files of folders."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.backends.access import Access, connected
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.registry import backend_for
from automigrator.errors import ConfigurationError
from automigrator.fleet.tenants import Found, Refusal, SourceError, Tenant, why_no_name
from automigrator.support import urls
from automigrator.support.concurrency import in_thread
from automigrator.support.redaction import hide_secrets, said
from automigrator.target import AlembicConfig, Database, Target, passwords_of

Config = AlembicConfig | str | os.PathLike[str]

Group = str | Callable[[str], str]
"""The group of all tenants of a source, or what says it of a name."""

OURS = re.compile("__automigrator_[a-z]+_|^\\.automigrator-")
"""In the name of a database or file that automigrator keeps: no tenant's."""

_SCHEMAS = """
    select nspname::pg_catalog.text from pg_catalog.pg_namespace
    where (nspname::pg_catalog.text operator(pg_catalog.~~) {like})
      and (nspname::pg_catalog.text operator(pg_catalog.!~) '^pg_')
      and nspname operator(pg_catalog.<>) all ('{{information_schema,automigrator}}'::text[])
    order by 1
"""
_DATABASES = """
    select datname::pg_catalog.text from pg_catalog.pg_database
    where (datname::pg_catalog.text operator(pg_catalog.~~) {like})
      and datallowconn and not datistemplate
    order by 1
"""

_LONGEST_IDENTIFIER = 63
"""Bytes of a schema's or database's name: the server would cut a longer one."""


def schemas(
    database: Database,
    config: Config,
    *,
    query: str | None = None,
    like: str | None = None,
    group: Group = "",
    version_table: str | None = VersionTable().name,
    version_table_schema: str | None = "{schema}",
    **options: Any,
) -> Schemas:
    """Tenants that are schemas of one PostgreSQL database, one `Target` each.

    `database`, `config`: as of `Target`. `query`: SQL whose first column names the schemas, and
    whose second, where it has one, their groups; it is run read-only, as the application connects.
    `like`: a pattern of schemas' names, in the place of a query. `group`: the tenants' group, or a
    function of the name. `version_table`, `version_table_schema`: where each tenant's heads are;
    default: Alembic's usual table, in the tenant's schema. So one look tells the heads of all;
    with None for the table, env.py is asked for each tenant at each start. `options`: of `Target`;
    in their texts `{schema}` stands for the schema's name, and one of `x` and `attributes` has to
    tell env.py: `x=["tenant={schema}"]`. Raises ConfigurationError.
    """
    telling = (options.get("x"), options.get("attributes"), options.get("section"))
    if "{schema}" not in repr(telling):
        raise ConfigurationError(
            "nothing tells env.py which schema is meant, and it would migrate one schema for every "
            'tenant: pass x=["tenant={schema}"], or attributes={"schema": "{schema}"}, as env.py '
            "expects it"
        )
    place = {"version_table": version_table, "version_table_schema": version_table_schema}
    options = {"create": False, **place, **options}
    target = Target(database, config, **options)
    return Schemas(target, _chosen(query, like, _SCHEMAS), group, options)


class Schemas:
    """See `schemas`."""

    def __init__(
        self, target: Target, query: str, group: Group, options: Mapping[str, Any]
    ) -> None:
        self._target, self._query, self._group, self._options = target, query, group, options
        self.models = (target,)
        _ensure_postgresql(target, "schemas")

    async def __aiter__(self) -> AsyncIterator[Found]:
        for name, group in await _rows(self._target, self._query):
            yield self._tenant(name, group)

    def tenant(self, name: str) -> Tenant:
        """The tenant of that schema. Raises ConfigurationError for what names none."""
        return _ensured(self._tenant(name, None))

    def _tenant(self, name: object, group: str | None) -> Found:
        if why := _why_no_identifier(name):
            return _refused(name, why)
        assert isinstance(name, str)
        fields = _named(self._options, "{schema}", name)
        target = self._target._replace(name=name, **fields)
        return Tenant(name, target, _group(self._group, name, group), schema=name)


def databases(
    *servers: Database,
    config: Config,
    query: str | None = None,
    like: str | None = None,
    group: Group = "",
    **options: Any,
) -> Databases:
    """Tenants that are databases of one or several PostgreSQL servers, one `Target` each.

    `servers`: a URL each, of the database in which the query is run; its user and options are those
    for the tenants' databases, too. Of several servers a tenant is named `host:port/database`.
    `config`: as of `Target`. `query`: SQL whose first column names the databases, and whose second,
    where it has one, their groups; it is run read-only. `like`: a pattern of databases' names, in
    the place of a query. `group`: the tenants' group, or a function of the database's name.
    `options`: of `Target`; in their texts `{database}` stands for the database's name. Databases
    that automigrator keeps are left out. Raises ConfigurationError.
    """
    if not servers:
        raise ConfigurationError("databases() needs at least one server's URL")
    options = {"create": False, **options}
    targets = []
    for server in servers:
        if isinstance(server, AsyncEngine):
            raise ConfigurationError(
                "databases() takes the URL of a server, not an engine, which leads to one "
                "database; for engines yield a Target each from an async function of your own"
            )
        targets.append(Target(server, config, **options))
    return Databases(targets, _chosen(query, like, _DATABASES), group, options)


class Databases:
    """See `databases`."""

    def __init__(
        self, servers: Sequence[Target], query: str, group: Group, options: Mapping[str, Any]
    ) -> None:
        self._servers, self._query, self._group, self._options = servers, query, group, options
        self.models = servers
        for each in servers:
            _ensure_postgresql(each, "databases")

    async def __aiter__(self) -> AsyncIterator[Found]:
        for server in self._servers:
            for name, group in await _rows(server, self._query):
                if not (isinstance(name, str) and OURS.search(name)):
                    yield self._tenant(server, name, group)

    def tenant(self, name: str) -> Tenant:
        """The tenant of that name. Raises ConfigurationError for what names none."""
        server, database = self._servers[0], name
        if len(self._servers) > 1:
            prefix, _, database = name.partition("/")
            found = [each for each in self._servers if _address(each) == prefix]
            if not found or not database:
                known = ", ".join(map(_address, self._servers))
                raise ConfigurationError(
                    f"{name!r} names no server of this fleet: a tenant is named "
                    f"host:port/database, of {known}"
                )
            server = found[0]
        if OURS.search(database):
            raise ConfigurationError(f"{database!r} is the name of a database that we keep")
        return _ensured(self._tenant(server, database, None))

    def _tenant(self, server: Target, database: object, group: str | None) -> Found:
        if why := _why_no_identifier(database):
            return _refused(database, why)
        assert isinstance(database, str)
        name = f"{_address(server)}/{database}" if len(self._servers) > 1 else database
        fields = _named(self._options, "{database}", database)
        url = server.application_url.set(database=database)
        target = server._replace(database=url, name=name, **fields)
        return Tenant(name, target, _group(self._group, database, group))


def files(
    folder: str | os.PathLike[str],
    config: Config,
    pattern: str = "*.db",
    *,
    group: Group = "",
    driver: str = "sqlite+aiosqlite",
    **options: Any,
) -> Files:
    """Tenants that are SQLite files of a folder, one `Target` each.

    `folder`: where they are. `config`: as of `Target`. `pattern`: of their names, as of
    `Path.glob`; `**/*.db` also finds those of folders within. A tenant is named by its path within
    the folder, without the suffix that the pattern says. `group`: the tenants' group, or a function
    of that name. `driver`: of the URLs; default `sqlite+aiosqlite`. `options`: of `Target`; in
    their texts `{file}` stands for the file's path. Links are not followed. Raises
    ConfigurationError.
    """
    options = {"create": False, **options}
    target = Target(URL.create(driver, database="absent"), config, **options)
    if target.application_url.get_backend_name() != "sqlite":
        raise ConfigurationError(f"files() are SQLite's, and driver={driver!r} is not")
    return Files(Path(os.path.abspath(folder)), target, pattern, group, options)


class Files:
    """See `files`."""

    def __init__(
        self, folder: Path, target: Target, pattern: str, group: Group, options: Mapping[str, Any]
    ) -> None:
        self.folder, self._target, self._pattern = folder, target, pattern
        self.models = (target,)
        self._group, self._options = group, options
        self._suffix = Path(pattern).suffix if "*" not in Path(pattern).suffix else ""

    async def __aiter__(self) -> AsyncIterator[Found]:
        try:
            found = await in_thread(lambda: sorted(self._found()))
        except OSError as error:
            raise SourceError(
                f"the tenants in {self.folder} cannot be read: {error.strerror}; none was touched"
            ) from error
        for path in found:
            yield self._tenant(path)

    def _found(self) -> Iterator[Path]:
        os.stat(self.folder)  # a folder that is absent is no folder without tenants
        for path in self.folder.glob(self._pattern):
            ours = any(OURS.search(part) for part in path.relative_to(self.folder).parts)
            if not ours and path.is_file() and not path.is_symlink():
                yield path

    def tenant(self, name: str) -> Tenant:
        """The tenant of that name. Raises ConfigurationError for what names none."""
        path = Path(os.path.normpath(self.folder / f"{name}{self._suffix}"))
        inside = path.is_relative_to(self.folder) and path != self.folder
        if why_no_name(name) or not inside or OURS.search(path.name):
            raise ConfigurationError(f"{name!r} names no file in {self.folder}")
        tenant = _ensured(self._tenant(path))
        if tenant.name != name:
            raise ConfigurationError(f"{name!r} names no file in {self.folder}: {tenant.name!r} is")
        return tenant

    def _tenant(self, path: Path) -> Found:
        name = path.relative_to(self.folder).as_posix().removesuffix(self._suffix)
        if why := why_no_name(name):
            return _refused(name, why)
        fields = _named(self._options, "{file}", str(path))
        url = self._target.application_url.set(database=str(path))
        target = self._target._replace(database=url, name=name, **fields)
        return Tenant(name, target, _group(self._group, name, None))


def _chosen(query: str | None, like: str | None, ours: str) -> str:
    if (query is None) == (like is None):
        raise ConfigurationError("say which tenants there are with query= or with like=, not both")
    if query is not None:
        return query
    quoted = str(like).replace("'", "''").replace("\\", "\\\\")
    return ours.format(like=f"E'{quoted}'")


def _ensure_postgresql(target: Target, what: str) -> None:
    if (kind := target.application_url.get_backend_name()) != "postgresql":
        raise ConfigurationError(f"{what}() asks a PostgreSQL server, and {target.url} is {kind}")


async def _rows(target: Target, query: str) -> list[tuple[object, str | None]]:
    """What a query names, and the group of each. Raises SourceError.

    It is read to its end at once: a transaction must not stay open as long as a rollout takes.
    """
    backend = backend_for(Access(target), target.maintenance_database)
    engine = backend.access.engine()
    try:
        async with connected(engine, target.connect_timeout) as connection:
            await connection.exec_driver_sql("set transaction read only")
            rows: list[Any] = list(await connection.exec_driver_sql(query))
    except Exception as error:
        secrets = passwords_of(target)
        hide_secrets(error, secrets)
        source = SourceError(
            f"the tenants of {urls.rendered(target.application_url)} cannot be read: "
            f"{said(error, secrets)}; none was touched"
        )
        source.kind = getattr(error, "kind", None) or backend.classify(error).kind
        raise source from error
    finally:
        await backend.release(engine)
    groups = [str(row[1]) if len(row) > 1 and row[1] is not None else None for row in rows]
    return [(row[0], group) for row, group in zip(rows, groups, strict=True)]


def _why_no_identifier(name: object) -> str:
    why = why_no_name(name)
    if not why and len(str(name).encode()) > _LONGEST_IDENTIFIER:
        return f"a name of PostgreSQL has {_LONGEST_IDENTIFIER} bytes at most"
    return why


def _refused(name: object, why: str) -> Refusal:
    shown = name if isinstance(name, str) else repr(name)
    return Refusal(shown, why, "rename it, or leave it out of the fleet's query")


def _ensured(found: Found) -> Tenant:
    if isinstance(found, Refusal):
        raise ConfigurationError(f"{found.name!r} names no tenant: {found.why}")
    return found


def _group(given: Group, name: str, of_row: str | None) -> str:
    return of_row or (given(name) if callable(given) else given)


def _named(options: Mapping[str, Any], place: str, name: str) -> dict[str, Any]:
    """Those of a target's options that name the tenant, with its name in the place."""
    return {
        key: _filled(value, place, name) for key, value in options.items() if place in repr(value)
    }


def _filled(value: Any, place: str, name: str) -> Any:
    """An option with the name in its place; what is no text stays."""
    if isinstance(value, str):
        return value.replace(place, name)
    if type(value) in (list, tuple):
        return type(value)(_filled(each, place, name) for each in value)
    if type(value) is dict:
        return {key: _filled(each, place, name) for key, each in value.items()}
    return value


def _address(target: Target) -> str:
    url = target.application_url
    return f"{url.host or 'localhost'}:{url.port or 5432}"
