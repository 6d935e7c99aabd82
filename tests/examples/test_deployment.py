"""The deployment examples: what they tell Kubernetes, Helm, systemd, Docker and GitHub to run.

The commands, environments, limits and probes come from the files; there is no cluster and no image.
"""

from __future__ import annotations

import configparser
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import pgbouncer
from support.alembic_projects import heads
from support.shop import EXAMPLE, LIMIT_S, Shop, free_port

DEPLOY = EXAMPLE / "deploy"
RUN_LIMIT_S = 1500
"""`Timeouts(run=…)` of the shop."""


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Shop:
    """One that was never started, on each kind of database."""
    return Shop(tmp_path / "shop", database_url)


@pytest.fixture
def on_sqlite(sqlite_url: str, tmp_path: Path) -> Shop:
    """The same, on SQLite alone."""
    return Shop(tmp_path / "shop", sqlite_url)


def resources(name: str) -> dict[str, Any]:
    """The resources of a file by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / name).read_text("utf-8"))}


def pod(resource: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = resource["spec"]["template"]["spec"]
    return spec


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", [])}


def on_a_free_port(command: list[str]) -> list[str]:
    return [free_port() if word == "8000" else word for word in command]


def while_it_migrates(shop: Shop) -> None:
    """Wait until the revision 0002 is under way."""
    ends = time.monotonic() + LIMIT_S
    while heads(shop.environment["DATABASE_URL"]) != {"0001"}:
        assert time.monotonic() < ends
        time.sleep(0.05)


class TestKubernetes:
    @pytest.mark.long("postgresql")
    def test_one_init_container_migrates_and_then_the_pods_serve(self, shop: Shop) -> None:
        spec = pod(resources("kubernetes/init-container.yaml")["Deployment"])
        (migrate,), (container,) = spec["initContainers"], spec["containers"]
        started = [shop.begun(migrate["command"]) for _ in range(2)]
        printed = [each.communicate(timeout=LIMIT_S)[0] for each in started]
        assert [each.returncode for each in started] == [0, 0], printed
        assert sum("applied 0001" in text for text in printed) == 1, printed

        command = on_a_free_port(container["command"])
        with shop.served(command, **variables(container)) as server:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert server.answer(container[probe]["httpGet"]["path"])[0] == 200
            assert server.get("/products") == (200, ["Tea", "tea ", "Coffee"])

    @pytest.mark.long
    def test_the_application_does_not_serve_an_older_schema(self, on_sqlite: Shop) -> None:
        (container,) = pod(resources("kubernetes/init-container.yaml")["Deployment"])["containers"]
        command = on_a_free_port(container["command"])
        code, printed = on_sqlite.run(command, **variables(container))
        assert code != 0 and "pending" in printed, printed

    @pytest.mark.long
    def test_the_pods_wait_for_the_job(self, shop: Shop) -> None:
        found = resources("kubernetes/job.yaml")
        (job,) = pod(found["Job"])["containers"]
        (wait,) = pod(found["Deployment"])["initContainers"]
        waiting = shop.begun(wait["command"])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(3)
        assert shop.run(job["command"])[0] == 0
        printed, _ = waiting.communicate(timeout=LIMIT_S)
        assert waiting.returncode == 0 and "applied" not in printed, printed

    @pytest.mark.long
    def test_a_probe_that_ends_a_start_leaves_nothing_half_done(self, on_sqlite: Shop) -> None:
        (container,) = pod(resources("kubernetes/at-startup.yaml")["Deployment"])["containers"]
        on_sqlite.deploy(2)
        command = on_a_free_port(container["command"])
        with on_sqlite.served(command, **variables(container)) as server:
            while_it_migrates(on_sqlite)
            assert server.get(container["livenessProbe"]["httpGet"]["path"])[0] == 0
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(LIMIT_S) != 0
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

        with on_sqlite.served(command, **variables(container)) as server:
            assert server.answer("/ready")[0] == 200
            assert server.get("/products") == (200, ["Tea", "tea", "Coffee"])

    def test_the_startup_probe_allows_more_than_the_runs_own_limit(self) -> None:
        (container,) = pod(resources("kubernetes/at-startup.yaml")["Deployment"])["containers"]
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > RUN_LIMIT_S
        assert variables(container) == {"RUN_MIGRATIONS": "1"}

    def test_only_what_migrates_is_given_the_direct_url(self) -> None:
        for file in DEPLOY.glob("kubernetes/*.yaml"):
            for resource in resources(f"kubernetes/{file.name}").values():
                for container in (
                    pod(resource).get("initContainers", []) + pod(resource)["containers"]
                ):
                    secrets = {each["secretRef"]["name"] for each in container["envFrom"]}
                    migrates = container["command"][-1] == "run"
                    assert ("shop-migration" in secrets) == migrates, (file.name, container["name"])


@pytest.mark.parametrize("name", ["kubernetes/job.yaml", "helm/migrate.yaml"])
def test_a_job_is_ended_later_than_the_run_ends_itself_and_is_not_begun_again(name: str) -> None:
    spec = resources(name)["Job"]["spec"]
    assert (spec["activeDeadlineSeconds"] > RUN_LIMIT_S, spec["backoffLimit"]) == (True, 0)


@pytest.mark.long
def test_helm_runs_the_migration_before_it_changes_a_pod(on_sqlite: Shop) -> None:
    job = resources("helm/migrate.yaml")["Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = pod(job)["containers"]
    assert on_sqlite.run(container["command"])[0] == 0


class TestSystemd:
    @pytest.fixture
    def unit(self, on_sqlite: Shop) -> configparser.ConfigParser:
        found = configparser.ConfigParser(interpolation=None)
        found.optionxform = str  # type: ignore[assignment,method-assign]
        bin_folder = on_sqlite.environment["PATH"].partition(":")[0]
        text = (DEPLOY / "systemd" / "shop.service").read_text("utf-8")
        text = text.replace("/srv/shop/.venv/bin", bin_folder)
        found.read_string(text.replace("/srv/shop", str(on_sqlite.folder)))
        return found

    @pytest.mark.long
    def test_it_migrates_and_then_serves(
        self, unit: configparser.ConfigParser, on_sqlite: Shop
    ) -> None:
        service = unit["Service"]
        assert on_sqlite.run(shlex.split(service["ExecStartPre"]))[0] == 0
        command = on_a_free_port(shlex.split(service["ExecStart"]))
        with on_sqlite.served(command) as server:
            assert server.answer("/products")[0] == 200

    def test_a_start_may_take_longer_than_a_run(self, unit: configparser.ConfigParser) -> None:
        assert unit.getint("Service", "TimeoutStartSec") > RUN_LIMIT_S

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
    def test_systemd_understands_it(self, unit: configparser.ConfigParser, tmp_path: Path) -> None:
        written = tmp_path / "shop.service"
        with written.open("w") as file:
            unit.write(file, space_around_delimiters=False)
        verified = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", written],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "shop.service" not in verified.stderr, verified.stderr


class TestDocker:
    """The entrypoint, called by hand: no image is built."""

    def command(self, shop: Shop, *words: str) -> list[str]:
        return [str(shop.folder / "deploy" / "docker" / "entrypoint.sh"), *words]

    def test_it_migrates_and_becomes_the_containers_command(self, on_sqlite: Shop) -> None:
        process = on_sqlite.begun(self.command(on_sqlite, "sh", "-c", "echo $$; trap"))
        printed, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0 and printed.endswith(f"\n{process.pid}\n"), printed
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

    @pytest.mark.long
    def test_docker_stop_rolls_the_migration_back(self, on_sqlite: Shop) -> None:
        on_sqlite.deploy(2)
        process = on_sqlite.begun(self.command(on_sqlite, "echo", "serves"))
        while_it_migrates(on_sqlite)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, "serves" in printed) == (143, False), printed
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

    @pytest.mark.long
    def test_a_failed_migration_is_the_containers_exit_code(self, on_sqlite: Shop) -> None:
        for release in (2, 3):
            on_sqlite.deploy(release)
        code, printed = on_sqlite.run(self.command(on_sqlite, "echo", "serves"))
        assert (code, "serves" in printed) == (5, False), printed


@pytest.mark.long
def test_the_gate_of_a_pull_request_passes_step_by_step(shop: Shop) -> None:
    workflow = yaml.safe_load((DEPLOY / "github" / "migrations.yml").read_text("utf-8"))
    gate = workflow["jobs"]["gate"]
    environment = {key: text for key, text in gate["env"].items() if key != "DATABASE_URL"}
    steps = [step["run"] for step in gate["steps"] if "run" in step]
    for step in steps:
        if not step.startswith("pip install"):
            code, printed = shop.run(["bash", "-e", "-c", step], **environment)
            assert code == 0, (step, printed)
    assert "CREATE TABLE products" in (shop.folder / "pending.sql").read_text("utf-8")
    assert heads(shop.environment["DATABASE_URL"]) == {"0001"}


@pytest.mark.long
@pytest.mark.skipif(pgbouncer.BINARY is None, reason="PgBouncer is not installed")
def test_behind_a_pooler_the_migration_takes_the_direct_url(
    postgres_url: str, pooler_folder: Path, tmp_path: Path
) -> None:
    with pgbouncer.pooled(postgres_url, pooler_folder, "transaction") as pooled:
        shop = Shop(tmp_path / "shop", pooled)
        (migrate,) = pod(resources("kubernetes/init-container.yaml")["Deployment"])[
            "initContainers"
        ]
        code, printed = shop.run(migrate["command"])
        assert code == 5 and "Target(migrate_with=" in printed, printed
        assert heads(postgres_url) == set()
        code, printed = shop.run(migrate["command"], MIGRATION_URL=postgres_url)
        assert (code, heads(postgres_url)) == (0, {"0001"}), printed
