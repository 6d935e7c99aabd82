"""The cases that automigrator has for every recovery strategy."""

from __future__ import annotations

import pytest

from automigrator.testing import StrategyConformance

pytestmark = pytest.mark.long("postgresql", "any_moment")


class TestLogAndContinue(StrategyConformance):
    name = "log-and-continue"
