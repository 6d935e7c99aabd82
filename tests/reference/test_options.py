"""Options: the reference has each of them, with a meaning, a default and an example that runs."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import DOCS, furnish, script

from automigrator import asgi

pytestmark = pytest.mark.plugins

PAGES = ("migrator", "target", "gate", "fleet", "plugins")
"""What applications make; the other pages have what they are given."""

conf = script("conf")
LISTED = re.compile(rf"(?:{conf.OPTION.pattern})|^ {{4,}}(\w+): ", re.MULTILINE)


def documented() -> Iterator[tuple[str, Any]]:
    """Whatever these pages document, by its name."""
    for page in PAGES:
        text = (DOCS / "reference" / f"{page}.rst").read_text("utf-8")
        for path in re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)", text, re.MULTILINE):
            module, _, name = path.rpartition(".")
            yield name, getattr(importlib.import_module(module), name)


def options(thing: Any) -> list[str]:
    """The names that are given by keyword; `*targets` and `**options` are told in words."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(thing).parameters.values()
    return [each.name for each in parameters if each.kind not in kinds]


@pytest.mark.parametrize(
    ("name", "thing"), [*documented()], ids=lambda value: getattr(value, "__module__", value)
)
class TestEachOption:
    def test_has_an_example(self, name: str, thing: Any) -> None:
        assert set(options(thing)) - conf.EXAMPLES[name].keys() == set()

    def test_is_told_of(self, name: str, thing: Any) -> None:
        told = LISTED.findall(inspect.getdoc(thing) or "")
        assert set(options(thing)) - set(re.findall(r"\w+", str(told))) == set()


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    page = Path(asgi.__file__).with_name("page.html")
    (tmp_path / "page.html").write_text(page.read_text("utf-8"), "utf-8")
    runpy.run_path(str(DOCS / "reference" / "examples.py"))


def test_the_site_shows_meaning_default_and_example() -> None:
    lines = ["Does it.", "", "Arguments:", "    keep: how many stay.", "        All of them."]
    things = dict(documented())
    conf.set_out(None, "class", "automigrator_purge.Purge", things["Purge"], None, lines)
    assert "\n".join(lines) == (
        "Does it.\n\n\n\n`keep`\n   how many stay.\n   All of them.\n   Default: ``keep=None``.\n"
        "   Example: ``keep=2``."
    )
