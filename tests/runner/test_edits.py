"""An applied revision whose file was edited since: told, or refused; accepted by a person."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.alembic_projects import contents, query, revision, with_sync_driver
from support.plain_alembic import upgraded

from automigrator import MigrationError, Migrator, Report, Target
from automigrator.runner import fast_path

pytestmark = pytest.mark.usefixtures("database_url")

Make = Callable[..., Target]


async def start(target: Target) -> Report:
    fast_path._SEEN.clear()  # each start is another process
    return await Migrator(target, mode="migrate").run()


def edit(versions: Path, revision: str = "r2") -> Path:
    """Change what a revision makes of a new database."""
    path = versions / f"{revision}_.py"
    path.write_text(path.read_text("utf-8").replace("sa.Text", "sa.String(9)"), "utf-8")
    return path


def kept(database_url: str) -> list[str]:
    """All that our records say."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        folder, name = Path(str(url.database)).parent, Path(str(url.database)).name
        return sorted(p.read_text("utf-8") for p in folder.glob(f"{name}.automigrator-*.json"))
    comments = "select obj_description(oid, 'pg_type') as text from pg_type where typtype = 'd'"
    found = query(database_url, f"select text from ({comments}) as c where text like '{{%'")
    return [str(text) for (text,) in found]


def _by_hand(ini: Path, url: str) -> Path:
    """A configuration with which Alembic finds the database by itself."""
    text = ini.read_text("utf-8").replace(
        "driver://user:pass@localhost/dbname", url.replace("%", "%%")
    )
    path = ini.with_name("by_hand.ini")
    path.write_text(text, "utf-8")
    return path


async def test_an_edit_is_told_at_every_start_until_it_is_undone(
    make_target: Make, versions: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = make_target()
    assert (await start(target))[target.name].notes == ()
    path = versions / "r2_.py"
    before = path.read_text("utf-8")
    edit(versions)

    for _ in range(2):
        caplog.clear()
        report = await start(target)
        assert report.outcome == "current"
        (note,) = report.targets[0].notes
        assert "revision r2 was edited after being applied" in note
        (record,) = [each for each in caplog.records if "r2 was edited" in each.getMessage()]
        assert record.levelno == logging.WARNING

    path.write_text(before, "utf-8")
    assert (await start(target)).targets[0].notes == ()


async def test_where_it_is_to_be_refused_nothing_is_changed(
    make_target: Make, versions: Path, database_url: str
) -> None:
    target = make_target(edited="refuse")
    await start(target)
    edit(versions)
    revision(versions, "r4", "r3", upgrade='op.create_table("more", sa.Column("id", sa.Integer))')
    before = contents(database_url)

    with pytest.raises(MigrationError) as caught:
        await start(target)
    (failure,) = caught.value.report.targets[0].failures
    assert (failure.kind, failure.state) == ("history", "clean")
    assert "automigrator accept" in failure.advice
    assert contents(database_url) == before

    (versions / "r4_.py").unlink()  # also where nothing is to do
    with pytest.raises(MigrationError):
        await start(target)


async def test_check_and_doctor_tell_it(make_target: Make, versions: Path) -> None:
    target = make_target()
    await start(target)
    edit(versions)
    status = await Migrator(target).check()
    assert status.current and "r2 was edited" in str(status)
    assert "r2 was edited" in str(await Migrator(target).doctor())
    refusing = Migrator(target._replace(edited="refuse"))
    assert not (await refusing.check()).current
    assert not (await refusing.doctor()).healthy


async def test_a_person_accepts_it(make_target: Make, versions: Path) -> None:
    target = make_target(edited="refuse")
    await start(target)
    edit(versions)
    assert await Migrator(target).accept() == {target.name: ("r2",)}
    report = await start(target)
    assert (report.outcome, report.targets[0].notes) == ("current", ())


async def test_an_edit_stays_told_when_other_revisions_are_applied(
    make_target: Make, versions: Path
) -> None:
    target = make_target()
    await start(target)
    edit(versions)
    revision(versions, "r4", "r3")
    for outcome in ("migrated", "current"):
        report = await start(target)
        assert report.outcome == outcome
        assert "r2 was edited" in report.targets[0].notes[0]


async def test_a_start_with_nothing_to_do_writes_nothing(
    make_target: Make, versions: Path, database_url: str
) -> None:
    target = make_target()
    await start(target)
    before = kept(database_url)
    assert len(before) == 1 and '"r3"' in before[0]
    await start(target)
    edit(versions)
    await start(target)
    assert kept(database_url) == before


async def test_what_plain_alembic_applied_is_taken_as_it_is_at_the_next_migration(
    make_target: Make, versions: Path, database_url: str
) -> None:
    target = make_target(kind="generic")
    by_hand = _by_hand(Path(str(target.config)), with_sync_driver(database_url))
    upgraded(by_hand, check=True)
    edit(versions)
    assert (await start(target)).targets[0].notes == ()  # nobody has seen it before
    assert kept(database_url) == []
    revision(versions, "r4", "r3")
    assert (await start(target)).targets[0].notes == ()
    edit(versions, "r1").write_text("# another\n" + (versions / "r1_.py").read_text("utf-8"))
    assert "revision r1 was edited" in (await start(target)).targets[0].notes[0]


@pytest.mark.parametrize("known", ["seen", "unseen"])
async def test_a_revision_that_is_applied_again_counts_as_it_is_then(
    make_target: Make, versions: Path, known: str
) -> None:
    """Rolled back, by us or by somebody who tells nobody, edited, applied."""
    target = make_target()
    await start(target)
    back = target if known == "seen" else target._replace(edited="ignore")
    await Migrator(back).rollback("r1")
    edit(versions)
    report = await start(target)
    assert (report.outcome, report.targets[0].notes) == ("migrated", ())
    assert (await start(target)).targets[0].notes == ()


@pytest.mark.parametrize("what", ["line endings", "other revisions", "squashed", "ignored"])
async def test_what_is_no_edit(make_target: Make, versions: Path, what: str) -> None:
    target = make_target(edited="ignore" if what == "ignored" else "refuse", revision="r3")
    await start(target)
    if what == "line endings":
        path = versions / "r2_.py"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    elif what == "other revisions":
        revision(versions, "r4", "r3")
    elif what == "squashed":
        for name in ("r1", "r2", "r3"):
            (versions / f"{name}_.py").unlink()
        revision(versions, "r3", None, upgrade="pass  # all that r1 to r3 did")
    else:
        edit(versions)
    report = await start(target)
    assert (report.outcome, report.targets[0].notes) == ("current", ())


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_edit_is_told_where_env_alone_names_the_version_tables_schema(
    make_target: Make, versions: Path, database_url: str
) -> None:
    query(with_sync_driver(database_url), "create schema elsewhere")
    target = make_target()
    env = versions.parent / "env.py"
    configured = 'context.configure(version_table_schema="elsewhere", '
    env.write_text(env.read_text("utf-8").replace("context.configure(", configured), "utf-8")
    assert (await start(target)).outcome == "migrated"
    edit(versions)
    revision(versions, "r4", "r3", upgrade="pass")
    for _ in range(2):  # one that migrates, and one with nothing to do
        (note,) = (await start(target))[target.name].notes
        assert note.startswith("revision r2 was edited after being applied")
