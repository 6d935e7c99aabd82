"""The deployment examples: what they tell Kubernetes, Helm, systemd, Docker and GitHub to run.

The commands, environments, limits and probes come from the files; there is no cluster and no image.
"""

from __future__ import annotations

import configparser
import os
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

FIRST = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
"""Begins a command as the first process of its own, as in a container."""


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


NEVER = {"SHOP_PORTIONS": "100000"}
"""For a migration that has not ended when the test ends it."""

AT_ONCE = {"SHOP_PORTIONS": "1"}


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
        spec = pod(resources("kubernetes/init-container.yaml")["Deployment"])
        (migrate,), (container,) = spec["initContainers"], spec["containers"]
        assert on_sqlite.run(migrate["command"])[0] == 0
        on_sqlite.deploy(2)
        command = on_a_free_port(container["command"])
        code, printed = on_sqlite.run(command, **variables(container))
        assert code != 0 and "1 pending to 0002" in printed, printed

    @pytest.mark.long
    def test_the_pods_wait_for_the_job_and_serve(self, shop: Shop) -> None:
        found = resources("kubernetes/job.yaml")
        (job,), deployment = pod(found["Job"])["containers"], pod(found["Deployment"])
        (wait,), (container,) = deployment["initContainers"], deployment["containers"]
        waiting = shop.begun(wait["command"])
        assert waiting.stdout is not None
        assert any("waiting for another process to migrate" in line for line in waiting.stdout)
        assert shop.run(job["command"])[0] == 0
        printed, _ = waiting.communicate(timeout=LIMIT_S)
        assert waiting.returncode == 0 and "applied" not in printed, printed
        command = on_a_free_port(container["command"])
        with shop.served(command, **variables(container)) as server:
            assert server.answer(container["readinessProbe"]["httpGet"]["path"])[0] == 200

    @pytest.mark.long
    def test_a_probe_that_ends_a_start_leaves_nothing_half_done(self, on_sqlite: Shop) -> None:
        (container,) = pod(resources("kubernetes/at-startup.yaml")["Deployment"])["containers"]
        on_sqlite.deploy(2)
        command, told = on_a_free_port(container["command"]), variables(container)
        with on_sqlite.served(command, **told, **NEVER) as server:
            while_it_migrates(on_sqlite)
            assert server.get(container["livenessProbe"]["httpGet"]["path"])[0] == 0
            server.process.send_signal(signal.SIGTERM)
            assert "stopped by SIGTERM" in server.process.communicate(timeout=LIMIT_S)[0]
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

        with on_sqlite.served(command, **told, **AT_ONCE) as server:
            assert server.answer("/ready")[0] == 200
            assert server.get("/products") == (200, ["Tea", "tea", "Coffee"])

    @pytest.mark.long
    def test_behind_the_gate_it_is_alive_while_it_migrates(self, on_sqlite: Shop) -> None:
        (container,) = pod(resources("kubernetes/behind-the-gate.yaml")["Deployment"])["containers"]
        alive, ready = (
            container[f"{each}Probe"]["httpGet"]["path"] for each in ("liveness", "readiness")
        )
        on_sqlite.deploy(2)
        command, told = on_a_free_port(container["command"]), variables(container)
        with on_sqlite.served(command, **told, **NEVER) as server:
            assert server.answer(alive)[0] == 200
            while_it_migrates(on_sqlite)
            assert (server.get(alive)[0], server.get(ready)[0]) == (200, 503)
            assert server.get("/products")[0] == 503
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

        with on_sqlite.served(command, **told, **AT_ONCE) as server:
            while server.get(ready)[0] != 200:
                time.sleep(0.05)
            assert server.get("/products") == (200, ["Tea", "tea", "Coffee"])

    def test_probes_and_rollouts_allow_more_than_the_runs_own_limit(self) -> None:
        (container,) = pod(resources("kubernetes/at-startup.yaml")["Deployment"])["containers"]
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > RUN_LIMIT_S
        assert variables(container) == {"RUN_MIGRATIONS": "1"}
        for name in ("at-startup", "behind-the-gate", "init-container", "job"):
            spec = resources(f"kubernetes/{name}.yaml")["Deployment"]["spec"]
            assert spec["progressDeadlineSeconds"] > RUN_LIMIT_S

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
    def units(self, on_sqlite: Shop) -> dict[str, configparser.ConfigParser]:
        """The units by name, with the paths of this machine."""
        units = {}
        programs = on_sqlite.environment["PATH"].partition(":")[0]
        for file in (DEPLOY / "systemd").glob("*.service"):
            text = file.read_text("utf-8").replace("/srv/shop/.venv/bin", programs)
            units[file.name] = configparser.ConfigParser(interpolation=None, strict=False)
            units[file.name].optionxform = str  # type: ignore[assignment,method-assign]
            units[file.name].read_string(text.replace("/srv/shop", str(on_sqlite.folder)))
        return units

    @pytest.mark.long
    def test_the_shop_starts_after_its_migration(
        self, units: dict[str, configparser.ConfigParser], on_sqlite: Shop
    ) -> None:
        shop, migrate = units["shop.service"], units["shop-migrate.service"]["Service"]
        assert shop["Unit"]["Requires"] == "shop-migrate.service"
        assert "shop-migrate.service" in shop["Unit"]["After"].split()
        assert on_sqlite.run(shlex.split(migrate["ExecStart"]))[0] == 0
        command = on_a_free_port(shlex.split(shop["Service"]["ExecStart"]))
        name, value = shop["Service"]["Environment"].split("=")
        with on_sqlite.served(command, **{name: value}) as server:
            assert server.answer("/products")[0] == 200

    def test_a_migration_may_take_longer_than_its_own_limit(
        self, units: dict[str, configparser.ConfigParser]
    ) -> None:
        assert units["shop-migrate.service"].getint("Service", "TimeoutStartSec") > RUN_LIMIT_S

    def test_only_what_migrates_reads_the_direct_url(self) -> None:
        shop, migrate = (
            (DEPLOY / "systemd" / f"{name}.service").read_text("utf-8")
            for name in ("shop", "shop-migrate")
        )
        assert "EnvironmentFile=/etc/shop/migration" in migrate
        assert "/etc/shop/migration" not in shop

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
    def test_systemd_understands_them(
        self, units: dict[str, configparser.ConfigParser], tmp_path: Path
    ) -> None:
        units["wrong.service"] = configparser.ConfigParser()
        units["wrong.service"].read_dict({"Service": {"NoSuchKey": "1", "ExecStart": "/bin/true"}})
        complaints = {}
        for name, unit in units.items():
            with (tmp_path / name).open("w") as file:
                unit.write(file, space_around_delimiters=False)
        for name in units:
            command = ["systemd-analyze", "verify", "--man=no", tmp_path / name]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            complaints[name] = [line for line in ended.stderr.splitlines() if name in line]
        assert complaints.pop("wrong.service"), "it verifies nothing here"
        assert not any(complaints.values()), complaints


class TestDocker:
    """The entrypoint, called by hand: no image is built."""

    def command(self, shop: Shop, *words: str) -> list[str]:
        return ["sh", str(shop.folder / "deploy" / "docker" / "entrypoint.sh"), *words]

    def test_it_migrates_and_becomes_the_containers_command(self, on_sqlite: Shop) -> None:
        command = self.command(on_sqlite, "sh", "-c", "env; echo $$")
        process = on_sqlite.begun(command, MIGRATION_URL=on_sqlite.environment["DATABASE_URL"])
        printed, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0 and printed.endswith(f"\n{process.pid}\n"), printed
        assert "\nDATABASE_URL=" in printed and "\nMIGRATION_URL=" not in printed
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

    @pytest.mark.long
    @pytest.mark.parametrize("first", [False, True], ids=["a process", "the first process"])
    def test_docker_stop_rolls_the_migration_back(self, first: bool, on_sqlite: Shop) -> None:
        """As the first process a shell has no handler but its own."""
        on_sqlite.deploy(2)
        command = self.command(on_sqlite, "echo", "serves")
        if first:
            if subprocess.run([*FIRST, "true"], capture_output=True, check=False).returncode:
                pytest.skip("this machine makes no namespace of processes for this user")
            command = [*FIRST, *command]
        process = on_sqlite.begun(command, **NEVER)
        while_it_migrates(on_sqlite)
        told = process.pid
        if first:
            children = Path(f"/proc/{told}/task/{told}/children").read_text().split()
            told = int(children[0])
        os.kill(told, signal.SIGTERM)
        printed, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, "serves" in printed) == (143, False), printed
        assert heads(on_sqlite.environment["DATABASE_URL"]) == {"0001"}

    @pytest.mark.long
    def test_a_failed_migration_is_the_containers_exit_code(self, on_sqlite: Shop) -> None:
        for release in (2, 3):
            on_sqlite.deploy(release)
        code, printed = on_sqlite.run(self.command(on_sqlite, "echo", "serves"), **AT_ONCE)
        assert (code, "serves" in printed) == (5, False), printed


@pytest.mark.long
def test_the_gate_of_a_pull_request_passes_step_by_step(shop: Shop) -> None:
    workflow = yaml.safe_load((DEPLOY / "github" / "migrations.yml").read_text("utf-8"))
    steps = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    shutil.copytree(shop.folder, shop.folder / "base")
    shop.deploy(2)
    for step in steps:
        if not step.startswith("pip install"):
            code, printed = shop.run(["bash", "-e", "-c", step], **AT_ONCE)
            assert code == 0, (step, printed)
    pending = (shop.folder / "pending.sql").read_text("utf-8")
    assert "UPDATE products" in pending and "CREATE TABLE products" not in pending
    assert heads(shop.environment["DATABASE_URL"]) == {"0002"}


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
