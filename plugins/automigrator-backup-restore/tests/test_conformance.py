"""The cases that automigrator has for every recovery strategy."""

from __future__ import annotations

import pytest

from automigrator.testing import StrategyConformance

pytestmark = pytest.mark.long(
    "postgresql",
    "killed_at_any_moment",
    "cancelled_at_any_moment",
    "passes_before",
    "no_secret",
    "repaired_deployment",
)


class TestBackupRestore(StrategyConformance):
    name = "backup-restore"
