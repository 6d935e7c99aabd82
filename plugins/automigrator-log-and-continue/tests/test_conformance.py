"""The cases that automigrator has for every recovery strategy."""

from __future__ import annotations

import pytest

from automigrator.testing import StrategyConformance

pytestmark = pytest.mark.long(
    "postgresql",
    "any_moment",
    "several_databases",
    "passes_before",
    "repaired",
    "in_the_way",
    "without_a_loop",
    "not_blocked",
    "no_secret",
    "next_is_asked",
)
"""What the suite finds out with one strategy, backup-restore, counts for the quick run."""


class TestLogAndContinue(StrategyConformance):
    name = "log-and-continue"
