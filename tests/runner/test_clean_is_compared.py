"""With a snapshot at hand, `clean` is compared with it, not assumed."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.notes_application import BROKEN, GOOD, ROWS, Application

from automigrator import MigrationError, Run, hookimpl
from automigrator.report import TargetReport

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long("postgresql"),
]

BY_THE_DRIVER = {
    "sqlite": """
import sqlite3
other = sqlite3.connect({place!r})
other.execute({statement!r})
other.commit()
other.close()
""",
    "postgresql": """
import asyncio, asyncpg, threading
async def work():
    other = await asyncpg.connect({place!r})
    await other.execute({statement!r})
    await other.close()
thread = threading.Thread(target=lambda: asyncio.run(work()))
thread.start()
thread.join()
""",
}


class Notes(Application):
    """Its env.py commits a statement by the driver alone, once, before it migrates."""

    def __init__(self, root: Path, url: str, copy: str) -> None:
        super().__init__(root, url)
        options = {"copy": copy, "folder": str(root)} if copy else {}
        self.strategy = ("backup-restore", {"snapshot": "always", **options})
        self.flag = root / "now"

    def commits(self, statement: str) -> None:
        url = make_url(self.url)
        kind = url.get_backend_name()
        dsn = url.set(drivername=kind).render_as_string(hide_password=False)
        place = str(url.database) if kind == "sqlite" else dsn
        code = BY_THE_DRIVER[kind].format(place=place, statement=statement)
        flag = f"pathlib.Path({str(self.flag)!r})"
        once = f"import pathlib\nif {flag}.exists():\n    {flag}.unlink()"
        env = self.root / "migrations" / "env.py"
        head = "    context.configure(connection"
        text = env.read_text()
        assert head in text
        lines = textwrap.indent(f"{once}\n{textwrap.indent(code, '    ')}", "    ")
        env.write_text(text.replace(head, f"{lines}\n{head}", 1))

    @hookimpl
    def before_migrate(self, run: Run) -> None:
        self.flag.touch()

    async def failed(self) -> TargetReport:
        with pytest.raises(MigrationError) as caught:
            await self.start(self.strategy, plugins=[self])
        return caught.value.report.targets[0]


@pytest.fixture(params=["sqlite", "postgresql-template", "postgresql-dump"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> Notes:
    name, _, copy = request.param.partition("-")
    url = request.getfixturevalue("sqlite_url" if name == "sqlite" else "postgres_url")
    return Notes(tmp_path, url, copy)


async def test_a_change_of_the_schema_that_nobody_saw_is_put_back(notes: Notes) -> None:
    notes.commits("CREATE TABLE half (id INTEGER)")
    notes.deploy(f"{GOOD}\n{BROKEN}")

    report = await notes.failed()

    (failure,) = report.failures
    assert failure.state == "partial-within-revision"
    assert "nothing was seen to be committed" in "\n".join(failure.hints)
    assert report.state == "clean"
    assert "half" not in notes.tables
    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})


async def test_a_version_row_that_differs_is_too(notes: Notes) -> None:
    notes.commits("UPDATE alembic_version SET version_num = 'r2'")
    notes.deploy(GOOD, BROKEN)

    report = await notes.failed()

    assert report.failures[0].state == "partial-within-revision"
    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})


async def test_rows_that_others_may_have_written_leave_it_clean(notes: Notes) -> None:
    notes.commits("INSERT INTO notes VALUES (9, 'eggs')")
    notes.deploy(f"{GOOD}\n{BROKEN}")

    report = await notes.failed()

    assert (report.failures[0].state, report.failures[0].hints) == ("clean", ())
    assert notes.notes() == [*ROWS, (9, "eggs")]
