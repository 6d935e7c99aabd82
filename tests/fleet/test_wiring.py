"""A fleet and its parts: executors by name, replay, and one look for the tenants of a database."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import fleets
from support.postgres_server import Server
from support.tenants import Connections

from automigrator import ConfigurationError, PluginError, Run, TargetReport, hookimpl
from automigrator.fleet import Fleet, schemas

FLEET = """
from automigrator.fleet import Fleet, files

fleet = Fleet(files({folder!r}, {ini!r}), mode="migrate", executor=("processes", {{"workers": 2}}),
              source="worked_fleet:fleet")
"""


class Drives:
    """Notes how each tenant was driven."""

    def __init__(self) -> None:
        self.noted: list[str | None] = []

    @hookimpl
    def after_run(self, run: Run, report: TargetReport) -> None:
        self.noted.append(report.drive)


async def test_tenants_are_replayed_where_that_is_asked_for(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    drives = Drives()
    report = await fleet_of("a", "b", "c", replay=True, plugins=[drives]).run()
    assert report.counts == {"migrated": 3}
    assert drives.noted == ["replay"] * 3
    assert report.notes == ()


async def test_what_cannot_be_replayed_is_run_by_alembic_and_said(
    fleet_of: Callable[..., Fleet], ini: Path
) -> None:
    fleets.deploy(ini, "r4", "r3", "import uuid; op.execute(f\"select '{uuid.uuid4()}'\")")
    report = await fleet_of("a", "b", replay=True).run()
    assert report.counts == {"migrated": 2}
    assert "uuid" in " ".join(report.notes)


async def test_an_executor_is_found_by_its_name(
    tmp_path: Path, ini: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleets.with_files(folder, "abcd")
    module = FLEET.format(folder=str(folder), ini=str(ini))
    (tmp_path / "worked_fleet.py").write_text(module, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "worked_fleet", raising=False)
    import worked_fleet

    report = await worked_fleet.fleet.run()
    assert report.counts == {"migrated": 4}
    assert all("process" in each.worker for each in report.tenants)


def test_an_executor_of_no_such_name_is_refused(fleet_of: Callable[..., Fleet]) -> None:
    with pytest.raises(PluginError, match="no executor 'threads' is installed"):
        fleet_of("a", executor="threads")
    with pytest.raises(ConfigurationError, match="executor= is a int"):
        fleet_of("a", executor=3)


async def test_schemas_with_nothing_pending_cost_one_look_for_all(
    tmp_path: Path, postgres_server: Server, postgres_url: str
) -> None:
    ini = fleets.schema_history(tmp_path)
    database = postgres_url.rpartition("/")[2]
    names = [f"t{number}" for number in range(12)]
    with fleets.with_schemas(postgres_server, database, names):
        source = schemas(postgres_url, ini, like="t%", x=["tenant={schema}"])
        report = await Fleet(source, mode="migrate").run()
        assert report.counts == {"migrated": 12}
        fleet = Fleet(source, mode="migrate")
        with Connections() as connections:
            report = await fleet.run()
            assert report.counts == {"current": 12}
            assert (await fleet.check()).current
        assert connections.count <= 4, connections.count
