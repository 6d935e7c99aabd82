"""Every application of `docs/frameworks.md` serves or works only on a migrated database."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import framework_starts as starts
from support.framework_starts import Deployment, Framework, frameworks

SLOW = "import time\ntime.sleep(0.5)"

every_framework = pytest.mark.parametrize("name", frameworks())


@pytest.fixture
def framework(name: str) -> Framework:
    found = frameworks()[name]
    if reason := starts.missing(found, found.command):
        pytest.skip(reason)
    return found


@every_framework
@pytest.mark.long
def test_the_first_request_or_task_finds_the_database_at_its_head(
    framework: Framework, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, framework)
    deployment.deploy(SLOW)
    with (
        deployment.services(),
        deployment.asked(),
        deployment.start(framework.command) as start,
    ):
        assert start.first_answer() == starts.HEAD, start.printed()


def test_every_application_of_the_page_is_started() -> None:
    blocks = starts.PAGE.read_text("utf-8").count("```python\n")
    assert len(frameworks()) == blocks > 10
    for each in frameworks().values():
        compile(each.source + each.asks, each.name, "exec")
