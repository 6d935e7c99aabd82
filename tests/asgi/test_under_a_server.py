"""The gate under a real server, in a process of its own."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import alembic_projects as projects
from support.gated_deployment import BROKEN, WAIT, Deployment

BURN = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end:\n    pass"


@pytest.fixture
def deployed(tmp_path: Path) -> Callable[[str], Deployment]:
    return lambda upgrade: Deployment(tmp_path, upgrade)


Deployed = Callable[[str], Deployment]


def test_it_is_alive_and_not_ready_until_the_application_serves(deployed: Deployed) -> None:
    deployment = deployed(WAIT)
    with deployment.started():
        deployment.until("/livez", 200)
        status, body = deployment.get("/readyz")
        assert (status, json.loads(body)["ready"]) == (503, False)
        assert deployment.get("/users")[0] == 503
        deployment.go.touch()
        deployment.until("/readyz", 200)
        assert deployment.get("/users") == (200, b'["one"]')


@pytest.mark.parametrize(
    ("options", "environment", "code"),
    [
        pytest.param('on_failure="exit"', {}, 5, id="a-migration"),
        pytest.param("", {"BROKEN": "1"}, 3, id="the-application"),
    ],
)
def test_a_start_that_fails_ends_the_process_with_a_code_of_its_own(
    deployed: Deployed, options: str, environment: dict[str, str], code: int
) -> None:
    deployment = deployed("pass" if environment else BROKEN)
    with deployment.started(options, **environment) as process:
        assert process.wait(timeout=60) == code
    said = "no cache" if environment else "no such table: absent"
    assert said in deployment.printed


def test_sigterm_ends_a_migration_that_somebody_watches(deployed: Deployed) -> None:
    deployment = deployed(WAIT)
    with deployment.started() as process:
        deployment.until("/livez", 200)
        with deployment.stream() as stream:
            process.send_signal(signal.SIGTERM)
            # the server waits for what is open: the end of the run ends it
            told = [json.loads(x[6:]) for x in stream.read().splitlines() if x[:1] == b"d"]
        process.wait(timeout=60)
    assert told[-1]["phase"] == "stopped"
    assert projects.heads(deployment.url.replace("+aiosqlite", "")) == set()


@pytest.mark.parametrize(
    ("phase", "upgrade", "options", "environment"),
    [
        pytest.param("failed", BROKEN, "details=True", {}, id="failed"),
        pytest.param("application", "pass", "details=True", {"SLOW": "1"}, id="application"),
        pytest.param("pending", "pass", "development=True", {"RUN_MIGRATIONS": ""}, id="pending"),
    ],
)
def test_sigterm_ends_what_somebody_watches_in_every_phase(
    deployed: Deployed, phase: str, upgrade: str, options: str, environment: dict[str, str]
) -> None:
    """A page that is open must not keep a server that is told to end."""
    deployment = deployed(upgrade)
    with deployment.started(options, **environment) as process:
        deployment.until("/livez", 200)
        while deployment.state()["phase"] != phase:
            time.sleep(0.02)
        with deployment.stream() as stream:
            process.send_signal(signal.SIGTERM)
            told = [json.loads(x[6:]) for x in stream.read().splitlines() if x[:1] == b"d"]
        process.wait(timeout=60)
    assert told[-1]["phase"] == "stopped"
    assert told[-1]["reason"].startswith("stopped by SIGTERM ")


@pytest.mark.long
def test_it_answers_while_a_revision_burns_the_processor(deployed: Deployed) -> None:
    deployment = deployed(BURN)
    answers = 0
    with deployment.started():
        deployment.until("/livez", 200)
        while deployment.get("/readyz")[0] == 503:
            assert deployment.get("/livez")[0] == 200
            answers += 1
    assert answers > 10
