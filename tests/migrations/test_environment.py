"""What the async driver refuses is run by the driver it was written for."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.alembic_projects import Project, heads, project, query, revision

from automigrator import MigrationError, Migrator, Report, Target
from automigrator.migrations import ways

OPEN_CURSOR = """
rows = op.get_bind().execute(sa.text("select id from notes").execution_options(yield_per=1))
rows.fetchone()
rows.close()
op.alter_column("notes", "id", type_=sa.BigInteger)
"""
WRONG = "op.execute(\"update notes set id = '2020-01-01'::date\")"


def revisions(last: str, versions: Path) -> None:
    table = 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))'
    rows = 'op.execute("insert into notes select generate_series(1, 200)")'
    revision(versions, "r1", None, upgrade=f"{table}\n{rows}")
    revision(versions, "r2", "r1", upgrade=last)


def made(root: Path, kind: str, url: str, last: str) -> Project:
    return project(root, kind, url, revisions=lambda versions: revisions(last, versions))


async def run(url: str, made: Project, drive: str = "auto") -> Report:
    target = Target(url, made.config, drive=drive, **made.options)
    return await Migrator(target, mode="migrate").run()


@pytest.mark.parametrize("kind", ["generic", "per_migration"])
async def test_a_revision_that_asyncpg_refuses_runs_by_the_sync_driver(
    kind: str, postgres_url: str, tmp_path: Path
) -> None:
    report = await run(postgres_url, made(tmp_path, kind, postgres_url, OPEN_CURSOR))

    (target,) = report.targets
    assert heads(postgres_url) == {"r2"}
    assert (report.outcome, target.attempts) == ("migrated", 1)
    assert target.drive == "thread (postgresql+psycopg)"
    assert [applied.revision for applied in target.applied] == ["r1", "r2"]
    assert target.notes[0].startswith("r2 cannot run by loop")
    assert len(query(postgres_url, "select * from notes")) == 200


async def test_a_target_kept_on_the_loop_is_told_what_to_do(
    postgres_url: str, tmp_path: Path
) -> None:
    with pytest.raises(MigrationError) as caught:
        await run(postgres_url, made(tmp_path, "generic", postgres_url, OPEN_CURSOR), "loop")

    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.revision) == ("revision", "r2")
    assert "leave drive='loop' out" in failure.advice


async def test_where_no_sync_driver_is_installed_the_failure_says_to_install_one(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "_SYNC_DRIVERS", {})

    with pytest.raises(MigrationError) as caught:
        await run(postgres_url, made(tmp_path, "generic", postgres_url, OPEN_CURSOR))

    assert "install the driver it was written for (psycopg)" in str(caught.value)


@pytest.mark.parametrize(("kind", "applied"), [("generic", ()), ("per_migration", ("r1",))])
async def test_a_revision_that_no_driver_can_run_is_reported_once_as_the_sync_one_meets_it(
    kind: str, applied: tuple[str, ...], postgres_url: str, tmp_path: Path
) -> None:
    with pytest.raises(MigrationError) as caught:
        await run(postgres_url, made(tmp_path, kind, postgres_url, WRONG))

    (target,) = caught.value.report.targets
    (failure,) = target.failures
    assert (failure.kind, failure.revision, failure.applied) == ("revision", "r2", applied)
    assert [each.revision for each in target.applied] == list(applied)
    assert "asyncpg" not in failure.advice
