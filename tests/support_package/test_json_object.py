"""Frozen values written as JSON objects and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from automigrator.frozen import Frozen
from automigrator.support import json_object


class Part(Frozen):
    name: str
    schema: str | None = None


class Whole(Frozen):
    state: Literal["open", "closed"]
    parts: tuple[Part, ...]
    triples: tuple[tuple[str, str, str], ...] = ()
    key: int | None = None
    at: float = 0.0
    atomic: bool = False
    facts: tuple[Mapping[str, Any], ...] = ()


WHOLE = Whole("open", (Part("a"), Part("b", "s")), (("x", "y", "z"),), 7, 1.5, True, ({"n": 1},))


def test_a_dumped_value_reads_back_the_same() -> None:
    assert json_object.read(Whole, json.loads(json_object.dumped(WHOLE))) == WHOLE


def test_missing_keys_take_their_defaults_and_unknown_ones_are_passed_over() -> None:
    data = {"state": "closed", "parts": [{"name": "a"}], "new": 1}
    assert json_object.read(Whole, data) == Whole("closed", (Part("a"),))
    with pytest.raises(ValueError, match="does not know what it says of new"):
        json_object.read(Whole, data, strict=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"state": "ajar"},
        {"state": ["open"]},
        {"parts": "ab"},
        {"parts": ["a"]},
        {"parts": [{"schema": "s"}]},
        {"triples": [["x", "y"]]},
        {"key": "7"},
        {"key": True},
        {"at": float("nan")},
        {"at": float("inf")},
        {"at": 10**400},
        {"at": True},
        {"atomic": 1},
        {"facts": [[("n", 1)]]},
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(bad: dict[str, Any]) -> None:
    name = "name" if bad == {"parts": [{"schema": "s"}]} else next(iter(bad))
    with pytest.raises(ValueError, match=name):
        json_object.read(Whole, json.loads(json_object.dumped(WHOLE)) | bad)


@pytest.mark.parametrize("data", [None, [], "text", 1])
def test_a_value_that_is_not_an_object_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        json_object.read(Whole, data)
