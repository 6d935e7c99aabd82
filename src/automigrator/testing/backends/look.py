"""Looking at a database, creating one, and what its connections can do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator.backends.access import Access
from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.registry import backend_for
from automigrator.target import Target
from automigrator.testing.conformance import TABLE, Conformance, backend_of, case, same
from automigrator.testing.contents import contents, execute, fill, with_notes

_CREATORS, _ROUNDS = 5, 3


class LookCases(Conformance):
    """An absent database, an empty one, and one at a revision."""

    __test__ = False

    def offered(self) -> frozenset[str]:
        return self.backend().offers

    def backend(self, name: str = "app") -> Backend:
        """A new backend for the database of a name, as a start of its own would have."""
        return backend_of(self.fresh.url(name))

    async def filled(self, name: str = "app", revision: str = "r1") -> Backend:
        """The same, and the database is there, with notes in it."""
        backend = self.backend(name)
        await backend.create()
        await fill(self.fresh.url(name), revision)
        return backend

    @case
    async def test_an_absent_database_is_an_answer_and_stays_absent(self) -> None:
        other = VersionTable("other_versions")
        for _ in range(2):
            backend = self.backend()
            sight = await backend.look([TABLE, other])
            assert not sight.exists, "an absent database was seen"
            assert dict(sight.heads) == {TABLE: None, other: None}, (
                f"the heads of a version table that is not there are None, not {sight.heads}"
            )
            assert not sight.has_tables and not sight.unfinished
        places = await self.fresh.places()
        assert not places, f"looking has created {', '.join(places)}"

    @case
    async def test_creating_says_whether_it_did(self) -> None:
        assert await self.backend().create() is True
        assert await self.backend().create() is False, "it created what was there"
        sight = await self.backend().look([TABLE])
        assert sight.exists and not sight.has_tables and sight.heads == {TABLE: None}, sight

    @case
    async def test_of_many_that_create_at_once_one_did_and_none_fails(self) -> None:
        for number in range(_ROUNDS):
            backends = [self.backend(f"app{number}") for _ in range(_CREATORS)]
            created = await asyncio.gather(*(each.create() for each in backends))
            assert created.count(True) == 1, f"of {_CREATORS} that created at once: {created}"
            assert (await self.backend(f"app{number}").look([TABLE])).exists

    @case
    async def test_creating_keeps_what_is_there(self) -> None:
        backend = await self.filled()
        await backend.create()
        same(await contents(self.fresh.url()), with_notes(), "create() changed a database")

    @case
    async def test_heads_and_tables_are_seen(self) -> None:
        backend = await self.filled()
        sight = await backend.look([TABLE])
        assert sight.exists and sight.has_tables and sight.heads == {TABLE: ("r1",)}, sight
        url = self.fresh.url()
        await execute(url, "INSERT INTO alembic_version VALUES ('a1')")
        assert (await self.backend().look([TABLE])).all_heads() == ("a1", "r1")
        await execute(url, "DELETE FROM alembic_version", "DROP TABLE notes")
        sight = await self.backend().look([TABLE])
        assert sight.heads == {TABLE: ()} and not sight.has_tables, (
            f"a version table without a row is (), and no table of the application's: {sight}"
        )

    @case
    async def test_a_look_for_heads_only_sees_the_same_heads(self) -> None:
        engine = create_async_engine(self.fresh.url())
        await self.filled()
        backend = backend_for(Access(Target(engine, Path(__file__).parent)))
        try:
            for _ in range(2):  # with a connection idle in the pool, too
                heads = (await backend.look([TABLE], heads_only=True)).all_heads()
                assert heads == ("r1",), f"a look for heads only at r1 gave {heads}"
                async with engine.connect() as connection:
                    await connection.execute(select(1))
                await backend.look([TABLE])
        finally:
            await engine.dispose()

    @case
    async def test_an_engine_leads_to_the_database_and_can_be_given_back(self) -> None:
        backend = await self.filled()
        engine = backend.engine()
        async with engine.connect() as connection:
            rows = (await connection.exec_driver_sql("SELECT id FROM notes")).all()
        assert len(rows) == len(with_notes()["notes"][1])
        await backend.release(engine)

    @case
    async def test_connections_are_told_apart_by_their_database(self) -> None:
        first, second = await self.filled("first"), await self.filled("second")

        async def seen(backend: Backend) -> object:
            engine = backend.engine()
            async with engine.connect() as connection:
                answer = await connection.run_sync(lambda c: backend.sessions.identity(c))
            await backend.release(engine)
            return answer

        one, again, other = await seen(first), await seen(first), await seen(second)
        assert one == again, f"two connections to one database are {one} and {again}"
        assert one != other, f"connections to two databases are both {one}"
        hash(one), hash(other)

    @case
    async def test_an_adopted_connection_rolls_back_for_real(self) -> None:
        backend = await self.filled()

        def half(connection: Connection) -> None:
            undo = backend.sessions.adopt(connection)
            connection.exec_driver_sql("DELETE FROM notes")
            if backend.transactional_ddl:
                connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
            connection.rollback()
            undo()

        engine = backend.engine()
        async with engine.connect() as connection:
            await connection.run_sync(half)
        await backend.release(engine)
        same(await contents(self.fresh.url()), with_notes(), "after a rollback")

    @case
    async def test_a_version_table_is_found_where_a_connection_would_find_it(self) -> None:
        backend = await self.filled()
        await backend.look([TABLE])
        engine = backend.engine()
        async with engine.connect() as connection:
            resolved = await connection.run_sync(lambda c: backend.sessions.resolve(c, TABLE))
            interrupt = await connection.run_sync(backend.sessions.interrupter)
        await backend.release(engine)
        assert resolved.name == TABLE.name
        assert (await self.backend().look([resolved])).heads == {resolved: ("r1",)}
        assert interrupt is None or callable(interrupt)
        assert isinstance(backend.sessions.configure_options(), dict)

    @case
    async def test_what_the_driver_does_not_say_is_not_guessed(self) -> None:
        backend = await self.filled()
        loop = ValueError("one")
        loop.__context__ = KeyError("two")
        loop.__context__.__context__ = loop
        for error in (ValueError("no"), RuntimeError("disk full, they say"), loop):
            assert backend.classify(error).kind is None, f"classify({error!r}) is None"
        try:
            await execute(self.fresh.url(), "SELECT * FROM absent")
        except Exception as error:  # noqa: BLE001 - the driver's own
            kind = backend.classify(error).kind
            assert kind is None, f"a statement that is wrong is the revision's fault, not {kind}"
        assert tuple(await backend.debris()) == (), "there is no debris in a good database"

    @case
    async def test_refreshing_leaves_the_applications_engine_usable(self) -> None:
        await self.filled()
        engine = create_async_engine(self.fresh.url())
        backend = backend_for(Access(Target(engine, Path(__file__).parent)))
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT * FROM notes")
            await backend.refresh()
            async with engine.connect() as connection:
                await connection.exec_driver_sql("SELECT * FROM notes")
        finally:
            await engine.dispose()
