"""The strategy `log-and-continue`: a critical record, and the application starts."""

from automigrator_log_and_continue.strategy import LogAndContinue

__all__ = ["LogAndContinue"]
