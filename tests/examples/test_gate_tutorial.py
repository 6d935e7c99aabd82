"""The gate's tutorial is played: its commands, in one shell, lead to the page and past it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support.alembic_projects import heads
from support.shop import free_port

PAGE = Path(__file__).parents[2] / "docs" / "gate.md"
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def browsed(port: str) -> tuple[int, str]:
    """What a browser gets; 0 where nobody listens."""
    with (
        closing(http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)) as connection,
        suppress(OSError),
    ):
        connection.request("GET", "/", headers={"accept": "text/html"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    return 0, ""


@pytest.mark.long
def test_the_tutorial_leads_from_nothing_to_the_application(tmp_path: Path) -> None:
    port = free_port()
    *before, last = BLOCK.findall(PAGE.read_text("utf-8"))
    script = "\n".join(["set -e", *before, f"exec env {last.strip()} --port {port}"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", script.replace("sleep(10)", "sleep(2)")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        seen: list[tuple[int, str]] = []
        while not seen or seen[-1][0] != 200:
            assert process.poll() is None, process.communicate()[0]
            seen.append(browsed(port))
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    pages = [text for status, text in seen if status == 503]
    assert pages and all("<!doctype html>" in text.lower() for text in pages)
    assert seen[-1][1] == '{"message":"Hello World"}'
    assert heads(f"sqlite:///{tmp_path / 'app.db'}") == {"0001"}
