"""No connection of ours proves less of the server than the application's own would.

A rogue server answers at the address, and asks for the password in clear text. The application
demands a proof that the rogue has not; then nobody of ours gives it the password.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support import postgres_server
from support.alembic_projects import heads
from support.rogue_server import Rogue, rogue

from automigrator import MigrationError, Migrator, Target
from automigrator.backends.access import Access
from automigrator.errors import AutomigratorError, RefusedError

SECRET = "of-the-application"

pytestmark = pytest.mark.long(
    *("[TLS-req", "[TLS-gss", "[TLS-ssl", "[TLS-PG", "[TLS-connect", "[TLS-do", "[TLS-async_"),
    *("[TLS-check", "[TLS-plan", "[TLS-doctor"),
    *("psycopg2-PG", "PGSSL"),
)


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """A certificate and its key in one file; nobody trusts it."""
    with postgres_server.folder_of_one() as place:
        file = place.folder / "rogue.pem"
        place.run(
            *("/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-keyout", str(file), "-out", str(place.folder / "certificate")),
        )
        file.write_bytes(file.read_bytes() + (place.folder / "certificate").read_bytes())
        yield file


@pytest.fixture(params=["plain", "TLS"])
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Rogue]:
    with rogue(certificate=certificate if request.param == "TLS" else None) as made:
        yield made


@pytest.fixture
def start(make_target: Callable[..., Target]) -> Callable[..., Any]:
    """Starts an application whose database is said to be at the rogue's address."""

    async def run(database: Any, **options: Any) -> str:
        limits = {"connect_timeout": 0.2, "retry_timeout": 0}
        target = make_target(database=database, **{**limits, **options})
        with pytest.raises(MigrationError) as caught:
            await Migrator(target, mode="migrate").run()
        return str(caught.value)

    return run


def url_of(driver: str, server: Rogue, query: str = "") -> str:
    return f"postgresql+{driver}://app:{SECRET}@127.0.0.1:{server.port}/app?{query}"


@pytest.mark.long("TLS-psycopg")
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_the_rogue_gets_the_password_of_who_demands_nothing(
    server: Rogue, start: Callable[..., Any], driver: str
) -> None:
    await start(url_of(driver, server), connect_timeout=5)
    assert set(server.passwords) == {SECRET}


DEMANDS = [
    "require_auth=scram-sha-256",
    "require_auth=!password",
    "channel_binding=require",
    "gssencmode=require",
    "sslmode=verify-full&sslrootcert=/nowhere/root.crt",
    "sslmode=require&channel_binding=require",
]


@pytest.mark.long("!password", "gssencmode", "sslmode=require&")
@pytest.mark.parametrize("demand", DEMANDS)
async def test_a_url_with_a_demand_that_the_rogue_cannot_meet_gives_it_no_password(
    server: Rogue, start: Callable[..., Any], demand: str
) -> None:
    await start(url_of("psycopg", server, demand))
    assert server.passwords == []


@pytest.mark.long("scram", "!password", "gssencmode", "sslmode=require&")
@pytest.mark.parametrize("demand", DEMANDS)
async def test_nor_does_a_url_of_another_driver_of_libpq_that_is_translated(
    server: Rogue, start: Callable[..., Any], demand: str
) -> None:
    await start(url_of("psycopg2", server, demand))
    assert server.passwords == []


@pytest.mark.parametrize("act", ["check", "plan", "doctor"])
async def test_nor_does_what_only_looks(
    server: Rogue, make_target: Callable[..., Target], act: str
) -> None:
    url = url_of("psycopg", server, "require_auth=scram-sha-256")
    target = make_target(database=url, connect_timeout=1, retry_timeout=0)
    with suppress(AutomigratorError, DBAPIError, OSError):
        await getattr(Migrator(target, mode="migrate"), act)()
    assert server.asked and server.passwords == []


@pytest.mark.long("psycopg2")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    "variable",
    [
        "PGREQUIREAUTH=scram-sha-256",
        "PGCHANNELBINDING=require",
        "PGGSSENCMODE=require",
        "PGSSLMODE=verify-full",
    ],
)
async def test_what_the_environment_demands_of_the_applications_driver_is_demanded(
    server: Rogue,
    start: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    variable: str,
) -> None:
    monkeypatch.setenv(*variable.split("="))
    await start(url_of(driver, server))
    assert server.passwords == []


async def test_a_socket_of_somebody_elses_process_gets_no_password(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    with rogue(place=tmp_path) as server:
        query = f"host={tmp_path}&requirepeer=postgres"
        await start(f"postgresql+psycopg://app:{SECRET}@/app?{query}")
        assert server.passwords == []


@pytest.mark.parametrize("how", ["connect_args", "do_connect", "async_creator"])
async def test_an_engine_whose_context_verifies_gives_no_password(
    server: Rogue, start: Callable[..., Any], how: str
) -> None:
    context = ssl.create_default_context()
    url = url_of("asyncpg", server)
    if how == "connect_args":
        engine = create_async_engine(url, connect_args={"ssl": context})
    elif how == "do_connect":
        engine = create_async_engine(url)

        @event.listens_for(engine.sync_engine, "do_connect")
        def connect(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> None:
            cparams["ssl"] = context
    else:
        dsn = url.replace("+asyncpg", "").rstrip("?")
        engine = create_async_engine(
            url, async_creator=lambda: asyncpg.connect(dsn, ssl=context, timeout=5)
        )
    await start(engine)
    await engine.dispose()
    assert server.passwords == []


@pytest.mark.long("[generic")
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_env_py_takes_the_password_of_the_url_to_no_server_that_proves_less(
    postgres_url: str, make_target: Callable[..., Target], kind: str
) -> None:
    """The application's arguments lead to its server and demand a proof; the URL says neither."""
    real = make_url(postgres_url)
    given = {"port": real.port, "user": real.username, "require_auth": "none"}
    with rogue() as server:
        url = make_url(url_of("psycopg", server)).set(database=real.database)
        engine = create_async_engine(url, connect_args=given)
        await Migrator(make_target(kind=kind, database=engine), mode="migrate").run()
        assert server.passwords == []
    await engine.dispose()
    assert heads(postgres_url) == {"r3"}


def with_creator(url: Any, dsn: str, how: str) -> AsyncEngine:
    async def connect(*_: Any, **__: Any) -> Any:
        return await asyncpg.connect(dsn)

    if how == "async_creator":
        return create_async_engine(url, async_creator=connect)
    engine = create_async_engine(url)

    @event.listens_for(engine.sync_engine, "do_connect")
    def made(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
        if how == "do_connect":
            return dialect.dbapi.connect(async_creator_fn=connect)
        cparams["async_creator_fn"] = connect
        return None

    return engine


CREATORS = ["async_creator", "async_creator_fn", "do_connect"]


@pytest.mark.parametrize("how", CREATORS)
async def test_beside_a_creator_no_other_database_is_reached_by_the_urls_parts(
    postgres_url: str, tmp_path: Path, how: str
) -> None:
    with rogue() as server:
        dsn = postgres_url.replace("+asyncpg", "")
        engine = with_creator(url_of("asyncpg", server), dsn, how)
        access = Access(Target(engine, tmp_path))
        with pytest.raises(RefusedError, match="creator of its own.*nothing was changed"):
            async with access.connection("postgres"):
                pass
        async with access.connection():
            assert server.asked == 0
    await engine.dispose()


@pytest.mark.long
@pytest.mark.plugins
@pytest.mark.parametrize("how", CREATORS)
async def test_a_creator_is_the_only_way_to_the_server(
    postgres_url: str, make_target: Callable[..., Target], tmp_path: Path, how: str
) -> None:
    """The rogue is where the URL's parts lead; the creator leads to the database itself."""
    from automigrator_backup_restore import BackupRestore  # local: the core is tested alone, too

    name = make_url(postgres_url).database
    with rogue() as server:
        url = make_url(url_of("asyncpg", server)).set(database=name)
        engine = with_creator(url, postgres_url.replace("+asyncpg", ""), how)
        first = make_target(database=engine, revision="r1")

        async def run(**options: Any) -> None:
            await Migrator(Target(engine, first.config, **options), mode="migrate").run()

        await Migrator(first, mode="migrate").run()
        strategy = BackupRestore(snapshot="always", folder=tmp_path / "dumps")
        with pytest.raises(MigrationError, match="creator of its own"):
            await run(recovery=[strategy])
        with pytest.raises(MigrationError, match="maintenance database"):
            await run(rehearse=True)
        assert heads(postgres_url) == {"r1"}
        await Migrator(first).doctor()
        await run()
        assert server.asked == 0
    await engine.dispose()
    assert heads(postgres_url) == {"r3"}
