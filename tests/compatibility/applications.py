"""An application that two releases of automigrator migrate, and what they leave beside it."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from compatibility.fork_server import Start
from sqlalchemy import make_url
from support.notes_application import AFTER_R1, GOOD
from support.raced_application import Raced

from automigrator import Migrator, TargetCheckup

DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
HALF_WAY = """
with op.get_context().autocommit_block():
    op.execute("DELETE FROM notes WHERE text <> 'bread'")
    op.execute("CREATE TABLE half (id INTEGER)")
"""
"""Loses notes, and commits that."""
BREAD = [(1, "bread")]
"""What is left of the notes then."""
LATE = (9, "late")
"""A note that the application writes between two starts."""


def makes_notes(connection: Any) -> str:
    """A `bootstrap` that makes what r1 does."""
    connection.exec_driver_sql(AFTER_R1[0])
    return "r1"


def makes_settings(connection: Any) -> None:
    """A `bootstrap` that makes a table beside the history, and goes on from base."""
    connection.exec_driver_sql("CREATE TABLE settings (id INTEGER)")


class Deployed(Raced):
    """`copy` is how its strategy for backups copies."""

    def __init__(
        self,
        root: Path,
        url: str,
        *,
        copy: Literal["sqlite", "template", "dump"] = "sqlite",
        **options: Any,
    ) -> None:
        super().__init__(root, url, **options)
        self.copy = copy
        self.dumps = root / "dumps"

    def backup(self, **options: Any) -> tuple[str, dict[str, Any]]:
        """The strategy that always copies."""
        given = {"snapshot": "always", **options}
        if self.copy != "sqlite":
            given["copy"] = self.copy
        if self.copy == "dump":
            given["folder"] = str(self.dumps)
        return "backup-restore", given

    def start_with(
        self,
        *recovery: Any,
        dies_at: Sequence[str] = (),
        target: Mapping[str, Any] | None = None,
        rollback: str = "",
        **migrator: Any,
    ) -> Start:
        """One start, or one `rollback`; the `migrator` gets further options of its own."""
        options = target or {}
        return Start(
            self.url, self.config, self.root, recovery, options, migrator, dies_at, rollback
        )

    @property
    def held(self) -> str:
        """Lines of a revision that go on when `go` is called."""
        return (
            "\nimport os, time\n"
            f"while not os.path.exists({str(self.root / 'go')!r}):\n"
            "    time.sleep(0.01)\n"
        )

    def go(self) -> None:
        (self.root / "go").touch()

    def mended(self, upgrade: str = GOOD) -> None:
        """Deploy the last revision anew, with another body."""
        self.count -= 1
        self.deploy(upgrade)

    def write_late(self) -> None:
        self.execute(f"INSERT INTO notes VALUES {LATE}")

    def doctor(self) -> TargetCheckup:
        """What this process's code finds."""
        (found,) = asyncio.run(Migrator(self.target()).doctor()).targets
        return found

    def copies(self) -> list[str]:
        """The copies for backups, oldest first."""
        if self.copy == "dump":
            return sorted(str(path) for path in self.dumps.glob("*_snapshot_*.dump"))
        return [each.place for each in self.doctor().copies if each.kind == "snapshot"]

    def notes_in(self, place: str) -> list[tuple[int, str]]:
        """Every row in a copy, of whichever kind."""
        if not place.endswith(".dump"):
            return self.notes(place)
        name = f"{make_url(self.url).database}_{uuid.uuid4().hex[:6]}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            dsn = make_url(self.url).set(drivername="postgresql", database=name)
            plain = dsn.render_as_string(hide_password=False)
            command = ["pg_restore", "--exit-on-error", "-d", plain, place]
            subprocess.run(command, check=True, capture_output=True)
            return self.notes(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")
