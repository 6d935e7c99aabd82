"""The cases that automigrator has for every recovery strategy."""

from __future__ import annotations

import pytest
from support.conformance_cases import ASKED_OF_ONE

from automigrator.testing import StrategyConformance

pytestmark = pytest.mark.long(*ASKED_OF_ONE, "nothing_pending", "rolled_back")


class TestLogAndContinue(StrategyConformance):
    name = "log-and-continue"
