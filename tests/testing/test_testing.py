"""The suites in somebody else's project, whatever its pytest is configured to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long("neither_needs_pytest")

SUITE = """
import unittest

from automigrator import Decision, hookimpl
from automigrator.testing import StrategyConformance


class Aborting:
    @hookimpl
    async def on_failure(self) -> Decision:
        return Decision.ABORT


class TestAborting(StrategyConformance{more}):
    databases = ("sqlite",)

    def make(self):
        return Aborting()
"""
SCOPE = ["-o", "asyncio_default_fixture_loop_scope=function"]
PLAIN = ["-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist"]
CASES = "asked or answered or nothing_pending or killed or unknown or does_not_know"


def ran(folder: Path, *arguments: str, more: str = "") -> str:
    (folder / "test_mine.py").write_text(SUITE.format(more=more), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-k", CASES]
    ended = subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [*SCOPE, "-o", "asyncio_mode=strict"],
        [*SCOPE, "-o", "asyncio_mode=auto", "--import-mode=importlib"],
        PLAIN,
    ],
    ids=["strict", "auto", "plain"],
)
@pytest.mark.long
def test_an_authors_pytest_is_not_in_the_way(arguments: list[str], tmp_path: Path) -> None:
    assert "4 passed, 1 skipped" in ran(tmp_path, *arguments)


@pytest.mark.long
def test_a_unittest_case_may_inherit(tmp_path: Path) -> None:
    assert "4 passed, 1 skipped" in ran(tmp_path, *PLAIN, more=", unittest.TestCase")


@pytest.mark.long
def test_without_a_server_the_cases_of_postgresql_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOMIGRATOR_TEST_POSTGRES", raising=False)
    source = SUITE.replace('("sqlite",)', '("postgresql",)').format(more="")
    (tmp_path / "test_theirs.py").write_text(source, "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-k", "its_hooks"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 skipped" in ended.stdout, ended.stdout
    assert "no PostgreSQL: set AUTOMIGRATOR_TEST_POSTGRES, or define" in ended.stdout


def test_a_kind_that_nobody_opens_is_named(tmp_path: Path) -> None:
    from automigrator.testing import BackendConformance

    class Unknown(BackendConformance):
        __test__ = False

    with (
        pytest.raises(ValueError, match="'oracle' is not sqlite or postgresql: override"),
        Unknown().opened("oracle", tmp_path, lambda name: None),
    ):
        pass


def imports(code: str) -> str:
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def test_the_core_neither_needs_pytest_nor_imports_the_suites() -> None:
    told = imports(
        "import sys, automigrator, automigrator.runner.pipeline\n"
        "import automigrator.runner.operations.status\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pytest', '_pytest')"
        " or m.startswith('automigrator.testing')])"
    )
    assert told.strip() == "[]"


def test_without_pytest_it_is_said_what_to_install() -> None:
    told = imports("import sys; sys.modules['pytest'] = None; import automigrator.testing")
    assert "automigrator.testing needs pytest: pip install automigrator[testing]" in told
