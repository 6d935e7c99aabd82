"""An application that many processes start, and what they leave for the tests to count."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from support import alembic_projects, notes_application, starters

FULL = bool(os.environ.get("AUTOMIGRATOR_RACES"))
"""Set by `nox -s races`: as many processes and rounds as the closing table tells of."""

PROCESSES = 20 if FULL else 6
ROUNDS = 20 if FULL else 1

COUNTED = 'op.create_table("counted", sa.Column("pid", sa.Integer))'
DATA_STEP = """
import os
with op.get_context().autocommit_block():
    op.execute(f"INSERT INTO counted VALUES ({os.getpid()})")
"""
"""Commits that it ran, and in which process, whatever becomes of the revision."""


class Raced(notes_application.Application):
    """An application whose revisions write down which process ran them, outside the database."""

    def __init__(self, root: Path, url: str, *, kind: str = "async", started: bool = True) -> None:
        super().__init__(root, url, kind=kind, started=started)
        self.trace_file = root / "trace"

    @property
    def is_postgres(self) -> bool:
        return make_url(self.url).get_backend_name() == "postgresql"

    def traced(self, *upgrades: str) -> None:
        """Deploy revisions that leave a line of `trace` each when they begin."""
        line = (
            "import os\n"
            f"with open({str(self.trace_file)!r}, 'a') as trace:\n"
            f"    trace.write('%d {{}}\\n' % os.getpid())\n"
        )
        for number, upgrade in enumerate(upgrades, self.count + 1):
            self.deploy(line.format(f"r{number}") + upgrade)

    @property
    def trace(self) -> list[tuple[int, str]]:
        """Process and revision, in order."""
        text = self.trace_file.read_text() if self.trace_file.exists() else ""
        found = [line.split(" ") for line in text.splitlines()]
        return [(int(pid), revision) for pid, revision in found]

    def await_trace(self, lines: int = 1, limit_s: float = 30) -> int:
        """The process that wrote the last of so many lines, once it has."""
        deadline = time.monotonic() + limit_s
        while len(self.trace) < lines:
            assert time.monotonic() < deadline, f"no revision began within {limit_s} s"
            time.sleep(0.005)
        return self.trace[lines - 1][0]

    def slow(self, seconds: float) -> str:
        """A line of a revision: a statement that takes so long, on either database."""
        if self.is_postgres:
            return f'op.execute("SELECT pg_sleep({seconds})")'
        return f"import time; time.sleep({seconds})"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in alembic_projects.query(self.url, sql)]

    def start_of(self, *recovery: Any, **options: Any) -> starters.Start:
        """What one process does."""
        own = {f: options.pop(f) for f in ("mode", "lease_s", "engine", "plain") if f in options}
        return starters.Start(self.url, self.config, options, recovery, **own)

    def begun(self, *starts: starters.Start) -> AbstractContextManager[starters.Processes]:
        logs = self.root / "logs"
        logs.mkdir(exist_ok=True)
        return starters.started(starts, logs)

    def together(self, start: starters.Start, count: int | None = None) -> list[starters.Ended]:
        """Start so many processes at once, and wait for all."""
        with self.begun(*[start] * (count or PROCESSES)) as processes:
            return processes.ended()


def outcomes(ended: Sequence[starters.Ended]) -> dict[str, int]:
    """How often each outcome occurs."""
    found = [each.outcome for each in ended]
    return {outcome: found.count(outcome) for outcome in sorted(set(found))}
