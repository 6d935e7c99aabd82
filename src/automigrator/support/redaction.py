"""Errors for people: without the values of rows, and without passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import DBAPIError, StatementError

from automigrator.printable import escaped_lines
from automigrator.support.error_chain import chain
from automigrator.support.secrets import cut, scrubbed

STATEMENT_LIMIT = 2000

"""Characters of a statement that a failure keeps."""

_HIDDEN = "(value hidden)"

_ENGLISH = (
    r"(invalid input (?:for query argument \$\d{1,9}|syntax for [\w ]{1,80}"
    r"|value for enum [\w.\" ]{1,200})|invalid literal for [\w() ]{1,80}? with base \d{1,9}"
    r"|could not convert string to float|Invalid isoformat string): .*"
)

"""How drivers, the server and Python quote a value, which may be personal data."""

_DATA_EXCEPTION = "22"

"""The class of SQLSTATE whose messages quote the value, in the server's language."""

_ALWAYS = ("args", "__notes__", "statement")

_SHOWN = ("strerror", "filename", "filename2", "msg", "reason")
"""Where Python's own errors keep what they show, beside their arguments."""

_QUOTED = '["»«„“”].*["»«„“”]'


def first_line(error: BaseException) -> str:
    """The text of an error: only the first line of a driver's, as data may stand below it."""
    source: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        source = error.orig
    text = _without_data(source, str(source))
    text = re.sub(r"^<class '(?:\w{1,80}\.){0,20}(\w{1,80})'>: ", r"\1: ", text)
    name = type(source).__name__
    if name == "Error" and source.__cause__ is not None:
        name = type(source.__cause__).__name__  # asyncpg's own, behind SQLAlchemy's for all
    return text if text.startswith(name) else f"{name}: {text}" if text else name


def said(error: BaseException, secrets: Sequence[str]) -> str:
    """The text of an error, without the values of rows and without `secrets`."""
    ours = type(error).__module__.startswith("automigrator")
    text = str(error) if ours else first_line(error)
    return scrubbed(text, *secrets)


def statement_of(error: BaseException, secrets: Sequence[str]) -> str | None:
    """The SQL that failed, without its parameters and without `secrets`."""
    for each in chain(error):
        statement = getattr(each, "statement", None)  # SQLAlchemy's, and our own
        if isinstance(statement, str) and statement:
            return scrubbed(statement.strip()[:STATEMENT_LIMIT], *secrets)
    return None


def hide_secrets(error: BaseException, secrets: Sequence[str]) -> None:
    """Remove rows, parameters and `secrets` from the error, wherever it is printed later.

    What drives a terminal is escaped. New lines stay: a traceback has many lines anyway.
    """
    _hide_values(error)

    def clean(value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(map(clean, value))
        if type(value) is dict:
            return {key: clean(each) for key, each in value.items()}
        return escaped_lines(scrubbed(value, *secrets)) if isinstance(value, str) else value

    errors = list(chain(error))
    for each in errors:
        errors += [e for e in each.args if isinstance(e, BaseException) and e not in errors]
        text = _text_of(each)
        slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in ("args", "__notes__", *_SHOWN, *slots, *getattr(each, "__dict__", ())):
            with suppress(Exception):  # a property of another's class, a value of its own kind
                value = getattr(each, name, None)
                if (name in _ALWAYS or _is_in(value, text)) and (cleaned := clean(value)) != value:
                    setattr(each, name, cleaned)


def _text_of(error: BaseException) -> str:
    with suppress(Exception):
        return str(error)
    return ""


def _is_in(value: object, text: str) -> bool:
    if isinstance(value, list | tuple | dict):
        values = value.values() if isinstance(value, dict) else value
        return any(_is_in(each, text) for each in values)
    return isinstance(value, str) and value in text


def _hide_values(error: BaseException) -> None:
    for each in chain(error):
        if isinstance(each, StatementError):
            each.hide_parameters = True
        if each.args and isinstance(each.args[0], str) and re.search(_ENGLISH, cut(each.args[0])):
            each.args = (_without_data(each, each.args[0]), *each.args[1:])
    for each in list(_of_the_driver(error)):
        if each.args and isinstance(each.args[0], str):
            each.args = (_without_data(each, each.args[0]), *each.args[1:])
        for below in ("detail", "context"):  # asyncpg prints them under the message
            if isinstance(getattr(each, below, None), str):
                setattr(each, below, None)


def _of_the_driver(error: BaseException) -> Iterator[BaseException]:
    """SQLAlchemy's wrappers, what they wrap and its causes, and what a server answered."""
    for each in chain(error):
        if isinstance(each, DBAPIError):
            yield each
            inner: BaseException | None = each.orig
            while inner is not None:
                yield inner
                inner = inner.__cause__
        elif isinstance(getattr(each, "sqlstate", None), str):
            yield each


def _without_data(error: BaseException, text: str) -> str:
    lines = cut(text.strip()).splitlines()
    line = re.sub(_ENGLISH, rf"\1: {_HIDDEN}", lines[0]) if lines else ""
    origin = getattr(error, "orig", None) or error
    if str(getattr(origin, "sqlstate", None) or "").startswith(_DATA_EXCEPTION):
        line = re.sub(_QUOTED, _HIDDEN, line)
    return line
