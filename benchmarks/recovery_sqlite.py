"""Copies of a SQLite file: ours, and the command line's `.backup` and `.restore`."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import large_databases
from child import measured
from costs import plain
from recovery_rounds import OURS, Costs, Row, Watched, alternating, project

SHELL = shutil.which("sqlite3")
BACKUP = """
import sqlite3, sys
source, destination = (sqlite3.connect(name) for name in sys.argv[1:])
source.backup(destination)
"""
CHECK = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("PRAGMA quick_check").fetchall())
"""


def backup(source: Path, destination: Path) -> list[str]:
    return [sys.executable, "-c", BACKUP, str(source), str(destination)]


def sqlite_rows(folder: Path, size_mb: int, rounds: int) -> Iterator[Row | Watched]:
    live, copy = folder / "live.db", folder / "copy.db"
    large_databases.sqlite(live, size_mb)
    url = f"sqlite+aiosqlite:///{live}"
    ini = project(folder / "project", url)
    saved, put_back = backup(live, copy), backup(copy, live)
    check = [sys.executable, "-c", CHECK, str(copy)]
    if SHELL:
        saved = [SHELL, str(live), f".backup '{copy}'"]
        put_back = [SHELL, str(live), f".restore '{copy}'"]
        check = [SHELL, str(copy), "PRAGMA quick_check"]

    def run(what: str) -> Costs:
        costs = measured(OURS, what, url, ini)
        for left in folder.glob("live.db.snapshot-*"):
            left.unlink()
        return costs

    def run_and_copy() -> Costs:
        costs = run("run") | measured(OURS, "copy", str(live), str(copy))
        copy.unlink()
        return costs

    def tools() -> Costs:
        costs = {"copy": plain(saved), "restore": plain(put_back)}
        copy.unlink()
        costs["snapshot"] = plain(saved, check)
        copy.unlink()
        return costs

    tool = "`.backup`", "`.backup`, `PRAGMA quick_check`", "`.restore`"
    for mode, name in (("delete", "SQLite"), ("wal", "SQLite, WAL")):
        with closing(sqlite3.connect(live)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
        sides = {"ours": run_and_copy, "tools": tools, "watched": lambda: run("watched")}
        found = alternating(rounds, size_mb, sides)
        mine, plain_tools = found["ours"], found["tools"]
        yield Row(name, "copy alone", tool[0], mine["copy"], plain_tools["copy"])
        yield Row(name, "snapshot: copy, check", tool[1], mine["snapshot"], plain_tools["snapshot"])
        yield Row(name, "restore", tool[2], mine["restore"], plain_tools["restore"])
        yield from (Watched(name, act, costs) for act, costs in found["watched"].items())
