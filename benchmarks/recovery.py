"""What a snapshot and a restore cost: ours against the plain tool for the job.

    python benchmarks/recovery.py [--size-mb 1024] [--rounds 5] [--only sqlite] [--write-docs]

Both sides in one run, taken alternately, each in fresh processes; medians. CPU is that of all
processes, the server's included. Ours is `Migrator.run()` with backup-restore and a revision that
fails, each act timed by hooks (`recovery_ours.py`); only the SQLite copy alone is called directly.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import page
from recovery_postgresql import PROGRAMS, postgresql_rows
from recovery_rounds import Row, Watched
from recovery_sqlite import SHELL, sqlite_rows

HEAD = """\
| database | act | ours | plain tool | its cost | ratio | ratio, CPU |
|---|---|---|---|---|---|---|"""
WATCHED = """\
| database | act | longest stall | without waiting for a CPU | peak memory |
|---|---|---|---|---|"""

KINDS = {"sqlite": sqlite_rows, "postgresql": postgresql_rows}


def circumstances(size_mb: int, rounds: int) -> str:
    tool = "the command line's" if SHELL else "one step of Python's `backup()` instead of"
    said = [f"{size_mb} MB, {rounds} rounds, {os.cpu_count()} CPUs, {platform.system()}"]
    said.append(f"SQLite {sqlite3.sqlite_version} ({tool} `.backup`)")
    if program := PROGRAMS["createdb"]:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        said.append(version.stdout.strip())
    return "; ".join(said) + "."


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--size-mb", type=int, default=1024)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", choices=KINDS)
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    if options.write_docs and options.only:
        arguments.error("--write-docs writes the whole table: leave out --only")
    lines: list[Row | Watched] = []
    for kind, rows in KINDS.items():
        if options.only in (None, kind):
            with tempfile.TemporaryDirectory(prefix="automigrator-recovery-") as folder:
                for row in rows(Path(folder), options.size_mb, options.rounds):
                    lines.append(row)
                    print(row, flush=True)
    tables = [
        "\n".join([head, *(str(line) for line in lines if isinstance(line, kind))])
        for kind, head in ((Row, HEAD), (Watched, WATCHED))
    ]
    found = "\n\n".join([*tables, circumstances(options.size_mb, options.rounds)])
    print(f"\n{found}")
    if options.write_docs:
        page.write("recovery-cost.md", found)


if __name__ == "__main__":
    main()
