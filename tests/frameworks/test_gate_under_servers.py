"""What docs/gate.md says of the gate under each server: each row of its table."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.gated_deployment import BROKEN, Deployment

BUSY = """
import time
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
op.execute('''WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3000000)
              SELECT max(x) FROM c''')
"""
LONG = BUSY.replace(" WHERE x < 3000000", "")
HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
LATE = "import time\ntime.sleep(1)"

AGAIN = 3
"""Starts of a failing worker after which its server counts as one that never gives up."""


@dataclass(frozen=True)
class Server:
    """A command, and what it ends with; None where it goes on."""

    command: str
    stopped: int
    migration_fails: int | None
    application_fails: int | None
    tells_its_end: bool = True
    """Whether its workers learn of SIGTERM before it has ended their streams."""

    def __str__(self) -> str:
        return self.command.partition(" application")[0]


UVICORN = "uvicorn application:gate --port {port}"
GUNICORN = "gunicorn application:gate -k uvicorn_worker.UvicornWorker -b 127.0.0.1:{port}"
HYPERCORN = "hypercorn application:gate -b 127.0.0.1:{port}"
GRANIAN = "granian application:gate --interface asgi --port {port}"

SERVERS = [
    Server(f"{UVICORN} --loop asyncio", -signal.SIGTERM, 5, 3),
    Server(f"{UVICORN} --loop uvloop", -signal.SIGTERM, 5, 3),
    Server(f"{UVICORN} --lifespan off", -signal.SIGTERM, 5, 3),
    Server(f"{UVICORN} --workers 2", 0, None, 0),
    Server(GUNICORN, 0, None, 3),
    Server(HYPERCORN, 0, 0, 0, tells_its_end=False),
    Server(f"{HYPERCORN} -w 0", 0, 5, 3),
    Server(GRANIAN, 0, 1, 1),
    Server(f"{GRANIAN} --workers 2", 0, 1, 1),
]

pytestmark = [
    pytest.mark.long,
    pytest.mark.parametrize(
        "server",
        [each for each in SERVERS if find_spec(each.command.split()[0]) is not None],
        ids=lambda server: server.command.replace("application:gate ", ""),
    ),
]


def test_it_is_alive_throughout_and_then_serves(server: Server, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, BUSY)
    with deployment.started(command=server.command):
        deployment.until("/livez", 200)
        assert deployment.get("/ws", **HANDSHAKE)[0] == 503
        while deployment.get("/users")[0] == 503:
            assert deployment.get("/livez")[0] == 200
        assert deployment.until("/users", 200) == b'["one"]'


def test_sigterm_ends_a_migration_that_somebody_watches(server: Server, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, LONG)
    with deployment.started(command=server.command) as process:
        deployment.until("/livez", 200)
        while "r1" not in json.dumps(deployment.state()):
            time.sleep(0.02)
        with deployment.stream() as stream:
            process.send_signal(signal.SIGTERM)
            if server.tells_its_end:
                told = [json.loads(x[6:]) for x in stream.read().splitlines() if x[:1] == b"d"]
                assert told[-1]["phase"] == "stopped"
            assert process.wait(timeout=60) == server.stopped


@pytest.mark.parametrize("what", ["migration", "application"])
def test_a_start_that_fails_ends_with_the_code_of_the_table(
    server: Server, what: str, tmp_path: Path
) -> None:
    fails = what == "migration"
    deployment = Deployment(tmp_path, BROKEN if fails else LATE)
    options = 'on_failure="exit"' if fails else ""
    environment = {} if fails else {"BROKEN": "1"}
    code = server.migration_fails if fails else server.application_fails
    with deployment.started(options, command=server.command, **environment) as process:
        if "off" in server.command:
            deployment.until("/livez", 200)
        if code is not None:
            assert process.wait(timeout=60) == code
        while code is None and deployment.printed.count("the application does not serve") < AGAIN:
            assert process.poll() is None
            time.sleep(0.05)
