"""pg_dump, pg_restore and psql: whose they are, where they are led, and what they are told.

They connect as the application does, and prove no less of the server; what they cannot be told is
refused before anything changes. Nobody else chooses which programs are run.
"""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.postgres_backends import TABLES, made, silent
from support.postgres_server import Server
from support.rogue_server import Rogue, rogue

from automigrator.backends.access import Access
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.postgresql import libpq
from automigrator.backends.postgresql.dump import programs
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.errors import RefusedError
from automigrator.target import Target

SECRET = "of-the-application"

pytestmark = pytest.mark.skipif(
    shutil.which("pg_dump") is None, reason="no PostgreSQL client programs on this machine"
)


def access_of(database: str | AsyncEngine) -> Access:
    return Access(Target(database, Path(__file__).parent))


async def clients_for(access: Access, server: int, binaries: Path | None = None) -> Path:
    """The folder of programs that a dump would be made with."""
    unused = cast(Any, None)
    return await ExclusiveAccess(unused, access, "app", unused, unused).clients(server, binaries)


@pytest.fixture
def version() -> int:
    """The major version of this machine's programs."""
    answer = subprocess.run(["pg_dump", "--version"], capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[2].partition(".")[0])


@pytest.fixture
def server() -> Iterator[Rogue]:
    with rogue() as server:
        yield server


async def dumped(access: Access, server: int) -> None:
    """Let pg_dump connect as it would for a copy."""
    clients = await clients_for(access, server)
    env = await libpq.environment(access, "x")
    await programs.run(clients / "pg_dump", "--no-password", env=env)


class TestWhatTheyProve:
    """A rogue server at the address of the application's gets no password from pg_dump."""

    async def test_it_gets_that_of_who_demands_nothing(self, server: Rogue, version: int) -> None:
        url = f"postgresql+asyncpg://app:{SECRET}@127.0.0.1:{server.port}/app"
        with pytest.raises(RefusedError, match="password authentication failed"):
            await dumped(access_of(url), version)
        assert server.passwords == [SECRET]

    @pytest.mark.long("[sslmode=require]", "gssencmode", "sslcertmode")
    @pytest.mark.parametrize(
        "demand",
        [
            "require_auth=scram-sha-256",
            "channel_binding=require",
            "gssencmode=require",
            "sslmode=verify-full&sslrootcert=/nowhere/root.crt",
            "sslmode=require",
            "sslcertmode=require",
        ],
    )
    async def test_a_demand_of_the_url_is_theirs(
        self, server: Rogue, version: int, demand: str
    ) -> None:
        url = f"postgresql+psycopg://app:{SECRET}@127.0.0.1:{server.port}/app?{demand}"
        with pytest.raises(RefusedError, match=r"nothing was changed"):
            await dumped(access_of(url), version)
        assert server.passwords == []

    @pytest.mark.parametrize(
        "variable", ["PGREQUIREAUTH=scram-sha-256", "PGCHANNELBINDING=require", "PGSSLMODE=require"]
    )
    async def test_a_demand_that_the_driver_reads_in_the_environment_is_theirs(
        self, server: Rogue, version: int, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(*variable.split("="))
        url = f"postgresql+psycopg://app:{SECRET}@127.0.0.1:{server.port}/app"
        with pytest.raises(RefusedError, match="nothing was changed"):
            await dumped(access_of(url), version)
        assert server.passwords == []

    @pytest.mark.parametrize("value", [True, ssl.create_default_context()], ids=["True", "context"])
    async def test_a_context_that_verifies_is_refused_whatever_the_environment_says(
        self, server: Rogue, version: int, value: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGSSLMODE", "prefer")
        url = f"postgresql+asyncpg://app:{SECRET}@127.0.0.1:{server.port}/app"
        engine = create_async_engine(url, connect_args={"ssl": value})
        with pytest.raises(RefusedError, match="SSLContext.*nothing was changed.*sslrootcert"):
            await dumped(access_of(engine), version)
        assert server.asked == 0

    async def test_a_context_without_verification_is_told_as_far_as_it_goes(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        url = "postgresql+asyncpg://app@h/app"
        engine = create_async_engine(url, connect_args={"ssl": context})
        env = await libpq.environment(access_of(engine), "x")
        assert (env["PGSSLMODE"], env["PGSSLMINPROTOCOLVERSION"]) == ("require", "TLSv1.3")

    async def test_the_url_that_the_refusal_asks_for_is_told(self) -> None:
        url = "postgresql://app@h/app?sslmode=verify-full&sslrootcert=/ca.pem"
        access = access_of(url)
        env = await libpq.environment(access, "x")
        assert access.url.drivername == "postgresql+asyncpg"
        assert (env["PGSSLMODE"], env["PGSSLROOTCERT"]) == ("verify-full", "/ca.pem")

    @pytest.mark.parametrize(
        "option",
        ["sslpassword=p", "service=prod", "oauth_issuer=https://x", "replication=database"],
    )
    async def test_what_has_no_variable_is_refused_by_its_name(self, option: str) -> None:
        access = access_of(f"postgresql+psycopg://app@h/app?{option}")
        with pytest.raises(RefusedError, match=f"{option.partition('=')[0]}; nothing was changed"):
            await libpq.environment(access, "x")

    async def test_all_that_has_one_is_told(self) -> None:
        options = {
            **dict.fromkeys(("sslcrldir", "sslcrl", "sslrootcert", "sslcert", "sslkey"), "/f"),
            **{"ssl_min_protocol_version": "TLSv1.3", "sslsni": "0", "requirepeer": "postgres"},
            **{"hostaddr": "::1", "sslcertmode": "disable", "krbsrvname": "k"},
        }
        url = make_url("postgresql+psycopg://app@h/app").update_query_dict(options)
        env = await libpq.environment(access_of(url.render_as_string(False)), "x")
        found = {name: env.get(f"PG{name.replace('_', '').upper()}") for name in options}
        assert found == options

    @pytest.mark.parametrize(
        ("demand", "needed"), [("require_auth=scram-sha-256", 16), ("sslrootcert=system", 16)]
    )
    async def test_older_ones_that_would_pass_over_a_demand_are_not_taken(
        self, tmp_path: Path, demand: str, needed: int
    ) -> None:
        access = access_of(f"postgresql+psycopg://app@h/app?{demand}")
        old, new = tools(tmp_path / "old", "15.20"), tools(tmp_path / "new", f"{needed}.20")
        option = demand.partition("=")[0]
        with pytest.raises(RefusedError, match=f"version {needed}, as older ones .*{option}"):
            await clients_for(access, 15, old)
        assert await clients_for(access, 15, new) == new.resolve()


def tools(folder: Path, version: str, mark: Path | None = None) -> Path:
    """Client programs of a version; one that is run leaves a mark."""
    folder.mkdir(parents=True)
    for name in programs.PROGRAMS:
        lines = ["#!/bin/sh", f"touch {mark}" if mark else "", f"echo 'x (PostgreSQL) {version}'"]
        (folder / name).write_text("\n".join(lines))
        (folder / name).chmod(0o755)
    return folder


class TestWhereTheyAreLed:
    """Variables that the application's driver does not read lead no program elsewhere."""

    @pytest.mark.long("psycopg")
    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    async def test_they_go_where_the_application_goes(
        self,
        postgres_url: str,
        postgres_server: Server,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        driver: str,
    ) -> None:
        url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")
        with rogue("127.0.0.2", url.port or 0) as elsewhere:
            if driver == "asyncpg":
                monkeypatch.setenv("PGHOSTADDR", "127.0.0.2")
                monkeypatch.setenv("PGREQUIREAUTH", "none")
            (tmp_path / "services").write_text("[led]\nhost=127.0.0.2\ndbname=other\nuser=x\n")
            monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
            monkeypatch.setenv("PGSERVICE", "led")
            options = SnapshotOptions(folder=tmp_path / "dumps", how="dump")
            async with made(url).lock(TABLES, 5, silent) as hold:
                await hold.snapshots.take("s1", (), ("r1",), TABLES, options)
            assert elsewhere.asked == 0

    async def test_what_the_driver_takes_from_a_service_of_the_environment_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "services").write_text("[prod]\nsslmode=verify-ca\nhost=elsewhere\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        monkeypatch.setenv("PGSERVICE", "prod")
        monkeypatch.setenv("PGSSLMODE", "disable")
        env = await libpq.environment(access_of("postgresql+psycopg://app@h/app"), "x")
        assert (env["PGSSLMODE"], env["PGHOST"]) == ("verify-ca", "h")
        assert "PGSERVICE" not in env

    async def test_without_a_host_they_look_where_asyncpg_does(self) -> None:
        """A folder of the programs' own build may be one in which everybody makes sockets."""
        env = await libpq.environment(access_of("postgresql+asyncpg://app@/app"), "x")
        assert env["PGHOST"].split(",")[0] == "/run/postgresql"

    async def test_a_file_of_passwords_is_the_drivers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGPASSFILE", "/of/the/environment")
        for driver in ("asyncpg", "psycopg"):
            url = f"postgresql+{driver}://app@h/app"
            env = await libpq.environment(access_of(url), "x")
            assert env["PGPASSFILE"] == "/of/the/environment"
            env = await libpq.environment(access_of(f"{url}?passfile=/own"), "x")
            assert env["PGPASSFILE"] == "/own"


class TestWhoseTheyAre:
    """Nobody else's program is run, and none that anybody could put in the place of ours."""

    async def test_one_of_another_user_is_run_only_where_the_application_names_its_folder(
        self, shared_folder: Path, as_nobody: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = shared_folder / "run"
        theirs = as_nobody(tools, shared_folder / "bin", "15.20", mark)
        monkeypatch.setenv("PATH", f"{theirs}:{os.environ['PATH']}")
        monkeypatch.setattr(programs, "_USUAL", ())
        with pytest.raises(RefusedError, match=f"one of another user, to whom {theirs}"):
            await programs.find(15)
        assert not mark.exists()
        # the files of an image may belong to another user than the process, and are its own
        assert await programs.find(15, theirs) == theirs

    @pytest.mark.parametrize("how", ["PATH", "binaries"])
    async def test_one_that_everybody_may_replace_is_not_run(
        self, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = tmp_path / "run"
        folder = tools(tmp_path / "open" / "bin", "15.20", mark)
        folder.parent.chmod(0o777)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(programs, "_USUAL", ())
        with pytest.raises(RefusedError, match=f"by writing to {folder.parent}"):
            await programs.find(15, folder if how == "binaries" else None)
        assert not mark.exists()

    async def test_one_that_is_reached_by_a_link_that_everybody_may_replace_is_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = tmp_path / "run"
        real, links = tools(tmp_path / "real", "15.20", mark), tmp_path / "links"
        links.mkdir()
        for name in programs.PROGRAMS:
            (links / name).symlink_to(real / name)
        links.chmod(0o777)
        monkeypatch.setenv("PATH", str(links))
        monkeypatch.setattr(programs, "_USUAL", ())
        with pytest.raises(RefusedError, match=f"by writing to {links}"):
            await programs.find(15)
        assert not mark.exists()
        links.chmod(0o755)
        assert await programs.find(15) == links

    async def test_one_that_another_users_link_leads_to_is_not_run(
        self, shared_folder: Path, as_nobody: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = tools(shared_folder / "real", "15.20")
        for name in programs.PROGRAMS:
            as_nobody(os.symlink, real / name, shared_folder / name)
        monkeypatch.setenv("PATH", str(shared_folder))
        monkeypatch.setattr(programs, "_USUAL", ())
        with pytest.raises(RefusedError, match=f"to whom {shared_folder / 'pg_dump'} belongs"):
            await programs.find(15)

    @pytest.mark.parametrize("entry", [".", "", "bin"])
    async def test_a_relative_entry_of_the_path_is_passed_over(
        self, tmp_path: Path, entry: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = tmp_path / "run"
        folder = tools(tmp_path / "bin", "15.20", mark)
        monkeypatch.chdir(tmp_path if entry == "bin" else folder)
        monkeypatch.setenv("PATH", f"{entry}:/nowhere")
        monkeypatch.setattr(programs, "_USUAL", ())
        with pytest.raises(RefusedError, match=r"none\)"):
            await programs.find(15)
        assert not mark.exists()

    async def test_their_version_is_asked_without_a_password(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGPASSWORD", SECRET)
        folder, said = tools(tmp_path / "bin", "15.20"), tmp_path / "said"
        (folder / "pg_dump").write_text(f"#!/bin/sh\nenv > {said}\necho 'x (PostgreSQL) 15.20'")
        await programs.find(15, folder)
        assert said.exists() and SECRET not in said.read_text()

    async def test_a_relative_folder_of_the_applications_is_refused(self) -> None:
        with pytest.raises(RefusedError, match="'bin' is another folder .* Name an absolute path"):
            await programs.find(15, Path("bin"))

    @pytest.mark.parametrize(
        ("version", "named"),
        [
            ("15.13", ["CVE-2025-8715", "CVE-2026-18408", "CVE-2026-116314"]),
            ("16.10", ["CVE-2026-18408", "CVE-2026-116314"]),
            ("18.6", ["CVE-2026-116314"]),
            ("18.7", []),
            ("19.0", []),
            ("13.23", ["CVE-2026-18408", "CVE-2026-116314"]),
        ],
    )
    async def test_those_that_are_known_to_be_unsafe_are_named(
        self, tmp_path: Path, version: str, named: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "automigrator"):
            await programs.find(int(version[:2]), tools(tmp_path / "bin", version))
        assert all(each in caplog.text for each in named)
        assert bool(caplog.text) is bool(named)

    async def test_of_two_of_the_same_version_the_newer_repair_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, new = tools(tmp_path / "old", "15.9"), tools(tmp_path / "new", "15.20")
        monkeypatch.setenv("PATH", f"{old}:{new}")
        monkeypatch.setattr(programs, "_USUAL", ())
        assert await programs.find(15) == new.resolve()
