"""An ASGI application that answers while databases are migrated."""

from automigrator.asgi.gate import Gate

__all__ = ["Gate"]
