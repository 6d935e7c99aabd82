"""What a copy costs where the file system can share blocks: XFS and Btrfs, each in a sparse file.

    python benchmarks/clones.py [--size-mb 1024] [--rounds 5] [--only xfs] [--write-docs]

It needs a user who may mount, mkfs.xfs and mkfs.btrfs, and for PostgreSQL a server of version 18.
Each copy is made by our own code, beside the same one without clones, in turn; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import large_databases
import page
import pytest

sys.path.insert(0, str(page.ROOT / "tests"))

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_server import Server, newest_on
from support.small_disk import cloning_disk

from automigrator.backends.postgresql import databases
from automigrator.backends.sqlite import backup
from automigrator.backends.sqlite.copying import clones

HEAD = """\
| file system | copy of | cloned | copied |
|---|---|---|---|"""
LIVE, COPY = "am_bench_live", "am_bench_copy"
MANY_MB = 1 << 30
"""More than any file has: nothing is cloned."""


def timed(act: Callable[[], None]) -> float:
    os.sync()  # what was written before is not for the copy to wait for
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def row(kind: str, what: str, rounds: int, one: Callable[[bool], float]) -> str:
    found = [(one(True), one(False)) for _ in range(rounds)]
    cloned, copied = (statistics.median(each) for each in zip(*found, strict=True))
    return f"| {kind} | {what} | {cloned:.3f} s | {copied:.2f} s |"


def sqlite_rows(kind: str, disk: Path, made: Path, rounds: int) -> Iterator[str]:
    live, copy, least = disk / "live.db", disk / "copy.db", clones.LEAST_BYTES
    shutil.copyfile(made, live)

    def one(cloned: bool) -> float:
        clones.LEAST_BYTES = least if cloned else MANY_MB << 20
        try:
            return timed(lambda: backup.copy(live, copy))
        finally:
            clones.LEAST_BYTES = least
            copy.unlink()

    yield row(kind, "a SQLite file", rounds, one)
    live.unlink()


def postgresql_rows(kind: str, server: Server, size_mb: int, rounds: int) -> Iterator[str]:
    server.create(LIVE)
    large_databases.postgresql(server, LIVE, size_mb)

    async def create(method: str | None) -> None:
        engine = create_async_engine(server.admin, isolation_level="AUTOCOMMIT")
        async with engine.connect() as admin:
            if method is not None:
                await admin.execute(text(f"set file_copy_method = '{method}'"))
            await databases.create(admin, COPY, template=LIVE)
        await engine.dispose()

    def one(cloned: bool) -> float:
        server.execute("checkpoint")
        try:
            return timed(lambda: asyncio.run(create(None if cloned else "copy")))
        finally:
            server.drop(COPY)

    yield row(kind, "a PostgreSQL database", rounds, one)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--size-mb", type=int, default=1024)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", choices=["xfs", "btrfs"])
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    lines = [HEAD]
    with tempfile.TemporaryDirectory(prefix="automigrator-clones-") as folder:
        made = Path(folder, "made.db")
        large_databases.sqlite(made, options.size_mb)
        for kind in ("xfs", "btrfs"):
            if options.only in (None, kind):
                with cloning_disk(kind, 4 * options.size_mb + 512) as disk:
                    lines += sqlite_rows(kind, disk, made, options.rounds)
                    with newest_on(disk, 18) as server:
                        lines += postgresql_rows(kind, server, options.size_mb, options.rounds)
    found = "\n".join(lines) + f"\n\n{options.size_mb} MB, {options.rounds} rounds."
    print(found)
    if options.write_docs:
        page.write("clones.md", found)


if __name__ == "__main__":
    try:
        main()
    except pytest.skip.Exception as why:
        print(f"clones are not measured: {why}", file=sys.stderr)
