"""Ready-made tests: import those that you want into a test module of yours.

    from pytest_automigrator.tests import *  # noqa: F403

Each fails with a list of what is wrong, and no traceback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from sqlalchemy import URL

from automigrator import MigrationError, Plan
from pytest_automigrator import releases
from pytest_automigrator.application import Application
from pytest_automigrator.database import DatabaseAt
from pytest_automigrator.databases import Databases
from pytest_automigrator.plugin import NOTE
from pytest_automigrator.seeds import NO_ROWS, seed_of
from pytest_automigrator.walks import Rows, Seed, insert, walking

__all__ = [
    "test_every_revision_imports_alone",
    "test_models_match",
    "test_one_head",
    "test_plan_is_what_runs",
    "test_released_revisions_are_unchanged",
    "test_round_trip",
    "test_round_trip_with_made_rows",
    "test_upgrades_from_base",
    "test_upgrades_from_every_revision",
]

At = Callable[[str], DatabaseAt]
Note = Callable[[str, object], None]

_ALONE = Path(__file__).with_name("alone.py")
_NO_WAY_BACK = (
    "name a revision in automigrator_lossy where its downgrade cannot bring the data back, or let "
    "it raise NotImplementedError where there is no way back"  # advice for users: no gap of ours
)


def test_one_head(automigrator_plan: Plan) -> None:
    """The history has one head."""
    heads = automigrator_plan.after
    if len(heads) > 1:
        _fail([f"the history has {len(heads)} heads: {', '.join(heads)}; join them: alembic merge"])


def test_every_revision_imports_alone(automigrator_plan: Plan, pytestconfig: pytest.Config) -> None:
    """No revision needs that env.py or another one was imported before."""
    root = str(pytestconfig.rootpath)
    path = os.pathsep.join([root, *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, str(_ALONE)],
        input="\n".join(each.path for each in automigrator_plan.revisions),
        env={**os.environ, "PYTHONPATH": path},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    failed = [json.loads(line) for line in ended.stdout.splitlines()]
    _fail([f"{path} cannot be imported alone: {said}" for path, said in failed])


def test_upgrades_from_base(at_revision: At) -> None:
    """Every revision runs, on an empty database."""
    _upgrade(at_revision("base"))


def test_upgrades_from_every_revision(
    automigrator_databases: Databases, automigrator_plan: Plan, tmp_path: Path
) -> None:
    """From every revision the schema becomes that of a new database; see automigrator_starts."""
    starts = automigrator_databases.application.settings.starts
    with walking(automigrator_databases, tmp_path, automigrator_plan.revisions) as walks:
        _fail(list(walks.upgrades(starts)))


def test_round_trip(
    automigrator_databases: Databases,
    automigrator_plan: Plan,
    automigrator_rows: Mapping[str, Rows],
    tmp_path: Path,
    record_property: Note,
) -> None:
    """Up, down and up again by each revision: schema, and rows of `automigrator_rows`, stay."""

    def seed(url: URL, revision: str) -> Sequence[str]:
        insert(url, automigrator_rows.get(revision, {}))
        return ()

    _round_trip(automigrator_databases, automigrator_plan, tmp_path, seed, record_property)


def test_round_trip_with_made_rows(
    automigrator_databases: Databases,
    automigrator_plan: Plan,
    automigrator_rows: Mapping[str, Rows],
    tmp_path: Path,
    record_property: Note,
) -> None:
    """The same, with rows that Hypothesis makes from the schema in the tables that are empty."""
    pytest.importorskip(
        "hypothesis", reason="it needs Hypothesis: pip install pytest-automigrator[hypothesis]"
    )
    seed = seed_of(automigrator_databases.application, automigrator_rows)
    _round_trip(automigrator_databases, automigrator_plan, tmp_path, seed, record_property)


def _round_trip(databases: Databases, plan: Plan, folder: Path, seed: Seed, note: Note) -> None:
    settings = databases.application.settings
    with walking(databases, folder, plan.revisions) as walks:
        wrong = list(walks.round_trips(settings.round_trips, seed, settings.lossy))
    if walks.left_empty:
        note(NOTE, NO_ROWS.format(", ".join(sorted(walks.left_empty))))
    _fail(wrong and [*wrong, _NO_WAY_BACK])


def test_models_match(at_revision: At, automigrator_application: Application) -> None:
    """A migrated database has what the models of env.py have, as `alembic check` compares them."""
    drift = automigrator_application.drift(at_revision("heads").plain_url)
    if drift is None:
        pytest.skip("env.py names no models: its target_metadata is None")
    _fail(drift)


def test_released_revisions_are_unchanged(
    automigrator_plan: Plan, automigrator_application: Application
) -> None:
    """No revision of the lock file was edited, or removed."""
    paths = {each.revision: each.path for each in automigrator_plan.revisions}
    settings = automigrator_application.settings
    wrong = releases.changed(settings, paths)
    if wrong is None:
        pytest.skip(f"there is no {settings.lock_file}: pytest --automigrator-release writes it")
    _fail(wrong)


def test_plan_is_what_runs(
    at_revision: At, automigrator_plan: Plan, automigrator_application: Application
) -> None:
    """A run applies the revisions that the plan lists, in its order, and comes to its heads."""
    database = at_revision("base")
    report = automigrator_application.migrate(database.plain_url).targets[0]
    ran = [each.revision for each in report.applied]
    planned = [each.revision for each in automigrator_plan.revisions]
    wrong = []
    if ran != planned:
        wrong.append(f"planned were {', '.join(planned)}; what ran: {', '.join(ran)}")
    if report.after != automigrator_plan.after:
        wrong.append(f"the plan ends at {automigrator_plan.after}, the run at {report.after}")
    _fail(wrong)


def _upgrade(database: DatabaseAt) -> None:
    wrong = []
    try:
        database.upgrade()
    except MigrationError as error:
        wrong.append(str(error))
    _fail(wrong)


def _fail(wrong: Iterable[str]) -> None:
    lines = list(wrong)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
