"""Hooks: what plugins may implement, and how their implementations are called."""

from automigrator.hooks.calling import Around, HookError, untold
from automigrator.hooks.grace import acting
from automigrator.hooks.registry import Hooks
from automigrator.hooks.spec import hookimpl, hookspec

__all__ = ["Around", "HookError", "Hooks", "acting", "hookimpl", "hookspec", "untold"]
