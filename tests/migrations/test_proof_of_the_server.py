"""env.py's own connection is used only if it proves as much of the server as the application's."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support import postgres_server
from support.alembic_projects import heads, project, tables

from automigrator import MigrationError, Migrator, Target
from automigrator.report import TargetReport

pytestmark = pytest.mark.long(
    "async-trusting",
    "generic-trusting-TLS is not required-do_connect",
    "<lambda>-TLS is not required-do_connect",
    "async-unverified-TLS is not required-connect_args",
    "[do_connect-generic",
    "[do_connect-async",
    "[connect_args-cookbook]",
    "[do_connect-cookbook]",
    "[verify-ca-async",
    "[require-async",
)

OPENSSL = (
    *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
    *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
)


@dataclass
class Encrypted:
    """A server that offers TLS, with the certificate that it signed itself."""

    server: postgres_server.Server
    certificate: Path
    database: str = ""

    def url(self, driver: str = "asyncpg", **query: str) -> URL:
        url = make_url(self.server.url(self.database))
        return url.set(drivername=f"postgresql+{driver}", query=query)


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Encrypted]:
    with postgres_server.folder_of_one() as place:
        postgres_server.initialise(place)
        key, certificate = place.data / "server.key", place.data / "server.crt"
        place.run("/usr/bin/openssl", *OPENSSL, "-keyout", str(key), "-out", str(certificate))
        readable = place.folder / "root.crt"
        readable.write_bytes(certificate.read_bytes())
        readable.chmod(0o644)
        place.folder.chmod(0o755)
        with (place.data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        with postgres_server.serving(place) as (server, _):
            yield Encrypted(server, readable)


@pytest.fixture
def encrypted(tls_server: Encrypted, request: pytest.FixtureRequest) -> Iterator[Encrypted]:
    tls_server.database = "app"
    tls_server.server.create("app")
    yield tls_server
    tls_server.server.drop("app")


async def run(target: Target) -> TargetReport:
    (report,) = (await Migrator(target, mode="migrate").run()).targets
    return report


def trusting(encrypted: Encrypted) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(encrypted.certificate))


def unverified(_: Encrypted) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


Ssl = Callable[[Encrypted], Any]


def engine_with(encrypted: Encrypted, value: Ssl, how: str) -> AsyncEngine:
    if how == "connect_args":
        return create_async_engine(encrypted.url(), connect_args={"ssl": value(encrypted)})
    engine = create_async_engine(encrypted.url())

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> None:
        cparams["ssl"] = value(encrypted)

    return engine


@pytest.mark.long(
    "<lambda>", "trusting", "generic-unverified-TLS is not required-do_connect", "async-unverified"
)
@pytest.mark.parametrize("how", ["connect_args", "do_connect"])
@pytest.mark.parametrize(
    ("value", "lacks"),
    [
        (lambda _: "require", "TLS is not required"),
        (unverified, "TLS is not required"),
        (trusting, "TLS is not required"),
    ],
)
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_a_weaker_connection_of_env_pys_own_is_refused_and_nothing_has_changed(
    kind: str, value: Ssl, lacks: str, how: str, encrypted: Encrypted, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, str(encrypted.url()))
    engine = engine_with(encrypted, value, how)
    with pytest.raises(MigrationError, match=lacks):
        await run(Target(engine, made.config, drive="own"))
    assert tables(encrypted.url().render_as_string(hide_password=False)) == set()


@pytest.mark.long("[connect_args-generic", "cookbook_async")
@pytest.mark.parametrize("kind", ["generic", "async", "cookbook", "cookbook_async"])
@pytest.mark.parametrize("how", ["connect_args", "do_connect"])
async def test_another_way_that_connects_as_the_application_does_is_taken_instead(
    how: str, kind: str, encrypted: Encrypted, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, str(encrypted.url()))
    report = await run(Target(engine_with(encrypted, trusting, how), made.config))
    assert report.drive is not None
    assert not report.drive.startswith("own")
    assert heads(encrypted.url().render_as_string(hide_password=False)) == {"r3"}


@pytest.mark.long("<lambda>1", "<lambda>2")
@pytest.mark.parametrize(
    "value",
    [lambda _: "disable", lambda _: "prefer", lambda _: False],
)
async def test_arguments_that_prove_nothing_refuse_nothing(
    value: Ssl, encrypted: Encrypted, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", str(encrypted.url()))
    report = await run(Target(engine_with(encrypted, value, "connect_args"), made.config))
    assert report.drive == "own connection (postgresql+psycopg)"


@pytest.mark.long
async def test_arguments_that_say_neither_who_nor_how_refuse_nothing(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"command_timeout": 9, "server_settings": {"app.x": "1"}}
    engine = create_async_engine(encrypted.url(), connect_args=arguments)
    made = project(tmp_path, "generic", str(encrypted.url()))
    report = await run(Target(engine, made.config))
    assert report.drive == "own connection (postgresql+psycopg)"


@pytest.mark.long("generic")
@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_proof_in_the_targets_url_is_in_env_pys_as_well(
    mode: str, kind: str, encrypted: Encrypted, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, str(encrypted.url()))
    url = encrypted.url("psycopg2", sslmode=mode, sslrootcert=str(encrypted.certificate))
    report = await run(Target(url, made.config))
    assert report.drive is not None
    assert report.drive.startswith("own connection")


@pytest.mark.long
async def test_an_env_that_takes_care_of_the_proof_itself_keeps_its_connection(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", str(encrypted.url()))
    env = made.versions.parent / "env.py"
    text = env.read_text("utf-8")
    proof = f'{{"sslmode": "verify-full", "sslrootcert": "{encrypted.certificate}"}}'
    pooled = "poolclass=pool.NullPool"
    env.write_text(text.replace(pooled, f"{pooled}, connect_args={proof}"), "utf-8")
    report = await run(Target(engine_with(encrypted, trusting, "connect_args"), made.config))
    assert report.drive == "own connection (postgresql+psycopg)"


@pytest.mark.long
async def test_a_creator_proves_nobody_knows_what(encrypted: Encrypted, tmp_path: Path) -> None:
    url = encrypted.url().render_as_string(hide_password=False)
    dsn = url.replace("+asyncpg", "")
    engine = create_async_engine(url, async_creator=lambda **_: asyncpg.connect(dsn))
    made = project(tmp_path, "generic", url)
    with pytest.raises(MigrationError, match="creator of its own"):
        await run(Target(engine, made.config, drive="own"))
    assert tables(url) == set()
    report = await run(Target(engine, made.config))
    assert report.drive is not None
    assert not report.drive.startswith("own")
