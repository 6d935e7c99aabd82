"""The cases that automigrator has for every backend."""

from __future__ import annotations

from automigrator.testing import BackendConformance


class TestOurs(BackendConformance):
    databases = ("sqlite", "postgresql")
