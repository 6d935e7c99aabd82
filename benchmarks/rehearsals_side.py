"""Users of a database, in a process of their own: they read and write rows until stdin ends.

    python benchmarks/rehearsals_side.py <dsn> <rows>

The first line that it prints holds the ids of their sessions; the last one, which relations other
sessions were seen to lock, and in which modes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types

PAUSE_S = 0.004
QUERIES = (
    "select number from items where id = {id}",
    "select o.name from owners o where id = {owner}",
    "select name from old_things where id = {id}",
    "update items set owner = owner where id = {id}",
    "update owners set name = name where id = {owner}",
    "insert into parts (id, item) values ({new}, {id})",
)
LOCKED = """
    select relation::int8, mode from pg_locks
    where pid <> all($1::int[]) and pid <> pg_backend_pid() and relation >= 16384
      and locktype = 'relation'
      and database = (select oid from pg_database where datname = current_database())
"""


async def use(dsn: str, query: str, rows: int, over: asyncio.Event, pids: list[int]) -> None:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    pids.append(connection.get_server_pid())
    new = rows * 10
    while not over.is_set():
        new += 1
        with suppress(asyncpg.PostgresError):  # a table that is renamed, say
            ids = {"id": random.randint(1, rows), "owner": random.randint(1, rows // 10)}
            await connection.execute(query.format(new=new, **ids))
        await asyncio.sleep(PAUSE_S)
    await connection.close()


async def watch(dsn: str, over: asyncio.Event, pids: list[int], seen: set[Any]) -> None:
    connection = await asyncpg.connect(dsn)
    while not over.is_set():
        seen.update(map(tuple, await connection.fetch(LOCKED, pids)))
        await asyncio.sleep(0.001)
    await connection.close()


async def main(dsn: str, rows: int) -> None:
    over, pids = asyncio.Event(), list[int]()
    seen: set[Any] = set()
    works: list[Callable[[], Awaitable[None]]] = [
        *(lambda query=query: use(dsn, query, rows, over, pids) for query in QUERIES),
        lambda: watch(dsn, over, pids, seen),
    ]
    tasks = [asyncio.ensure_future(work()) for work in works]
    while len(pids) < len(QUERIES):  # noqa: ASYNC110 - once, at the beginning
        await asyncio.sleep(0.01)
    print(json.dumps(pids), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    over.set()
    await asyncio.gather(*tasks)
    print(json.dumps(sorted(seen)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
