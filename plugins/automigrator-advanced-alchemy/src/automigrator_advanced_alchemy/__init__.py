"""advanced-alchemy's configuration as a target; `automigrator_advanced_alchemy.litestar` is the
plugin for Litestar."""

from automigrator_advanced_alchemy.target import target_of

__all__ = ["target_of"]
