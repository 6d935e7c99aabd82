"""The operators' tutorial is played: its commands, in one shell, print what the page says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads
from support.shop import Shop, free_port

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
STEP = re.compile(r"```sh\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
END = "the end of a step"


class Session:
    """One shell, as a person has it open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def type(self, commands: str) -> str:
        """What they print."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{commands}\necho '{END}'\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip() == END:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell has ended: {lines}")


@contextmanager
def session(shop: Shop) -> Iterator[Session]:
    """Context manager: a shell in the shop's folder."""
    process = subprocess.Popen(
        ["bash"],
        cwd=shop.folder,
        env=shop.environment | {"AUTOMIGRATOR_APP": "shop:migrator"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield Session(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def shown(printed: str, shop: Shop) -> str:
    """What a step printed, as the page shows it."""
    url = make_url(shop.environment["DATABASE_URL"])
    for before, after in (
        (str(shop.folder), "/srv/shop"),
        (url.render_as_string(), "postgresql+asyncpg://shop:***@db/shop"),
        (url.database or "", "shop"),
        (socket.gethostname(), "web-1"),
    ):
        printed = printed.replace(before, after)
    printed = re.sub(r"\b(process|pid|session) \d+", r"\1 4711", printed)
    printed = re.sub(r"\bweb-1:\d+", "web-1:4711", printed)
    printed = re.sub(r"_[0-9a-f]{8}_\d{8}T\d+Z", "_1f0c2a9e_20260301T070000000000Z", printed)
    printed = re.sub(r"(\d{4}-\d\d-\d\d) \d\d:\d\d:\d\d", _on_the_first_day, printed)
    printed = re.sub(r"since \d\d:\d\d:\d\d", "since 07:00:00", printed)
    return re.sub(r"[ \t]+$", "", printed, flags=re.MULTILINE)


def _on_the_first_day(found: re.Match[str]) -> str:
    later = date.fromisoformat(found[1]) - datetime.now(UTC).date()
    return f"{date(2026, 3, 1) + later} 07:00:00"


def compared(text: str) -> list[str]:
    """Its lines without how long something took, and each only once where it is told again."""
    text = re.sub(r"\b\d+(\.\d+)? (s|KB|bytes)\b", r"N \2", text)
    text = re.sub(r"\d{4}-\d\d-\d\d", "DATE", text)
    again = re.compile(r"(?!.*waiting for).*, N s so far$")  # a heartbeat
    return [line for line, _ in groupby(text.splitlines()) if not again.match(line)]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_prints_what_it_says(
    postgres_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shop = Shop(tmp_path / "shop", postgres_url)
    text = PAGE.read_text("utf-8")
    ports = {port: free_port() for port in ("8001", "8002")}
    played: list[str] = []
    with session(shop) as typing:
        for commands, _ in STEP.findall(text):
            for port, free in ports.items():
                commands = commands.replace(port, free)
            played.append(shown(typing.type(commands), shop))
    if request.config.getoption("--write-table"):
        steps = iter(played)
        PAGE.write_text(
            STEP.sub(lambda step: f"```sh\n{step[1]}```\n\n```text\n{next(steps)}```", text),
            "utf-8",
        )
    for (commands, said), printed in zip(
        STEP.findall(PAGE.read_text("utf-8")), played, strict=True
    ):
        assert compared(printed) == compared(said), commands
    assert heads(postgres_url) == {"0003"}
