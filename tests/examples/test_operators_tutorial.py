"""The operators' tutorial is played: its commands, in one shell, print what the page says."""

from __future__ import annotations

import re
import shutil
import socket
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads
from support.played_page import compared, played
from support.shop import Shop, free_port

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


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


@pytest.mark.long
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_prints_what_it_says(
    postgres_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shop = Shop(tmp_path / "shop", postgres_url)
    ports = {port: free_port() for port in ("8001", "8002")}

    def typed(commands: str) -> str:
        for port, free in ports.items():
            commands = commands.replace(port, free)
        return commands

    steps = played(
        PAGE,
        shop.folder,
        shop.environment | {"AUTOMIGRATOR_APP": "shop:migrator"},
        lambda printed: shown(printed, shop),
        typed,
        write=request.config.getoption("--write-table"),
    )
    for step in steps:
        assert step.said is not None and compared(step.printed) == compared(step.said), step
    assert heads(postgres_url) == {"0003"}
