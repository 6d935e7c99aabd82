"""The cases that automigrator has for every recovery strategy."""

from __future__ import annotations

from automigrator.testing import StrategyConformance


class TestLogAndContinue(StrategyConformance):
    name = "log-and-continue"
