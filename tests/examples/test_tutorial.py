"""The tutorial is played: its files, written and run by its commands, print what the page says."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from support.played_page import compared, played
from support.shop import free_port, without_settings

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def shown(printed: str, folder: Path) -> str:
    """What a step printed, as the page shows it."""
    printed = printed.replace(str(folder), "notes").replace(f"{Path(sys.executable).parent}/", "")
    return re.sub(r"_[0-9a-f]{8}-\d{8}T\d+Z|-\d{8}T\d+Z", "-20260301T070000000000Z", printed)


@pytest.mark.plugins
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_tutorial_prints_what_it_says(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    port = free_port()
    steps = played(
        PAGE,
        tmp_path,
        without_settings(),
        lambda printed: shown(printed, tmp_path),
        lambda commands: commands.replace("8001", port),
        write=request.config.getoption("--write-table"),
    )
    for step in steps:
        if step.said is not None:
            assert compared(step.printed) == compared(step.said), step
