"""The dashboard and the alerts: as generated, of metrics that there are, and each alert fires."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations, count
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import alembic_projects
from support.exposition import Scraped
from support.leaders import leading
from support.monitoring import EXAMPLE, Prometheus, generate, prometheus, served, until
from support.notes_application import BROKEN, GOOD, HALF_WAY, UNIQUE, Application

from automigrator import MigrationError, Migrator, Run, hookimpl
from automigrator.prometheus.instruments import INSTRUMENTS

pytestmark = pytest.mark.plugins

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
DASHBOARD = json.loads((EXAMPLE / "dashboard.json").read_text("utf-8"))
RULES = yaml.safe_load((EXAMPLE / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [rule["alert"] for rule in RULES]
SAMPLES = {
    f"{each.name}{end}": each
    for each in INSTRUMENTS
    for end in (("_bucket", "_count", "_sum") if each.kind == "histogram" else ("",))
}
"""Each name that a scrape may have, and its instrument."""


def expressions() -> list[str]:
    """Every expression of the dashboard."""
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def named(expression: str) -> set[str]:
    return set(re.findall(r"automigrator_\w+", expression))


class TestTheFiles:
    def test_they_are_as_they_are_generated(self) -> None:
        for name, text in generate.files().items():
            assert (EXAMPLE / name).read_text("utf-8") == text, "generate.py --write"

    def test_the_script_says_so_and_writes_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["generate.py"])
        assert generate.main() == 0
        monkeypatch.setattr(generate, "FOLDER", tmp_path)
        assert generate.main() == 1
        monkeypatch.setattr(sys, "argv", ["generate.py", "--write", "--runbooks", "https://a/b"])
        assert generate.main() == 0
        assert "runbook_url: https://a/b#automigratorrunfailed" in (
            (tmp_path / "alerts.yml").read_text("utf-8")
        )

    def test_every_metric_in_them_is_one_of_ours(self) -> None:
        told = [*expressions(), *(rule["expr"] for rule in RULES)]
        told += [each.get("definition", "") for each in DASHBOARD["templating"]["list"]]
        assert {name for each in told for name in named(each)} <= set(SAMPLES)

    def test_every_metric_of_ours_is_in_the_dashboard(self) -> None:
        shown = {SAMPLES[name] for each in expressions() for name in named(each)}
        assert shown == set(INSTRUMENTS)

    def test_every_label_that_is_asked_for_is_one_of_ours(self) -> None:
        ours = {label for each in INSTRUMENTS for label in each.labels}
        for rule in RULES:
            words = " ".join(rule["annotations"].values())
            labels = SAMPLES[next(iter(re.findall(r"automigrator_\w+", rule["expr"])))].labels
            assert set(re.findall(r"\$labels\.(\w+)", words)) <= {*labels, "instance"}
        legends = [target["legendFormat"] for panel in PANELS for target in panel["targets"]]
        assert set(re.findall(r"{{(\w+)}}", " ".join(legends))) <= ours | {"instance"}

    def test_an_alert_says_what_to_do_on_our_page(self) -> None:
        headings = re.findall(r"^#+ (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
        anchors = {each.lower().replace(" ", "-") for each in headings}
        for rule in RULES:
            page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert page == "docs/monitoring.md" and anchor in anchors
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"] and rule["annotations"]["description"]

    def test_panels_have_a_place_of_their_own_and_the_chosen_source(self) -> None:
        panels = DASHBOARD["panels"]
        assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
        for one, other in combinations((panel["gridPos"] for panel in panels), 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            assert beside or one["y"] + one["h"] <= other["y"]
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
        names = {each["name"] for each in DASHBOARD["templating"]["list"]}
        assert names == {"datasource", "job", "instance"}
        for panel in PANELS:
            for each in (panel, *panel["targets"]):
                assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            used = set(re.findall(r"\$(\w+)", json.dumps(panel["targets"])))
            assert used <= names

    def test_the_page_describes_every_metric(self) -> None:
        table = PAGE.read_text("utf-8").partition("| metric |")[2].partition("\n\n")[0]
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.split("\n")]
        told = [(name, kind, labels) for name, kind, labels, *_ in rows[2:]]
        assert told == [
            (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels))
            for each in INSTRUMENTS
        ]


# With a real Prometheus


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    missing = [tool for tool in ("prometheus", "promtool") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}; Debian has both: apt install prometheus")
    with prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        yield server


class Instance:
    """An application whose runs are measured, and scraped by the server."""

    def __init__(self, name: str, notes: Application, scraped: Scraped, server: Prometheus):
        self.name, self.notes, self.scraped, self.server = name, notes, scraped, server

    async def start(self, *recovery: Any, plugins: Any = (), **options: Any) -> str:
        """Migrate at startup; returns the outcome."""
        migrator = Migrator(
            self.notes.target(),
            mode="migrate",
            recovery=recovery,
            plugins=[self.scraped.metrics, *plugins],
            **options,
        )
        try:
            return (await migrator.run()).outcome
        except MigrationError as error:
            return error.report.outcome

    async def fires(self, alert: str, **labels: str) -> None:
        """Wait until the server says so."""

        def told() -> bool:
            return alert in self.server.firing(self.name)

        await asyncio.to_thread(until, told)
        assert labels.items() <= self.server.firing(self.name)[alert].items()

    async def is_silent(self, *but: str) -> None:
        """Wait until no other alert fires, and stays so."""

        def told() -> bool:
            return set(self.server.firing(self.name)) <= set(but)

        await asyncio.to_thread(until, told)
        await asyncio.to_thread(self.server.judge)
        assert told()


def promtool_agrees(
    values: Mapping[Any, float], firing: Mapping[str, list[str]], folder: Path
) -> None:
    """Let the rules as they are shipped judge values that stay: which alerts fire, and when."""
    series = []
    for (name, labels), value in values.items():
        if name in SAMPLES and SAMPLES[name].kind != "histogram":
            told = {**dict(labels), "job": "shop", "instance": "one"}
            text = ",".join(f"{label}={json.dumps(each)}" for label, each in told.items())
            series.append({"series": f"{name}{{{text}}}", "values": f"{value:g}+0x1600"})
    tests = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": at,
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
        }
        for at, names in firing.items()
    ]
    whole = {
        "rule_files": [str(EXAMPLE / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    (folder / "tests.yml").write_text(yaml.safe_dump(whole), "utf-8")
    command = ["promtool", "test", "rules", str(folder / "tests.yml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


numbers = count()


@pytest.fixture
def instance(tmp_path: Path, sqlite_url: str, server: Prometheus) -> Iterator[Instance]:
    scraped, name = Scraped(), f"instance-{next(numbers)}"
    with served(scraped) as address:
        server.scrape(name, address)
        yield Instance(name, Application(tmp_path, sqlite_url), scraped, server)


class Holding:
    """A plugin that keeps a run under way for as long as a test wants."""

    def __init__(self) -> None:
        self.held, self.done = asyncio.Event(), asyncio.Event()

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        self.held.set()
        await self.done.wait()


@pytest.mark.long
class TestAlerts:
    """Each fires after a real run on a real database, and a healthy one is silent."""

    async def test_a_run_that_failed_until_the_next_one_succeeds(self, instance: Instance) -> None:
        instance.notes.deploy(UNIQUE)
        assert await instance.start() == "failed"
        await instance.fires("AutomigratorRunFailed", target="app", severity="critical")
        instance.notes.execute("DELETE FROM notes")
        assert await instance.start() == "migrated"
        await instance.is_silent()

    async def test_an_application_that_serves_an_old_schema(self, instance: Instance) -> None:
        instance.notes.deploy(BROKEN)
        assert await instance.start("log-and-continue") == "degraded"
        await instance.fires("AutomigratorDegraded", target="app", severity="warning")
        await instance.fires("AutomigratorPending", target="app")
        await instance.is_silent("AutomigratorDegraded", "AutomigratorPending")

    async def test_a_database_that_was_rebuilt(self, instance: Instance) -> None:
        instance.notes.deploy(UNIQUE)
        assert await instance.start("purge") == "recovered"
        await instance.fires("AutomigratorRecovered", target="app", recovery="recreate")
        await instance.is_silent("AutomigratorRecovered")

    async def test_a_database_that_was_restored(self, instance: Instance) -> None:
        instance.notes.deploy(HALF_WAY)
        assert await instance.start("backup-restore") == "failed"
        await instance.fires("AutomigratorRecovered", target="app", recovery="restore")
        await instance.fires("AutomigratorRunFailed", target="app")

    async def test_starts_that_try_nothing_any_more(self, instance: Instance) -> None:
        instance.notes.deploy(BROKEN)
        for _ in range(2):
            assert await instance.start(max_failed_starts=1) == "failed"
        await instance.fires("AutomigratorCrashLoop", target="app", severity="critical")

    async def test_a_run_that_takes_too_long(self, instance: Instance) -> None:
        instance.notes.deploy(GOOD)
        holding = Holding()
        running = asyncio.create_task(instance.start(plugins=[holding]))
        await holding.held.wait()
        await instance.fires("AutomigratorRunTooLong")
        holding.done.set()
        assert await running == "migrated"
        await instance.is_silent()

    async def test_a_wait_for_the_lock_that_takes_too_long(self, instance: Instance) -> None:
        instance.notes.deploy(GOOD)
        async with leading(instance.notes.target()):
            running = asyncio.create_task(instance.start())
            await instance.fires("AutomigratorWaiting", on="lock")
        assert await running == "current"
        await instance.is_silent()

    async def test_a_gate_that_stays_closed(self, instance: Instance) -> None:
        instance.notes.deploy(BROKEN)
        instance.scraped.metrics.ready(False)
        assert await instance.start() == "failed"
        await instance.fires("AutomigratorNotReady")
        instance.scraped.metrics.ready(True)
        await instance.is_silent("AutomigratorRunFailed", "AutomigratorPending")

    async def test_an_application_that_is_well_is_silent(self, instance: Instance) -> None:
        instance.notes.deploy(GOOD)
        instance.scraped.metrics.ready(False)
        assert await instance.start() == "migrated"
        instance.scraped.metrics.ready(True)
        scraped = partial(
            instance.server.query, f'automigrator_ready{{instance="{instance.name}"}}'
        )
        await asyncio.to_thread(until, scraped)
        await instance.is_silent()

    def test_no_alert_is_without_a_test(self) -> None:
        fired = set(re.findall(r'fires\("(\w+)"', Path(__file__).read_text("utf-8")))
        assert fired == set(ALERTS)


@pytest.mark.long
class TestPanels:
    async def test_every_panel_shows_something_of_a_run_with_everything_in_it(
        self, instance: Instance
    ) -> None:
        """A purge after a rehearsal, a restore, a start that tries nothing, and one that runs."""
        notes, server, holding = instance.notes, instance.server, Holding()
        instance.scraped.metrics.ready(True)
        notes.deploy(UNIQUE)
        assert await instance.start("purge") == "recovered"
        notes.deploy(HALF_WAY)
        for _ in range(2):
            await instance.start("backup-restore", max_failed_starts=1)
        alembic_projects.revision(
            notes.config.parent / "migrations" / "versions", "r3", "r2", upgrade=GOOD
        )
        running = asyncio.create_task(instance.start(plugins=[holding], rehearse=True))
        await holding.held.wait()
        chosen = f'job=~".*", instance=~"{instance.name}"'
        asked = [
            each.replace('job=~"$job", instance=~"$instance"', chosen) for each in expressions()
        ]
        assert all("$" not in each for each in asked)

        def shown(expression: str) -> bool:
            found = [value for _, value in map(itemgetter("value"), server.query(expression))]
            return any(value != "NaN" for value in found)

        for each in asked:
            await asyncio.to_thread(until, partial(shown, each))
        holding.done.set()
        assert await running == "migrated"

    async def test_the_rules_are_as_patient_as_they_say(
        self, instance: Instance, tmp_path: Path
    ) -> None:
        """As they are shipped, with what real runs have exposed, a minute after they ended."""
        instance.notes.deploy(HALF_WAY)
        for _ in range(2):
            await instance.start("backup-restore", max_failed_starts=1)
        instance.scraped.metrics.ready(False)
        values = dict(instance.scraped.samples())
        values["automigrator_last_run_timestamp_seconds", ()] = 60
        at_once = ["AutomigratorCrashLoop", "AutomigratorRecovered", "AutomigratorRunFailed"]
        stay = ["AutomigratorNotReady", "AutomigratorPending", "AutomigratorRunFailed"]
        told = {
            "3m": at_once,
            "7m": sorted([*at_once, "AutomigratorPending"]),
            "18m": sorted({*at_once, *stay}),
            "1500m": stay,
        }
        promtool_agrees(values, told, tmp_path)
        values = {("automigrator_run_started_timestamp_seconds", ()): 60}
        values |= {("automigrator_waiting_seconds", (("on", "lock"),)): 301}
        told = {"29m": ["AutomigratorWaiting"]}
        told |= {"32m": ["AutomigratorRunTooLong", "AutomigratorWaiting"]}
        promtool_agrees(values, told, tmp_path)

    async def test_promtool_finds_nothing_to_improve(self, instance: Instance) -> None:
        instance.notes.deploy(UNIQUE)
        await instance.start("purge")
        instance.scraped.metrics.ready(True)
        body, _ = instance.scraped.metrics.answer()
        command = partial(subprocess.run, ["promtool", "check", "metrics"], check=False)
        ended = await asyncio.to_thread(partial(command, input=body, capture_output=True))
        assert (ended.returncode, ended.stderr) == (0, b"")
