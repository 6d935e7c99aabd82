"""What is told is what is declared, in the source and in the documentation."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.declared_events import misfit

import automigrator
from automigrator.events.catalogue import CATALOGUE, Declared

SOURCE = Path(automigrator.__file__).parent
TABLE = Path(__file__).parents[2] / "docs" / "events.md"
TELLING = {"progress", "_progress", "tell", "self"}
"""What a call that tells an event is made on; `self` is Notifier's own."""


def told() -> set[str]:
    """The name of every event that the source tells."""
    found: set[str] = set()
    for path in set(SOURCE.rglob("*.py")) - set(SOURCE.glob("testing/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            function = node.func
            step = isinstance(function, ast.Attribute) and function.attr == "step"
            name = getattr(function, "attr", getattr(function, "id", ""))
            if name in TELLING or step:
                found |= {
                    argument.value
                    for argument in node.args[: 2 if step else 1]
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                }
    return found


def rows() -> Iterator[tuple[str, tuple[str, ...], str, tuple[str, ...]]]:
    """What the table of the documentation says: name, keys, level, and what each event ends."""
    table = TABLE.read_text("utf-8").partition("| event |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        name, _, keys, level, ends = (cell.strip() for cell in line.strip("|").split(" | "))
        named = tuple(re.findall(r"(?:^|; )`(\w+)`: ", keys))
        yield name.strip("`"), named, level, tuple(re.findall(r"`(.+?)`", ends))


def test_every_event_that_is_told_is_declared_and_the_other_way_round() -> None:
    assert told() == set(CATALOGUE), "declare events in src/automigrator/events/catalogue.py"


def test_the_documentation_describes_every_event_and_its_keys() -> None:
    declared = [
        (
            each.name,
            each.keys,
            "outcome" if each.level is None else logging.getLevelName(each.level),
            each.ends,
        )
        for each in CATALOGUE.values()
    ]
    assert list(rows()) == declared, "describe events in the table of docs/events.md"


def test_every_beginning_has_an_end() -> None:
    ended = {name for declared in CATALOGUE.values() for name in declared.ends}
    assert ended == {name for name in CATALOGUE if name.endswith("-started")} | {"waiting"}


@pytest.mark.parametrize("declared", CATALOGUE.values(), ids=lambda declared: declared.name)
def test_a_sentence_needs_nothing_but_what_is_declared(declared: Declared) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", declared.name)
    assert not {"event", "name", "run", "target", "at", "told"} & set(declared.keys)
    fields = set(re.findall(r"{(\w+)", declared.sentence))
    assert fields <= set(declared.keys)


def test_an_event_that_is_not_declared_is_met_with_where_to_declare_it() -> None:
    assert misfit("stamped", {"revision": "r1"}) is None
    assert "'stampt' is not declared: add it to automigrator/events/catalogue.py" in str(
        misfit("stampt", {})
    )
    assert "undeclared: by; missing: revision" in str(misfit("stamped", {"by": "me"}))


def test_a_record_that_lacks_what_its_sentence_needs_says_the_events_name() -> None:
    assert CATALOGUE["stamped"].said("app", {}, None) == "app: stamped"
    assert CATALOGUE["stamped"].said("app", {"revision": "r1"}, None).endswith("stamped as r1")
    assert CATALOGUE["reached"].said(None, {"waited_s": "long"}, None) == "reached"


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("current", "INFO"), ("cancelled", "INFO"), ("degraded", "WARNING"), ("failed", "ERROR")],
)
def test_how_loud_an_end_is_goes_by_its_outcome(outcome: str, level: str) -> None:
    found = CATALOGUE["run-finished"].level_for({"outcome": outcome})
    assert logging.getLevelName(found) == level
