"""The private names of Alembic that we rely on exist, and do what we use them for."""

from __future__ import annotations

from pathlib import Path

import alembic.op
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Integer, column, create_engine, table

from automigrator.migrations import alembic_private
from automigrator.migrations.history import revision_id


@pytest.fixture
def script(tmp_path: Path) -> ScriptDirectory:
    (tmp_path / "versions").mkdir()
    for name, down in (("r1", None), ("r2", "r1")):
        text = f"revision = {name!r}\ndown_revision = {down!r}\ndef upgrade(): ...\n"
        (tmp_path / "versions" / f"{name}_.py").write_text(f"{text}def downgrade(): ...\n", "utf-8")
    return ScriptDirectory(str(tmp_path))


def test_the_steps_are_alembics_own_in_their_order(script: ScriptDirectory) -> None:
    up = alembic_private.steps(script, "heads", ())
    down = alembic_private.steps(script, "base", ("r2",), down=True)
    assert [revision_id(step) for step in up] == ["r1", "r2"]
    assert [revision_id(step) for step in down] == ["r2", "r1"]
    assert alembic_private.parents(script.get_revision("r2")) == ("r1",)
    assert alembic_private.ancestors(script, ["r2"]) == {"r1", "r2"}
    assert alembic_private.descendants(script, ["r1"]) == {"r1", "r2"}


def test_the_revisions_are_loaded_from_the_version_locations(script: ScriptDirectory) -> None:
    assert {each.revision for each in alembic_private.load_revisions(script)} == {"r1", "r2"}
    assert [Path(each).name for each in alembic_private.version_locations(script)] == ["versions"]


def test_the_operations_of_a_failed_revision_are_removed() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        Operations(MigrationContext.configure(connection))._install_proxy()
        assert vars(alembic.op)["_proxy"] is not None
        alembic_private.remove_operations_proxy()
        alembic_private.remove_operations_proxy()  # there may be none
    engine.dispose()
    assert vars(alembic.op)["_proxy"] is None


def test_offline_statements_are_written_as_online_mode_sends_them() -> None:
    written: list[str] = []
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True})
    alembic_private.written_by(context, written.append)
    operations = Operations(context)

    operations.execute("select '\t'")
    operations.create_table("t", Column("id", Integer, primary_key=True))
    operations.bulk_insert(table("t", column("id", Integer)), [{"id": 1}])

    assert written == [
        "select '\t'",
        "\nCREATE TABLE t (\n\tid SERIAL NOT NULL, \n\tPRIMARY KEY (id)\n)\n\n",
        "INSERT INTO t (id) VALUES (1)",
    ]
