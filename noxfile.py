"""The project's sessions; `nox` alone runs the whole suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

GROUPS = nox.project.load_toml("pyproject.toml")

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "tests"]


def expose_pyenv() -> None:
    """Put pyenv's real interpreters on PATH, before shims that refuse to run."""
    shims = shutil.which("pyenv") and subprocess.run(
        ["pyenv", "root"], capture_output=True, text=True, check=False
    )
    roots = [Path(shims.stdout.strip())] if shims and shims.returncode == 0 else []
    parts = os.environ.get("PATH", "").split(os.pathsep)
    roots += [Path(part).parent for part in parts if Path(part).name == "shims"]
    found = dict.fromkeys(
        str(b) for root in roots for b in sorted(root.glob("versions/3.1[1-9]*/bin"))
    )
    os.environ["PATH"] = os.pathsep.join([*found, *parts])


def found_pythons() -> list[str]:
    """The supported Pythons that start on this machine; never empty, never one that is missing."""
    return [
        version
        for version in ("3.11", "3.12", "3.13", "3.14")
        if (path := shutil.which(f"python{version}"))
        and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]


def group(*names: str) -> list[str]:
    return list(nox.project.dependency_groups(GROUPS, *names))


expose_pyenv()


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=found_pythons() or None)
def tests(session: nox.Session) -> None:
    session.install("-e", ".", *group("test"))
    session.run("python", "-m", "pytest", *session.posargs)
