"""Runs pairs: each side, and each look at what it left, in a process forked for it alone.

One pair a line of JSON on standard input, one answer a line on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite  # noqa: F401 - every child has it already
import alembic.command  # noqa: F401
import asyncpg  # type: ignore[import-untyped]  # noqa: F401
import psycopg  # noqa: F401
import sqlalchemy as sa
from alembic.config import main as command_line
from histories.schema import described, rows
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import MigrationError, Migrator, Target

INDEXES = """
SELECT indexrelid::regclass::text, indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace
"""
LIMIT_S = 60.0
X = ["who=xenia"]


def plain(folder: str, url: str, given: str) -> dict[str, Any]:
    """What `alembic upgrade head` does, in the project's folder."""
    os.chdir(folder)
    arguments = [part for each in X for part in ("-x", each)]
    try:
        command_line(argv=[*arguments, "upgrade", "head"])
    except SystemExit as stop:
        return {"failed": f"exit {stop.code}"}
    except BaseException as error:  # noqa: BLE001 - it is the answer
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    return {}


def ours(folder: str, url: str, given: str) -> dict[str, Any]:
    """What `await run()` does there in a running loop."""
    os.chdir(folder)
    stalls: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            stalls.append(time.monotonic() - began - 0.01)

    async def main() -> dict[str, Any]:
        database: Any = create_async_engine(url) if given == "engine" else url
        migrator = Migrator(Target(database, "alembic.ini", x=X), mode="migrate")
        before = process()
        beating = asyncio.create_task(beat())
        try:
            report = await migrator.run()
            answer: dict[str, Any] = {"drive": report.targets[0].drive}
        except MigrationError as error:
            failure = error.report.targets[0].failures[-1]
            answer = {"failed": failure.message[:500], "kind": failure.kind, "state": failure.state}
            answer["drive"] = error.report.targets[0].drive
        beating.cancel()
        after = process()
        answer["process"] = [name for name in before if before[name] != after[name]]
        answer["stall"] = max(stalls, default=0.0)
        if given == "engine":  # the application serves a query
            async with database.connect() as connection:
                await connection.execute(sa.text("SELECT 1"))
            await database.dispose()
        return answer

    try:
        return asyncio.run(main())
    except BaseException as error:  # noqa: BLE001 - it is the answer
        return {"failed": f"raised {type(error).__name__}: {error}"[:500], "raised": True}


def process() -> dict[str, Any]:
    root = logging.getLogger()
    return {
        "environ": dict(os.environ),
        "path": list(sys.path),
        "cwd": os.getcwd(),
        "logging": (root.level, list(map(id, root.handlers)), logging.root.manager.disable),
        "asyncio.run": asyncio.run,
    }


def left(url: str) -> dict[str, Any]:
    """Every table and every row of a database; none where it is not there."""
    if url.startswith("sqlite") and not Path(str(sa.make_url(url).database)).exists():
        return {}
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {"schema": described(connection), "rows": rows(connection)}
        if url.startswith("postgresql"):
            indexes = (
                "SELECT indexrelid::regclass::text, indisvalid FROM pg_index i JOIN pg_class c "
            )
            indexes += "ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace"
            found["indexes"] = sorted(map(str, connection.exec_driver_sql(indexes)))
    engine.dispose()
    return found


def forked(work: Callable[[], dict[str, Any]], log: str) -> dict[str, Any]:
    """The answer of `work` in a child; an answer of ours where it has none in time."""
    out, inner = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        with contextlib.suppress(BaseException):
            os.setsid()
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            try:
                answer = work()
            except BaseException:  # noqa: BLE001 - it is the answer
                answer = {"failed": traceback.format_exc()[-800:], "raised": True}
            os.write(inner, json.dumps(answer, default=str).encode())
        os._exit(0)
    os.close(inner)
    text, deadline = b"", time.monotonic() + LIMIT_S
    while True:
        ready, _, _ = select.select([out], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            os.killpg(pid, signal.SIGKILL)
            break
        chunk = os.read(out, 1 << 16)
        if not chunk:
            break
        text += chunk
    os.close(out)
    os.waitpid(pid, 0)
    return json.loads(text) if text else {"failed": f"no answer within {LIMIT_S:g} s", "hung": True}


def main() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        answer: dict[str, Any] = {}
        for side, run in (("plain", plain), ("ours", ours)):
            folder, url, look = task[side]
            log = f"{folder}/log"
            answer[side] = forked(partial(run, folder, url, task["given"]), log)
            answer[side]["left"] = forked(partial(left, look), log)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
