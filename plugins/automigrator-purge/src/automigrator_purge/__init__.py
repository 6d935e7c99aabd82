"""The strategy `purge`: replace a database that cannot be migrated by a fresh one."""

from automigrator_purge.strategy import Purge

__all__ = ["Purge"]
