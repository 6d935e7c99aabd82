from __future__ import annotations

from pathlib import Path
from subprocess import CalledProcessError
from urllib.error import URLError

import pytest
from sqlalchemy.exc import IntegrityError
from support.canaries import PASSWORD, ROW, printed

from automigrator import Target
from automigrator.support.redaction import hide_secrets, statement_of
from automigrator.target import passwords_of


@pytest.fixture
def target(tmp_path: Path) -> Target:
    url = "postgresql+asyncpg://me:{}@host/app".format(
        PASSWORD.replace("/", "%2F").replace("@", "%40")
    )
    return Target(url, tmp_path)


def duplicate() -> IntegrityError:
    told = f"duplicate key\nDETAIL:  Key (text)=({ROW}) already exists."
    return IntegrityError("INSERT INTO notes VALUES (:text)", {"text": ROW}, Exception(told))


def test_an_error_that_is_printed_with_all_that_led_to_it_tells_no_secret(target: Target) -> None:
    error = RuntimeError("the revision failed")
    error.__cause__ = duplicate()
    error.__cause__.__context__ = ConnectionError(
        f"cannot use {target.application_url!s} {PASSWORD}"
    )
    error.add_note(f"with the password {PASSWORD}")
    hide_secrets(error, passwords_of(target))
    text = printed(error)
    assert PASSWORD not in text and ROW not in text
    assert "duplicate key" in text and "with the password ***" in text


def test_the_errors_of_a_group_tell_no_secret(target: Target) -> None:
    error = ExceptionGroup("tasks of env.py", [duplicate(), RuntimeError(PASSWORD)])
    hide_secrets(error, passwords_of(target))
    text = printed(error)
    assert PASSWORD not in text and ROW not in text and "duplicate key" in text
    assert statement_of(error, passwords_of(target)) == "INSERT INTO notes VALUES (:text)"


class Own(Exception):
    """An error that shows an attribute of its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class Slotted(Exception):
    __slots__ = ("text",)
    __init__, __str__ = Own.__init__, Own.__str__


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, f"cannot open {PASSWORD}", f"/of/{PASSWORD}"),
        KeyError(("dsn", PASSWORD)),
        ValueError({"dsn": PASSWORD}),
        ImportError(f"no {PASSWORD}", name="driver"),
        CalledProcessError(1, ["psql", PASSWORD]),
        Own(f"with {PASSWORD}"),
        Slotted(f"with {PASSWORD}"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, f"with {PASSWORD}"),
        URLError(OSError(f"with {PASSWORD}")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_error_shows_beside_its_text_is_freed_of_secrets(
    error: Exception, target: Target
) -> None:
    hide_secrets(error, passwords_of(target))
    assert PASSWORD not in printed(error) and "***" in printed(error)


def test_an_error_of_others_drives_no_terminal_in_a_traceback(target: Target) -> None:
    error = RuntimeError("a\x1b[2Jb\u202ec\nd")
    error.add_note("\x9b2J")
    hide_secrets(error, passwords_of(target))
    assert str(error) == "a\\x1b[2Jb\\u202ec\nd"
    assert printed(error).replace("\n", "").isprintable()


def test_an_error_without_a_secret_stays_as_it_is(target: Target) -> None:
    error = ValueError("no luck", 3)
    hide_secrets(error, passwords_of(target))
    assert error.args == ("no luck", 3)


def test_a_statement_that_sets_the_targets_password_is_told_without_it(target: Target) -> None:
    error = IntegrityError(f"ALTER ROLE me PASSWORD '{PASSWORD}'", None, Exception("refused"))
    assert statement_of(error, passwords_of(target)) == "ALTER ROLE me PASSWORD '***'"
