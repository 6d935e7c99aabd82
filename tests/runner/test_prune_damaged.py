"""Damaged files that were set aside: listed, and pruned where they are ours and a person asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from automigrator import Migrator, Target


@pytest.fixture
async def migrator(make_target: Callable[..., Target], sqlite_url: str) -> Migrator:
    made = Migrator(make_target(database=sqlite_url), mode="migrate")
    await made.run()
    return made


def set_aside(url: str, day: int) -> Path:
    """A damaged file as a purge keeps it, with its log."""
    live = Path(str(make_url(url).database))
    made = live.with_name(f"{live.name}.corrupt-202601{day:02}T000000Z")
    made.write_bytes(b"no database" * 100)
    made.with_name(f"{made.name}-wal").write_bytes(b"no log")
    return made


async def test_all_but_the_newest_go_with_what_lies_beside_them(
    migrator: Migrator, sqlite_url: str
) -> None:
    first, second, newest = (set_aside(sqlite_url, day) for day in (1, 2, 3))
    listed = await migrator.snapshots()
    assert [(each.place, each.kind) for each in listed] == [
        (str(each), "corrupt") for each in (newest, second, first)
    ]

    deleted = await migrator.prune_snapshots(keep_purged=1)

    assert set(deleted) == {str(first), str(second)}
    assert sorted(path.name for path in newest.parent.glob("*.corrupt-*")) == [
        newest.name,
        f"{newest.name}-wal",
    ]


async def test_one_that_others_may_write_to_is_none_of_ours(
    migrator: Migrator, sqlite_url: str
) -> None:
    strange, ours, newest = (set_aside(sqlite_url, day) for day in (1, 2, 3))
    strange.chmod(0o666)

    deleted = await migrator.prune_snapshots(keep_purged=1)

    assert deleted == (str(ours),) and strange.exists() and newest.exists()


async def test_other_limits_leave_them(migrator: Migrator, sqlite_url: str) -> None:
    kept = [set_aside(sqlite_url, day) for day in (1, 2)]
    assert await migrator.prune_snapshots(keep=1, keep_replaced=1) == ()
    assert all(each.exists() for each in kept)
