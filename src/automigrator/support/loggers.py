"""Loggers whose records hold nothing that looks like another record, or drives a terminal."""

from __future__ import annotations

import logging

from automigrator.printable import escaped


def logger_of(name: str) -> logging.Logger:
    """The logger of that name, which escapes what its records are filled with.

    An event's sentence, which may have lines of its own, was escaped where it was made.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_escaped)
    return logger


def _escaped(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple) and not hasattr(record, "automigrator"):
        record.args = tuple(
            each if isinstance(each, int | float) else escaped(each) for each in record.args
        )
    return True
