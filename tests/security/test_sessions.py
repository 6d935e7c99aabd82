"""Who may hold up a start on PostgreSQL: a session or a lock counts by its role."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from support.attacks import Scene
from support.postgres_backends import TABLES, made, silent

from automigrator.backends.postgresql import databases
from automigrator.backends.postgresql.locking.advisory import keys
from automigrator.backends.postgresql.locking.session import tag_of
from automigrator.errors import LockTimeoutError, RefusedError


@asynccontextmanager
async def session(
    scene: Scene, role: str = "", name: str = "", database: str = ""
) -> AsyncIterator[asyncpg.Connection]:
    """A session of a role, by default of the guest, with a name of ours."""
    url = make_url(scene.roles.url(role or scene.guest, database or scene.live))
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = {"application_name": name or tag_of(keys(scene.live, TABLES)[0]) + "x"}
    connection = await asyncpg.connect(dsn, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


pytestmark = pytest.mark.long("cannot_migrate[True]", "leader_of_another")


class TestASessionThatCallsItselfAnEarlierMigration:
    @pytest.mark.parametrize("superuser", [True, False])
    async def test_is_neither_waited_for_nor_ended_where_its_role_cannot_migrate(
        self, scene: Scene, superuser: bool
    ) -> None:
        url = scene.superusers_url if superuser else scene.url
        async with session(scene) as guest, made(url).lock(TABLES, 5, silent) as hold:
            assert hold.waited_s < 1
            pid = guest.get_server_pid()
            assert any(f"'{scene.guest}' (pid {pid})" in note for note in hold.notes)
            assert await guest.fetchval("select 1") == 1

    async def test_is_waited_for_where_its_role_can_migrate(self, scene: Scene) -> None:
        scene.do(f"grant update on alembic_version to {scene.guest}")
        async with session(scene):
            with pytest.raises(LockTimeoutError, match=f"role '{scene.guest}'"):
                async with made(scene.url).lock(TABLES, 0.2, silent):
                    pass

    async def test_is_ended_where_it_is_of_a_member_of_the_owner(self, scene: Scene) -> None:
        """As a login of before is, in a database that a group of logins owns."""
        login = scene.roles.make()
        scene.server.execute(f"grant {scene.app} to {login}")
        lock = made(scene.superusers_url).lock(TABLES, 5, silent)
        async with session(scene, login) as earlier, lock:
            with pytest.raises(asyncpg.InterfaceError):
                await earlier.fetchval("select 1")

    async def test_does_not_hide_a_guest_from_an_act_that_needs_the_database_for_itself(
        self, scene: Scene
    ) -> None:
        async with session(scene), made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
            access = hold.exclusive("look at")  # type: ignore[attr-defined]
            with pytest.raises(RefusedError, match=scene.guest):
                await databases.ensure_left(
                    access.admin, "act", scene.live, but_ours=True, grace_s=0
                )


class TestTheLockOfAGuest:
    """Any role that may connect may take an advisory lock: REVOKE CONNECT keeps it out."""

    async def test_is_waited_for_and_its_role_is_named(self, scene: Scene) -> None:
        async with session(scene, name="x", database="postgres") as guest:
            await guest.execute("select pg_advisory_lock($1)", keys(scene.live, TABLES)[0])
            with pytest.raises(LockTimeoutError, match=rf"session \d+ \(role {scene.guest}, x"):
                async with made(scene.url).lock(TABLES, 0.2, silent):
                    pass
            holder = await made(scene.url).examiner(TABLES).holder()
            assert f"role {scene.guest}" in (holder or "")

    async def test_is_no_leader_of_another_target(self, scene: Scene) -> None:
        """Or what killed starts have left on the side would stay for ever."""
        from automigrator.backends.postgresql.locking.advisory import key_of

        scene.server.create(f"{scene.live}__automigrator_side_20260101T000000Z")
        async with session(scene, name="x", database="postgres") as guest:
            await guest.execute("select pg_advisory_lock_shared($1)", key_of(scene.live))
            async with made(scene.superusers_url).lock(TABLES, 5, silent) as hold:
                await hold.recover()
        assert scene.databases() == []
