"""Template copies and dumps of a PostgreSQL database: ours, and those of its own programs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import large_databases
import page
from child import measured
from costs import Cost, plain
from recovery_rounds import OURS, Costs, Row, Watched, alternating, project

sys.path.insert(0, str(page.ROOT / "tests"))

from support import alembic_projects, postgres_server

PROGRAMS = {
    name: shutil.which(name) for name in ("createdb", "dropdb", "psql", "pg_dump", "pg_restore")
}
LIVE, COPY, NEW, OLD = (f"am_bench_{name}" for name in ("live", "copy", "new", "old"))
TEMPLATES = (
    ("snapshot", "drop first", "`createdb -T`"),
    ("snapshot", "swap", "`createdb -T -S file_copy`"),
    ("restore", "drop first", "`dropdb`, `createdb -T`"),
    ("restore", "swap", "`createdb -T -S file_copy`, two renames, `dropdb`"),
)
DUMPS = (
    ("snapshot", "restore into a new one", "`pg_dump -Fc`"),
    ("snapshot", "restore in place", "`pg_dump -Fc -Z1`, `pg_restore -f /dev/null`"),
    ("restore", "restore into a new one", "`dropdb`, `createdb`, `pg_restore`"),
    ("restore", "restore in place", "the same, `pg_restore --clean --single-transaction`"),
)
"""The act, whose it is put beside, and what that is called."""


def postgresql_rows(folder: Path, size_mb: int, rounds: int) -> Iterator[Row | Watched]:
    missing = [name for name, path in PROGRAMS.items() if path is None]
    if missing:
        print(f"PostgreSQL is not measured: {', '.join(missing)} not on PATH", file=sys.stderr)
        return
    with postgres_server.running() as server:
        server.drop_all("am_bench_")
        server.create(LIVE)
        large_databases.postgresql(server, LIVE, size_mb)
        try:
            found = alternating(rounds, size_mb, _Sides(server, folder).all())
        finally:
            server.drop_all("am_bench_")
    for way, ours, lines in (("template copy", "template", TEMPLATES), ("dump", "dump", DUMPS)):
        database = f"PostgreSQL, {way}"
        for act, side, tool in lines:
            yield Row(database, act, tool, found[ours][act], found[side][act])
        for act, costs in found[f"{ours}, watched"].items():
            yield Watched(database, act, costs)


class _Sides:
    """Each one copies the database, puts the copy back, and leaves nothing else."""

    def __init__(self, server: postgres_server.Server, folder: Path) -> None:
        self._server = server
        self._url = server.url(LIVE)
        self._ini = project(folder / "project", self._url)
        self._dumps = folder / "dumps"
        self._dumps.mkdir()
        (pid,) = server.execute("select split_part(pg_read_file('postmaster.pid'), chr(10), 1)")
        self._postmaster = int(pid[0])
        self._dsn, self._admin = (
            alembic_projects.make_url(url)
            .set(drivername="postgresql")
            .render_as_string(hide_password=False)
            for url in (self._url, server.admin)
        )

    def all(self) -> dict[str, Callable[[], Costs]]:
        return {
            "template": lambda: self._by_template("run"),
            "template, watched": lambda: self._by_template("watched"),
            "drop first": self._drop_first,
            "swap": self._swap,
            "dump": lambda: self._by_dump("run"),
            "dump, watched": lambda: self._by_dump("watched"),
            "restore into a new one": self._restored_into_a_new_one,
            "restore in place": self._restored_in_place,
        }

    def _by_template(self, what: str) -> Costs:
        self._server.execute("checkpoint")
        costs = measured(OURS, what, self._url, self._ini, str(self._postmaster))
        for name in self._server.databases(LIVE):
            if name != LIVE:
                self._server.drop(name)
        return costs

    def _drop_first(self) -> Costs:
        copied = self._cost(self._created(COPY, LIVE))
        put_back = self._cost(self._dropped(LIVE), self._created(LIVE, COPY), checkpoint=False)
        self._server.drop(COPY)
        return {"snapshot": copied, "restore": put_back}

    def _swap(self) -> Costs:
        """As ours does it: what is there goes when its replacement stands."""
        by_file = "--strategy=file_copy"
        copied = self._cost(self._created(COPY, LIVE, by_file))
        renames = [f"ALTER DATABASE {LIVE} RENAME TO {OLD}"]
        renames.append(f"ALTER DATABASE {NEW} RENAME TO {LIVE}")
        put_back = self._cost(
            self._created(NEW, COPY, by_file),
            _command("psql", "-q", "-d", self._admin, *(x for r in renames for x in ("-c", r))),
            self._dropped(OLD),
            checkpoint=False,
        )
        self._server.drop(COPY)
        return {"snapshot": copied, "restore": put_back}

    def _by_dump(self, what: str) -> Costs:
        self._server.execute("checkpoint")
        more = str(self._postmaster), str(self._dumps)
        costs = measured(OURS, what, self._url, self._ini, *more)
        for left in self._dumps.iterdir():
            left.unlink()
        return costs

    def _restored_into_a_new_one(self) -> Costs:
        file = str(self._dumps / "plain.dump")
        dumped = self._cost(self._dumped(file))
        put_back = self._cost(
            self._dropped(LIVE),
            self._created(LIVE, "template0"),
            _command("pg_restore", "-d", self._dsn, file),
            checkpoint=False,
        )
        return {"snapshot": dumped, "restore": put_back}

    def _restored_in_place(self) -> Costs:
        """As ours does it: dumps are read whole, what is replaced is dumped, in one transaction."""
        file, replaced = (str(self._dumps / f"{name}.dump") for name in ("plain", "replaced"))
        dumped = self._cost(self._dumped(file, "-Z1"), self._read(file))
        options = ("--clean", "--if-exists", "--single-transaction")
        put_back = self._cost(
            self._dumped(replaced, "-Z1"),
            self._read(replaced),
            _command("pg_restore", *options, "-d", self._dsn, file),
            checkpoint=False,
        )
        return {"snapshot": dumped, "restore": put_back}

    def _cost(self, *commands: Sequence[str], checkpoint: bool = True) -> Cost:
        if checkpoint:
            self._server.execute("checkpoint")
        return plain(*commands, server=self._postmaster)

    def _created(self, name: str, template: str, *options: str) -> Sequence[str]:
        return _command("createdb", *self._maintenance(), f"-T{template}", *options, name)

    def _dropped(self, name: str) -> Sequence[str]:
        return _command("dropdb", *self._maintenance(), name)

    def _dumped(self, file: str, *options: str) -> Sequence[str]:
        return _command("pg_dump", "-Fc", *options, "-f", file, "-d", self._dsn)

    def _read(self, file: str) -> Sequence[str]:
        return _command("pg_restore", "-f", os.devnull, file)

    def _maintenance(self) -> Sequence[str]:
        return (f"--maintenance-db={self._admin}",)


def _command(program: str, *arguments: str) -> Sequence[str]:
    return [str(PROGRAMS[program]), *arguments]
