"""A shop whose revisions wait until a test lets them go on, served in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from support.alembic_projects import project, revision

HISTORY: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("8f2c1a9b", (), "Customers and their addresses"),
    ("3b90d4e7", ("8f2c1a9b",), "Orders"),
    ("5e71aa20", ("3b90d4e7",), "Prices in cents instead of floats"),
    ("c0ffe1d3", ("3b90d4e7",), "Search: an index over product names"),
    ("d41d8c5f", ("5e71aa20", "c0ffe1d3"), "Merge prices and search"),
    ("77aa02b6", ("d41d8c5f",), "Every order refers to a customer"),
    ("e9b1f04c", ("77aa02b6",), "Orders by day, for the reports"),
)
"""A branch and its merge: ids, what they follow, and docstrings."""

PRINTED = "printed"
"""The file that stands for the terminal of its servers."""

_WAITS = """
while os.path.exists({hold!r}):
    time.sleep(0.02)
{then}
"""


class Shop:
    """Its folder: an Alembic project, and a file for each revision that is to wait.

    `broken`: a revision that fails.
    """

    def __init__(self, folder: Path, *, history: Any = HISTORY, broken: str = "") -> None:
        self.folder, self.url = folder, f"sqlite+aiosqlite:///{folder / 'shop.db'}"

        def revisions(versions: Path) -> None:
            for id, down, doc in history:
                then = f'op.create_table("t{id}", sa.Column("id", sa.Integer, primary_key=True))'
                if id == broken:
                    then = 'op.execute("INSERT INTO orders VALUES (1)")'
                upgrade = _WAITS.format(hold=str(self._hold(id)), then=then)
                before = down if len(down) != 1 else down[0]
                path = revision(
                    versions, id, before or None, upgrade=upgrade, imports="import os, time"
                )
                path.write_text(f"{doc!r}\n{path.read_text().partition(chr(10))[2]}", "utf-8")

        folder.mkdir(parents=True, exist_ok=True)
        self.config = project(folder, "async", self.url, revisions=revisions).config

    def hold(self, *revisions: str) -> None:
        """Let these wait when their turn comes."""
        for each in revisions:
            self._hold(each).touch()

    def let_go(self, *revisions: str) -> None:
        for each in revisions:
            self._hold(each).unlink(missing_ok=True)

    def said_by(self, url: str) -> Any:
        """What the server at this URL says of its state."""
        with urlopen(f"{url}.automigrator/state", timeout=60) as answer:
            return json.load(answer)

    @staticmethod
    def token_in(folder: Path) -> str:
        """What the terminal of the shop in this folder shows for the button."""
        return (folder / PRINTED).read_text("utf-8").split()[-1]

    def _hold(self, revision: str) -> Path:
        return self.folder / f"hold-{revision}"

    @contextmanager
    def served(self, **options: Any) -> Iterator[str]:
        """Context manager: serve it; yields its URL. `options`: of the gate, as JSON types."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            file = listener.fileno()
            command = ["-m", "uvicorn", "browser_application:app", "--fd", str(file)]
            command += ["--log-level", "warning", "--timeout-graceful-shutdown", "1"]
            folders = [str(Path(__file__).parents[1] / "browser"), str(Path(__file__).parents[1])]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(folders),
                "SHOP": str(self.folder),
                "GATE": json.dumps(options),
            }
            with (self.folder / PRINTED).open("ab") as printed:
                server = subprocess.Popen(
                    [sys.executable, *command],
                    env=environment,
                    pass_fds=[file],
                    cwd=self.folder,
                    stderr=printed,
                )
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.kill()  # a revision may wait for ever
            server.wait()
