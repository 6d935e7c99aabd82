"""The strategy `log-and-continue`: log one critical record and let the application start."""

from automigrator_log_and_continue.strategy import LogAndContinue

__all__ = ["LogAndContinue"]
