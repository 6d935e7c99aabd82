"""Hooks: what plugins may implement, and how their implementations are called."""

from automigrator.hooks.registry import HookError, Hooks
from automigrator.hooks.spec import hookimpl, hookspec

__all__ = ["HookError", "Hooks", "hookimpl", "hookspec"]
