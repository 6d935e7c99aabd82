"""The cases that automigrator has for every backend."""

from __future__ import annotations

import pytest

from automigrator.testing import BackendConformance

pytestmark = pytest.mark.long("postgresql")


class TestOurs(BackendConformance):
    databases = ("sqlite", "postgresql")
