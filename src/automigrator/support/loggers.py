"""Loggers whose records hold nothing that looks like another record, or drives a terminal."""

from __future__ import annotations

import logging

from automigrator.errors import Shown
from automigrator.printable import escaped


def logger_of(name: str) -> logging.Logger:
    """The logger of that name, which escapes what its records are filled with.

    An event's sentence and an error of ours, which may have lines of their own, have escaped
    themselves.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_escaped)
    return logger


def _escaped(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple) and not hasattr(record, "automigrator"):
        record.args = tuple(map(_safe, record.args))
    return True


def _safe(value: object) -> object:
    if isinstance(value, int | float):
        return value
    return str(value) if isinstance(value, Shown) else escaped(value)
