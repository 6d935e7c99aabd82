"""What the tests of spans and metrics share."""

from __future__ import annotations

import pytest
from support.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()
