"""Honest changes of the role that migrates: what one has left, the next one finds.

A login that is exchanged every day, a member of the role that owns the database, a superuser that
migrates somebody else's database.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.attacks import Scene
from support.postgres_backends import TABLES, made, silent

from automigrator.backends.contract.record import Record
from automigrator.backends.contract.snapshots import SnapshotOptions
from automigrator.backends.postgresql.locking.advisory import keys
from automigrator.backends.postgresql.notes import note_name
from automigrator.errors import RefusedError

pytestmark = pytest.mark.long(
    "next[dump]",
    "folder_of_its_programs",
    "configuration_names",
    "read_by_a_superuser",
    "becomes_the_owners",
    "inherit_no_rights",
    "member_of_nothing",
)

RECORD = Record("p", "failed", "somebody", at=5.0)


class Logins:
    """Two logins that are members of the role that owns the database."""

    def __init__(self, scene: Scene, rights: str = "") -> None:
        self.names = [scene.roles.make(f"createdb {rights}") for _ in range(2)]
        for each in self.names:
            scene.server.execute(f"grant {scene.app} to {each}")
        self.urls = [scene.roles.url(each, scene.live) for each in self.names]


@pytest.fixture
def logins(scene: Scene) -> Logins:
    return Logins(scene)


class TestARecord:
    async def test_is_the_owners_and_the_next_login_reads_replaces_and_removes_it(
        self, scene: Scene, logins: Logins
    ) -> None:
        first, second = map(made, logins.urls)
        async with first.lock(TABLES, 5, silent) as hold:
            await hold.leave(RECORD)
        assert scene.owner_of("last") == scene.app
        async with second.lock(TABLES, 5, silent) as hold:
            assert hold.notes == ()
            assert await hold.last() == RECORD
            await hold.leave(RECORD._replace(at=6.0))
            await hold.leave(None)
            assert await hold.last() is None

    async def test_is_the_owners_where_logins_inherit_no_rights_and_act_as_it(
        self, scene: Scene
    ) -> None:
        logins = Logins(scene, "noinherit")
        for each in logins.names:
            scene.server.execute(f"alter role {each} set role = {scene.app}")
        first, second = map(made, logins.urls)
        async with first.lock(TABLES, 5, silent) as hold:
            await hold.leave(RECORD)
        async with second.lock(TABLES, 5, silent) as hold:
            assert hold.notes == () and await hold.last() == RECORD
            await hold.leave(None)
            assert await hold.last() is None

    async def test_of_an_earlier_release_which_the_login_owns_is_read_by_the_next(
        self, scene: Scene, logins: Logins
    ) -> None:
        scene.do(f'grant create on database "{scene.live}" to {logins.names[0]}')
        await scene.plant_note("last", RECORD.dumped(), role=logins.names[0])
        async with made(logins.urls[1]).lock(TABLES, 5, silent) as hold:
            assert await hold.last() == RECORD
            with pytest.raises(RefusedError, match="former login.*ALTER DOMAIN .* OWNER TO"):
                await hold.leave(RECORD)

    async def test_of_an_earlier_release_becomes_the_owners_when_it_is_written_again(
        self, scene: Scene, logins: Logins
    ) -> None:
        await scene.plant_note("last", RECORD.dumped(), role=logins.names[0])
        async with made(logins.urls[0]).lock(TABLES, 5, silent) as hold:
            await hold.leave(RECORD._replace(at=6.0))
        assert scene.owner_of("last") == scene.app
        async with made(logins.urls[1]).lock(TABLES, 5, silent) as hold:
            assert await hold.last() == RECORD._replace(at=6.0)
            await hold.leave(None)

    async def test_of_a_superuser_is_the_owners_who_reads_and_removes_it(
        self, scene: Scene
    ) -> None:
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            await hold.leave(RECORD)
        assert scene.owner_of("last") == scene.app
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            assert await hold.last() == RECORD
            await hold.leave(None)
            assert await hold.last() is None

    async def test_of_the_owner_is_read_by_a_superuser(self, scene: Scene) -> None:
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            await hold.leave(RECORD)
        async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            assert await hold.last() == RECORD

    async def test_is_read_where_a_group_that_may_create_has_it_and_the_server_owns_the_database(
        self, scene: Scene
    ) -> None:
        """As after a login was removed: REASSIGN OWNED BY it TO the group."""
        group, login = scene.app, scene.roles.make()
        scene.server.execute(f'alter database "{scene.live}" owner to postgres')
        scene.server.execute(f'grant create on database "{scene.live}" to {group}')
        scene.server.execute(f"grant {group} to {login}")
        await scene.plant_note("last", RECORD.dumped(), role=group)
        async with made(scene.roles.url(login, scene.live)).lock(TABLES, 5, silent) as hold:
            assert await hold.last() == RECORD
            await hold.leave(RECORD)
        assert scene.owner_of("last") == group

    async def test_of_a_member_of_nothing_is_nobodys(self, scene: Scene, logins: Logins) -> None:
        scene.server.execute(f"revoke {scene.app} from {logins.names[0]}")
        scene.do(f'grant create on database "{scene.live}" to {logins.names[0]}')
        await scene.plant_note("last", RECORD.dumped(), role=logins.names[0])
        async with made(logins.urls[1]).lock(TABLES, 5, silent) as hold:
            assert await hold.last() is None


class TestAKilledMigration:
    @pytest.mark.parametrize("how", ["template", "dump"])
    async def test_of_one_login_is_undone_by_the_next(
        self, scene: Scene, logins: Logins, tmp_path: Path, how: Any
    ) -> None:
        first, second = map(made, logins.urls)
        async with first.lock(TABLES, 5, silent) as hold:
            options = SnapshotOptions(folder=tmp_path, how=how)
            await hold.snapshots.take("20260201T000000Z", ("r1",), ("r2",), TABLES, options)
        scene.do("delete from users", f"set role {scene.app}", "create table half ()")
        scene.do(f"alter table half owner to {scene.app}")
        assert (await second.look(TABLES)).unfinished
        async with second.lock(TABLES, 5, silent) as hold:
            assert "put back" in (await hold.recover() or "")
            assert await hold.recover() is None
        assert scene.do("select name from users") == [("one of ours",)]
        assert not (await second.look(TABLES)).unfinished

    async def test_of_an_earlier_release_with_the_folder_of_its_programs_is_still_undone(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            options = SnapshotOptions(folder=tmp_path, how="dump")
            await hold.snapshots.take("20260201T000000Z", ("r1",), ("r2",), TABLES, options)
        name = note_name("dump", keys(scene.live, TABLES)[0])
        text = scene.do(f"select obj_description('{name}'::regtype)")[0][0]
        older = text.replace('"host":', '"binaries": "/gone", "host":')
        scene.do(f"comment on domain {name} is '{older}'", "create table half ()")
        scene.do(f"alter table half owner to {scene.app}")
        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            assert "put back" in (await hold.recover() or "")

    async def test_is_undone_with_the_programs_that_the_starts_own_configuration_names(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        from automigrator_backup_restore import BackupRestore  # type: ignore[import-not-found]

        async with made(scene.url).lock(TABLES, 5, silent) as hold:
            options = SnapshotOptions(folder=tmp_path, how="dump")
            await hold.snapshots.take("20260201T000000Z", ("r1",), ("r2",), TABLES, options)
        scene.do("create table half ()", f"alter table half owner to {scene.app}")
        strategy = BackupRestore(binaries=tmp_path / "none")
        migrator = scene.migrator(n=2, recovery=[strategy])
        with pytest.raises(Exception, match=f"found in {tmp_path / 'none'}"):
            await migrator.run()
