"""The cases that automigrator has for every recovery strategy."""

from __future__ import annotations

import pytest
from support.conformance_cases import ASKED_OF_ONE

from automigrator.testing import StrategyConformance

pytestmark = pytest.mark.long(*ASKED_OF_ONE, "rolled_back", "after_one_that_was_committed")


class TestPurge(StrategyConformance):
    name = "purge"
