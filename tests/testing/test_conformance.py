"""The cases that automigrator has for every backend."""

from __future__ import annotations

import pytest

from automigrator.testing import BackendConformance

pytestmark = pytest.mark.long(
    "postgresql", "pruning_deletes", "killed_while_the_side", "killed_while_it_restores"
)


class TestOurs(BackendConformance):
    databases = ("sqlite", "postgresql")
