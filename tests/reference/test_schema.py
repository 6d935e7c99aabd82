"""The JSON Schema of `--json`: made from the types, and true of all that the commands print.

Each document that a test of the command line reads is compared with it, too, by `Ended.document`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy

import click
import pytest
from jsonschema import Draft202012Validator
from support.json_schema import FILE, RESULTS, misfit, schema
from support.pages import BLOCK, DOCS

from automigrator.cli.commands import automigrator

DOCUMENTS = [
    json.loads(text)
    for language, text in BLOCK.findall((DOCS / "reference" / "interfaces.md").read_text("utf-8"))
    if language == "json"
]
"""One of each command, which `test_interfaces.py` has printed."""


def test_the_file_is_made_from_the_types(request: pytest.FixtureRequest) -> None:
    made = f"{json.dumps(schema(), indent=1, ensure_ascii=False)}\n"
    if request.config.getoption("--write-table"):
        FILE.write_text(made, "utf-8")
    assert FILE.read_text("utf-8") == made, "pytest tests/reference/test_schema.py --write-table"


def test_it_is_a_schema_of_2020_12() -> None:
    Draft202012Validator.check_schema(json.loads(FILE.read_text("utf-8")))


def test_it_knows_each_command() -> None:
    assert set(RESULTS) == set(commands(automigrator))


def commands(group: click.Command, path: str = "") -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each["command"])
def test_a_document_of_the_page_is_as_it_says(document: object) -> None:
    assert not misfit(document)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"outcome": "fine"}, "$.result.targets[0].outcome: 'fine' is not one of "),
        ({"attempts": "1"}, "$.result.targets[0].attempts: '1' is not of type 'integer'"),
        ({"colour": "red"}, "('colour' was unexpected)"),
    ],
    ids=["word", "type", "key"],
)
def test_what_differs_is_told(changed: dict[str, object], told: str) -> None:
    document = deepcopy(next(each for each in DOCUMENTS if each["command"] == "run"))
    document["result"]["targets"][0] |= changed
    assert told in misfit(document)
