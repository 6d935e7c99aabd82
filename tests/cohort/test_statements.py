"""What the server is asked for each tenant of a cohort, and how often it plans that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import Engine, Pool, event
from support.alembic_projects import revision
from support.tenants import Tenants, brought

from automigrator.cohort import Cohort

LOOK = "is_filled"


@contextmanager
def listening(source: Any, name: str, listener: Any) -> Iterator[None]:
    event.listen(source, name, listener)
    try:
        yield
    finally:
        event.remove(source, name, listener)


async def test_what_is_asked_for_each_tenant_stays_prepared(
    tenants: Tenants, cohort: Cohort
) -> None:
    opened: list[Any] = []
    with listening(Pool, "connect", lambda made, _: opened.append(made)):
        for number in range(4):
            report = await brought(cohort, tenants.schema(f"t{number}"))
            assert report.outcome == "migrated"
    prepared = []
    for driver in (getattr(made, "driver_connection", made) for made in opened):
        if isinstance(driver, AsyncConnection) and not driver.closed:
            query = "select statement from pg_prepared_statements"
            prepared += await (await driver.execute(query, prepare=False)).fetchall()
            await driver.rollback()
    assert [statement for (statement,) in prepared if LOOK in statement]
    # nor does the record of a start stay that ended well
    assert tenants.execute("select typname from pg_type where typname ~ '^last_'") == []


async def test_three_looks_are_taken_for_each_tenant_after_the_first(
    tenants: Tenants, cohort: Cohort
) -> None:
    """One before the lock, one under it, and one when the revisions have run."""
    asked: list[str] = []
    await brought(cohort, tenants.schema("a"))
    with listening(Engine, "before_cursor_execute", lambda *of: asked.append(of[2])):
        for name in ("b", "c"):
            asked.clear()
            await brought(cohort, tenants.schema(name))
            assert tenants.heads(name) == {"r3"}
            assert len([each for each in asked if LOOK in each]) == 3


async def test_an_edit_that_is_refused_is_refused_in_a_cohort_too(
    tenants: Tenants, cohort: Cohort
) -> None:
    target = tenants.schema("b", edited="refuse")
    assert (await brought(None, target)).outcome == "migrated"
    edited = next(file for file in tenants.versions.glob("*.py") if "'r1'" in file.read_text())
    edited.write_text(edited.read_text() + "# another text\n")
    revision(tenants.versions, "r4", "r3")
    assert (await brought(cohort, tenants.schema("a"))).after == ("r4",)
    report = await brought(cohort, target)
    assert [each.kind for each in report.failures] == ["history"]
    assert tenants.heads("b") == {"r3"}
