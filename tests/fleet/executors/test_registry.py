"""Executors by the name that a fleet gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from automigrator.errors import ConfigurationError, PluginError
from automigrator.fleet.executors import registry
from automigrator.fleet.executors.processes import Processes
from automigrator.fleet.executors.registry import load
from automigrator.fleet.executors.shards import Shards


def test_a_name_a_name_with_options_and_an_executor_are_taken() -> None:
    assert isinstance(load("processes"), Processes)
    shards = load(("shards", {"index": 1, "count": 3}))
    assert isinstance(shards, Shards) and (shards.index, shards.count) == (1, 3)
    assert load(shards) is shards


def test_every_executor_of_the_core_is_there() -> None:
    for name in registry.BUILT_IN:
        with pytest.raises(PluginError, match=f"executor '{name}': .*Its options: "):
            load((name, {"surely_none": 1}))


def test_only_what_is_named_is_imported() -> None:
    code = "import sys, automigrator.fleet.executors.registry; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "automigrator.fleet.executors.claims" not in out.stdout.split()
    assert "distributed" not in out.stdout.split()


def test_one_that_is_not_installed_is_an_error_that_says_what_is() -> None:
    with pytest.raises(PluginError, match=r"no executor 'procceses' .* did you mean processes\?"):
        load("procceses")


def test_wrong_options_are_refused_in_words() -> None:
    with pytest.raises(PluginError, match=r"did you mean workers\? Its options: workers, tasks"):
        load(("processes", {"worker": 2}))
    with pytest.raises(PluginError, match="workers is a whole number from 1 on, not 0"):
        load(("processes", {"workers": 0}))


@pytest.mark.parametrize("spec", [None, 3, ["processes"], ("processes",), {"processes": {}}])
def test_what_is_none_of_these_is_refused(spec: object) -> None:
    with pytest.raises(ConfigurationError, match="executor= is a "):
        load(spec)  # type: ignore[arg-type]


def test_a_class_is_not_an_executor() -> None:
    with pytest.raises(PluginError, match=r"pass Processes\(\.\.\.\), not Processes"):
        load(Processes)  # type: ignore[arg-type]
