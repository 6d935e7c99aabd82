"""The strategy `purge`: a fresh database takes the place of one that fails to migrate."""

from automigrator_purge.strategy import Purge

__all__ = ["Purge"]
