"""Where tenants come from, and which names cannot be a tenant's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support import fleets

from automigrator import ConfigurationError, Target
from automigrator.fleet import Fleet, SourceError, Tenant, databases, files, schemas
from automigrator.fleet.tenants import Refusal, all_of, read


async def found(source: Any) -> list[Any]:
    return [each async for each in all_of(read(source))]


def names(tenants: list[Any]) -> list[str]:
    return [each.name for each in tenants]


class TestTargets:
    def test_a_list_makes_tenants_of_the_targets_names(self, ini: Path) -> None:
        targets = [Target(f"sqlite+aiosqlite:///{name}.db", ini) for name in "ab"]
        assert list(read(targets)._tenants) == ["a", "b"]  # type: ignore[attr-defined]

    def test_two_of_one_name_are_refused(self, ini: Path) -> None:
        target = Target("sqlite+aiosqlite:///a.db", ini)
        with pytest.raises(ConfigurationError, match="two tenants are named 'a'"):
            Fleet([target, target])

    @pytest.mark.parametrize("name", ["", " a", "a\n", "\x1b[2J", "x" * 201, "\u202ea"])
    def test_a_name_that_hides_something_is_refused(self, name: str, ini: Path) -> None:
        target = Target("sqlite+aiosqlite:///a.db", ini)
        with pytest.raises(ConfigurationError, match="names no tenant"):
            Fleet([Tenant(name, target)])

    async def test_a_function_is_asked_anew_each_time(self, ini: Path) -> None:
        calls = 0

        async def tenants() -> AsyncIterator[Target]:
            nonlocal calls
            calls += 1
            yield Target(f"sqlite+aiosqlite:///{calls}.db", ini)

        source = read(tenants)
        assert names([each async for each in all_of(source)]) == ["1"]
        assert names([each async for each in all_of(source)]) == ["2"]
        with pytest.raises(ConfigurationError, match="only once"):
            Fleet(tenants())

    async def test_a_second_tenant_of_a_name_is_refused_and_the_others_stay(
        self, ini: Path
    ) -> None:
        async def tenants() -> AsyncIterator[Target]:
            for name in "aab":
                yield Target(f"sqlite+aiosqlite:///{name}.db", ini)

        assert [type(each) for each in await found(tenants)] == [Tenant, Refusal, Tenant]


class TestFiles:
    async def test_files_are_named_by_their_paths(self, folder: Path, ini: Path) -> None:
        fleets.with_files(folder / "eu", ["c"])
        fleets.with_files(folder, ["a", "b"])
        (folder / "notes.txt").touch()
        assert names(await found(files(folder, ini))) == ["a", "b"]
        tenants = await found(files(folder, ini, "**/*.db", group=lambda name: name[:2]))
        assert [(each.name, each.group) for each in tenants][-1] == ("eu/c", "eu")
        assert tenants[-1].target.application_url.database == str(folder / "eu" / "c.db")

    async def test_a_pattern_without_a_suffix_leaves_names_whole(
        self, folder: Path, ini: Path
    ) -> None:
        fleets.with_files(folder, ["a"])
        source = files(folder, ini, "*.d*")
        (tenant,) = await found(source)
        assert tenant.name == "a.db"
        assert source.tenant("a.db").target.application_url == tenant.target.application_url

    async def test_links_and_files_of_ours_are_no_tenants(self, folder: Path, ini: Path) -> None:
        fleets.with_files(folder, ["a", ".automigrator-template-1"])
        os.symlink(folder / "a.db", folder / "b.db")
        assert names(await found(files(folder, ini))) == ["a"]

    async def test_an_absent_folder_is_no_empty_fleet(self, folder: Path, ini: Path) -> None:
        with pytest.raises(SourceError, match="No such file"):
            await found(files(folder / "absent", ini))

    @pytest.mark.parametrize("name", ["../a", "/etc/passwd", "x/../../a", "x/../a", "a\0b", ""])
    def test_no_name_leads_out_of_the_folder(self, name: str, folder: Path, ini: Path) -> None:
        with pytest.raises(ConfigurationError):
            files(folder, ini).tenant(name)

    async def test_options_name_the_file(self, folder: Path, ini: Path) -> None:
        fleets.with_files(folder, ["a"])
        (tenant,) = await found(files(folder, ini, x=["file={file}", "more=1"]))
        assert tenant.target.x == [f"file={folder / 'a.db'}", "more=1"]


class TestSchemas:
    async def test_each_schema_is_a_tenant_and_told_to_env_py(
        self, url: str, execute: Callable[[str], Any], ini: Path
    ) -> None:
        for name in ("tenant_b", "tenant_a", "other"):
            execute(f"create schema {name}")
        source = schemas(
            url, ini, like="tenant\\_%", x=["tenant={schema}"], attributes={"is": "{schema}"}
        )
        tenants = await found(source)
        assert names(tenants) == ["tenant_a", "tenant_b"]
        target = tenants[0].target
        assert (target.x, target.attributes) == (["tenant=tenant_a"], {"is": "tenant_a"})
        assert (target.version_table_schema, target.create) == ("tenant_a", False)

    async def test_a_query_says_names_and_groups(
        self, url: str, execute: Callable[[str], Any], ini: Path
    ) -> None:
        execute("create table customers as select 'acme' as name, 'internal' as kind")
        query = "select name, kind from customers"
        (tenant,) = await found(schemas(url, ini, query=query, x=["tenant={schema}"]))
        assert (tenant.name, tenant.group) == ("acme", "internal")

    async def test_a_planted_name_is_refused_and_stops_nobody(
        self, url: str, execute: Callable[[str], Any], ini: Path
    ) -> None:
        execute("create schema a")
        execute('create schema "a\x1b[2J"')
        tenants = await found(schemas(url, ini, like="a%", x=["tenant={schema}"]))
        assert [type(each) for each in tenants] == [Tenant, Refusal]

    async def test_a_query_changes_nothing(
        self, url: str, execute: Callable[[str], Any], ini: Path
    ) -> None:
        query = "create table x as select 'a' returning 1"
        with pytest.raises(SourceError, match="none was touched"):
            await found(schemas(url, ini, query=query, x=["tenant={schema}"]))
        execute("create sequence s")
        query = "select nextval('s')"
        with pytest.raises(SourceError, match="read-only"):
            await found(schemas(url, ini, query=query, x=["tenant={schema}"]))

    def test_env_py_has_to_be_told_which_schema(self, url: str, ini: Path) -> None:
        with pytest.raises(ConfigurationError, match="nothing tells env.py"):
            schemas(url, ini, like="%")
        with pytest.raises(ConfigurationError, match="query= or with like="):
            schemas(url, ini, x=["tenant={schema}"])
        with pytest.raises(ConfigurationError, match="asks a PostgreSQL server"):
            schemas("sqlite+aiosqlite:///a.db", ini, like="%", x=["tenant={schema}"])


class TestDatabases:
    async def test_copies_of_ours_are_left_out(
        self, postgres_server: Any, postgres_name: str, ini: Path
    ) -> None:
        kept = f"{postgres_name}_a__automigrator_purged_20261130t120000z"
        for name in (f"{postgres_name}_a", kept):
            postgres_server.create(name)
        server = postgres_server.url("postgres")
        source = databases(server, config=ini, like=f"{postgres_name}%")
        (tenant,) = await found(source)
        assert tenant.name == f"{postgres_name}_a"
        assert tenant.target.application_url.database == tenant.name
        with pytest.raises(ConfigurationError, match="that we keep"):
            source.tenant(kept)

    async def test_of_several_servers_names_tell_which(
        self, postgres_server: Any, postgres_name: str, ini: Path
    ) -> None:
        postgres_server.create(postgres_name)
        one = postgres_server.admin
        other = one.set(host="localhost" if one.host != "localhost" else "127.0.0.1")
        source = databases(one, other, config=ini, like=postgres_name)
        assert names(await found(source)) == [
            f"{each.host}:{each.port}/{postgres_name}" for each in (one, other)
        ]
        tenant = source.tenant(f"{other.host}:{other.port}/new")
        assert tenant.target.application_url == other.set(database="new")
        with pytest.raises(ConfigurationError, match="names no server"):
            source.tenant("elsewhere:1/new")

    async def test_a_server_that_is_away_is_told_without_its_password(self, ini: Path) -> None:
        server = "postgresql+asyncpg://u:s3cret@127.0.0.1:1/postgres"
        with pytest.raises(SourceError, match="cannot be read") as caught:
            await found(databases(server, config=ini, like="%"))
        assert caught.value.kind == "unreachable" and "s3cret" not in str(caught.value)
