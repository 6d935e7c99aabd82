"""A plain script that migrates at its start, in processes of its own, without any logging."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import alembic_projects
from support.starters import LIMIT_S

_context = multiprocessing.get_context("forkserver")
"""The fork server of `starters`, which has imported what a start needs."""

START = """
import asyncio, logging, sys
from automigrator import Decision, Migrator, Target, hookimpl
from automigrator.events import announcer


class Continuing:
    @hookimpl
    def on_failure(self, run, failure):
        return Decision.CONTINUE


{before}
target = Target({url!r}, {config!r}, name="app")
asyncio.run(Migrator(target, mode={mode!r}, recovery={recovery!r}, {options}).run())
print("returned")
"""


class Script:
    """A plain script that migrates at its start, in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite+aiosqlite:///{folder / 'app.db'}"
        self.err, self.out = folder / "err", folder / "out"
        project = alembic_projects.project(folder, "generic", self.url, revisions=lambda _: None)
        self.config, self.versions = project.config, project.versions
        self._count = 0

    def deploy(self, *upgrades: str) -> None:
        for upgrade in upgrades:
            before = f"r{self._count}" if self._count else None
            self._count += 1
            alembic_projects.revision(self.versions, f"r{self._count}", before, upgrade=upgrade)

    @contextmanager
    def started(
        self,
        err: Path,
        before: str = "",
        recovery: Sequence[str] = (),
        mode: str = "migrate",
        options: str = "",
    ) -> Iterator[None]:
        """Context manager: a start that writes its stderr to `err`, and is awaited."""
        code = START.format(
            url=self.url,
            config=str(self.config),
            before=before,
            recovery=recovery,
            mode=mode,
            options=options,
        )
        process = _context.Process(target=_run, args=(code, str(err), str(self.out)), daemon=True)
        process.start()
        try:
            yield
            process.join(LIMIT_S)
            assert process.exitcode in (0, 1)
        finally:
            process.kill()
            process.join()

    def start(self, **how: Any) -> tuple[list[str], str]:
        """The lines on stderr, and what was printed."""
        self.err.write_text("")
        with self.started(self.err, **how):
            pass
        return self.err.read_text().splitlines(), self.out.read_text().strip()


def _run(code: str, err: str, out: str) -> None:
    for number, path, more in ((2, err, os.O_APPEND), (1, out, os.O_TRUNC)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | more), number)
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException as error:  # noqa: BLE001 - shown, as Python would
        print("raised", type(error).__name__)
        traceback.print_exception(error)
        sys.stdout.flush()
        sys.exit(1)
