"""The examples of the documentation, run as a user's test modules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[3]
PAGES = (
    ROOT / "docs" / "testing-your-migrations.md",
    ROOT / "plugins/pytest-automigrator/README.md",
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tests_of_a_page_pass(project: Any, page: Path) -> None:
    project.lay()
    for number, block in enumerate(BLOCK.findall(page.read_text("utf-8"))):
        name = "conftest.py" if "@pytest.fixture" in block else f"test_block_{number}.py"
        (project.folder / name).write_text(block)
    assert project.run().parseoutcomes().keys() == {"passed", "skipped"}


def test_the_table_of_options_is_complete_and_its_examples_are_taken(
    pytester: pytest.Pytester,
) -> None:
    from pytest_automigrator.settings import OPTIONS, read

    options = PAGES[0].read_text("utf-8").partition("## Options")[2]
    examples = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^`]+)` \|$", options, re.MULTILINE))
    assert list(examples) == list(OPTIONS)
    lines = [f"automigrator_{name} = {example}\n" for name, example in examples.items()]
    (pytester.path / "pyproject.toml").write_text("".join(["[tool.pytest.ini_options]\n", *lines]))
    (pytester.path / "backend").mkdir()
    (pytester.path / "backend" / "alembic.ini").touch()
    taken = read(pytester.parseconfig())
    assert taken.databases == ("sqlite", "postgresql") and taken.app == "shop.main:migrator"
    assert (taken.starts, taken.round_trips, taken.recovery) == (None, 10, ("purge",))


@pytest.mark.parametrize(
    "module", ["pytest_automigrator.tests", "pytest_automigrator.faults.tests"]
)
def test_the_tables_of_tests_are_complete(module: str) -> None:
    from importlib import import_module

    names = import_module(module).__all__
    listed = re.findall(r"^\| `(test_\w+)`", PAGES[0].read_text("utf-8"), re.MULTILINE)
    assert set(names) <= set(listed)
