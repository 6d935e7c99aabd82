"""Hooks: what plugins may implement, and how their implementations are called."""

from automigrator.hooks.registry import Around, HookError, Hooks, untold
from automigrator.hooks.spec import hookimpl, hookspec

__all__ = ["Around", "HookError", "Hooks", "hookimpl", "hookspec", "untold"]
