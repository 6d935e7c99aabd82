"""Big tables: the page's revisions are applied to a table in use, one release after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from support.alembic_projects import project
from support.pages import Page, Section
from support.postgres_server import Server

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.plugins

PAGE = Page("zero-downtime")
RUNS = [heading for heading, section in PAGE.sections.items() if section.runs]
HEAD = "import sqlalchemy as sa\nfrom alembic import op\n\n"
FIRST = """
revision, down_revision = "0001", None


def upgrade() -> None:
    op.execute("CREATE TABLE orders (id serial PRIMARY KEY, total int NOT NULL)")
    op.execute("INSERT INTO orders (total) SELECT 7 FROM generate_series(1, 12000)")
"""


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


class Releases:
    """An application's revisions, deployed one by one on a database that is in use."""

    def __init__(self, folder: Path, url: str, section: Section) -> None:
        configure, *revisions = section.all("python")
        made = project(folder, "async", url, revisions=lambda folder: None)
        env = made.versions.parent / "env.py"
        text = env.read_text("utf-8")
        options = re.search(r"context.configure\((connection=connection.*?)\)", text)
        assert options and "connection=connection" in configure
        inner = re.sub(r"\s+", " ", configure.strip())
        env.write_text(text.replace(options[0], inner), "utf-8")
        self.versions, self.url = made.versions, url
        self.texts = {re.search(r'"(\d+)"', each)[1]: each for each in [FIRST, *revisions]}  # type: ignore[index]
        self.migrator = Migrator(Target(url, made.config), mode="migrate")

    async def deploy(self, *numbers: str) -> tuple[str, ...]:
        for number in numbers:
            self.write(number, self.texts[number])
        report = await self.migrator.run()
        return tuple(each.revision for each in report.targets[0].applied)

    def write(self, number: str, text: str) -> None:
        (self.versions / f"{number}_.py").write_text(f"{HEAD}{text}", "utf-8")


@pytest.fixture
def releases(section: Section, tmp_path: Path, postgres_url: str) -> Releases:
    return Releases(tmp_path, postgres_url, section)


@PAGE.plays(*RUNS)
@pytest.mark.long
async def test_old_code_works_until_the_contract(
    releases: Releases, postgres_server: Server
) -> None:
    name = releases.url.rpartition("/")[2]

    def ask(sql: str) -> list[Any]:
        return [tuple(row) for row in postgres_server.execute(sql, database=name)]

    old = "insert into orders (total) values (7)"
    assert await releases.deploy("0001") == ("0001",)
    assert await releases.deploy("0002") == ("0002",)
    ask(old)
    # a batch fails in its middle: those before it stay, and the next start does the rest
    batch = releases.texts["0003"].replace(
        "            pass", '            op.execute("select 1/0")'
    )
    releases.write("0003", batch)
    with pytest.raises(MigrationError):
        await releases.migrator.run()
    assert ask("select count(*) from orders where cents is not null") == [(5000,)]
    assert await releases.deploy("0003", "0004") == ("0003", "0004")
    assert ask("select count(*) from orders where cents is null") == [(0,)]
    assert ask(
        "select indisvalid from pg_index where indexrelid = 'ix_orders_cents'::regclass"
    ) == [(True,)]
    ask("insert into orders (total, cents) values (7, 700)")

    # 0005 holds for new rows at once, and does not look at old ones
    ask(old)
    assert await releases.deploy("0005") == ("0005",)
    with pytest.raises(asyncpg.CheckViolationError):
        ask(old)
    ask("update orders set cents = total * 100 where cents is null")
    assert await releases.deploy("0006", "0007") == ("0006", "0007")
    ask("insert into orders (cents) values (700)")
    assert await releases.deploy("0008") == ("0008",)
    assert ask(
        "select attname::text, attnotnull from pg_attribute"
        " where attrelid = 'orders'::regclass and attnum > 0 and not attisdropped order by attnum"
    ) == [("id", True), ("cents", True)]
    assert ask("select count(*) from pg_constraint where conname = 'cents_known'") == [(0,)]


@PAGE.plays(*RUNS)
@pytest.mark.long
async def test_the_declarations_say_which_release_may_start(releases: Releases) -> None:
    numbers = sorted(releases.texts)

    async def starts(newest: str) -> bool:
        """Whether code whose newest revision this is starts on the database as it is."""
        newer = [each for each in numbers if each > newest]
        for number in newer:
            (releases.versions / f"{number}_.py").unlink(missing_ok=True)
        try:
            report = await releases.migrator.run()
        except MigrationError as error:
            return error.report.targets[0].failures[0].kind != "ahead"
        assert report.outcome == "current"
        return True

    await releases.deploy("0001", "0002")
    assert await starts("0001")
    await releases.deploy(*numbers[:7])
    assert await starts("0002")
    assert not await starts("0001")
    await releases.deploy(*numbers)
    assert await starts("0007")
    assert not await starts("0002")


@PAGE.plays(*RUNS)
@pytest.mark.long
async def test_backup_restore_refuses_batches_while_somebody_is_connected(
    releases: Releases,
) -> None:
    await releases.deploy("0001", "0002")
    serving = await asyncpg.connect(releases.url.replace("+asyncpg", ""))
    releases.migrator = Migrator(
        *releases.migrator.targets, mode="migrate", recovery=["backup-restore"]
    )
    with pytest.raises(MigrationError, match="cannot copy database.*: connected: pid"):
        await releases.deploy("0003")
    await serving.close()
