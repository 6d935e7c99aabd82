"""A fresh database on the side takes the target's place, and the old data is kept."""

from __future__ import annotations

from automigrator.retention import Limits
from automigrator.testing.backends.snapshots import SnapshotCases
from automigrator.testing.conformance import TABLE, case, nothing_is_open, same
from automigrator.testing.contents import contents, execute, fill, with_notes

NEW = with_notes("r2", ((1, "new"),))

"""What is built on the side."""


class SideCases(SnapshotCases):
    """Nothing is dropped before its replacement stands."""

    __test__ = False

    @case(needs="sides")
    async def test_a_side_that_is_not_used_leaves_nothing(self) -> None:
        await self.filled()
        before = await self.fresh.places()
        async with self.siding() as (_, sides):
            async with sides.fresh("1") as side:
                async with side.engine.connect() as connection:
                    await connection.exec_driver_sql("CREATE TABLE t (id INTEGER)")
                    await connection.commit()
                assert side.url.database == side.place
                assert side.place in await self.fresh.places()
            assert await self.fresh.places() == before, "a side database is left"
        same(await contents(self.fresh.url()), with_notes(), "a side database was made, and")

    @case(needs="sides")
    async def test_the_side_takes_over_and_the_old_data_is_set_aside(self) -> None:
        aside, url = await self._replaced(set_aside=True), self.fresh.url()
        same(await contents(url), NEW, "after the side has taken over")
        assert aside in await self.fresh.places(), f"the old data is said to be in {aside}"
        same(await contents(url.set(database=aside)), with_notes(), "the old data set aside")
        # whoever reads the report may wait: nothing that tidies up may take it
        async with self.locked() as hold:
            await hold.recover()
            if hold.snapshots is not None:
                await hold.snapshots.prune(Limits(1))
        assert aside in await self.fresh.places(), "recover() or prune() deleted the old data"

    @case(needs="sides")
    async def test_the_old_data_is_deleted_where_that_is_asked_for(self) -> None:
        assert await self._replaced(set_aside=False) is None
        same(await contents(self.fresh.url()), NEW, "after the side has taken over")
        assert await self.fresh.places() == {self.fresh.url().database}

    @case(needs="sides")
    async def test_the_new_database_is_as_writable_as_the_old_one(self) -> None:
        await self._replaced(set_aside=True)
        await execute(self.fresh.url(), "DELETE FROM notes")
        assert (await contents(self.fresh.url()))["notes"][1] == ()
        assert await self.backend().create() is False

    async def _replaced(self, *, set_aside: bool) -> str | None:
        await self.filled()
        async with self.siding() as (hold, sides):
            await sides.ensure_replaceable([TABLE])
            async with sides.fresh("1") as side:
                await fill(side.url, "r2", ((1, "new"),))
                aside = await sides.take_over(side, "1", [TABLE], set_aside=set_aside)
            await hold.close_journal()
        await nothing_is_open(self.fresh.url(), "after the side has taken over")
        return aside
