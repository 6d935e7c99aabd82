"""Checked by mypy, never run: what a type checker lets an application pass as `config`."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config

from automigrator import Target
from automigrator.target import AlembicConfig


class OwnConfig(Config):
    """A subclass, as applications write them."""


def a_config_of_alembic_is_one(config: Config) -> AlembicConfig:
    return config


def targets(url: str) -> list[Target]:
    return [
        Target(url, Config("alembic.ini")),
        Target(url, OwnConfig()),
        Target(url, "alembic.ini"),
        Target(url, Path("migrations")),
        Target(url, {"script_location": "migrations"}),  # type: ignore[arg-type]  # no mapping
    ]
