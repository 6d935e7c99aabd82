"""Which modules of the application a file imports, found by the text alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from automigrator.migrations.static.imports import imported

APPLICATION = {
    "app/__init__.py": "",
    "app/models.py": "from . import base\nfrom .parts.names import (  # the rest\n    FIRST,\n)\n",
    "app/base.py": "import sqlalchemy",
    "app/parts/names.py": "from ..deep import x as y\nimport json",
    "app/deep.py": "import helper, other.thing as thing",
    "app/unused.py": "",
    "helper.py": "from app import models",
    "other/thing.py": "raise SystemExit('nothing is imported')",
}
ALL = ["app", "app.base", "app.deep", "app.models", "app.parts.names", "helper", "other.thing"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in APPLICATION.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path


def found(root: Path, text: str, *, at: str = "env.py") -> list[str]:
    path = root / at
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return list(imported({str(path): path.read_bytes()}, [str(root)]))


@pytest.mark.parametrize(
    "text",
    [
        "import app.models",
        "from app import models",
        "from app.models import Base",
        "def upgrade():\n    from app \\\n        import models as m",
        "try:\n\timport helper\nexcept ImportError: pass",
        "import os, helper",
        "import helper; helper",
        "this is no Python (\nimport helper",
    ],
)
def test_an_import_is_followed_to_all_that_comes_with_it(root: Path, text: str) -> None:
    assert found(root, text) == ALL
    assert {"app", "helper", "other"}.isdisjoint(sys.modules)


@pytest.mark.parametrize(
    "text",
    ["", "import alembic", "from sqlalchemy import text", "import absent.app", "from . import app"],
)
def test_what_is_not_the_applications_is_left_out(root: Path, text: str) -> None:
    assert found(root, text) == []


def test_an_application_that_is_installed_as_a_package_is_its_own(root: Path) -> None:
    installed = root / "lib" / "site-packages"
    for name in ("shop/__init__.py", "shop/tables.py", "stranger.py"):
        path = installed / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import stranger", "utf-8")
    env = installed / "shop" / "migrations" / "env.py"
    env.parent.mkdir()
    text = b"import shop.tables, stranger"
    assert list(imported({str(env): text}, [str(installed)])) == ["shop", "shop.tables"]
    assert list(imported({str(root / "env.py"): text}, [str(installed)])) == []


def test_a_module_on_the_path_of_the_process_is_found(root: Path) -> None:
    code = (
        "from automigrator.migrations.static.imports import imported\n"
        f"print(*imported({{{str(root / 'app' / 'models.py')!r}: b'import helper'}}, []))"
    )
    (root / "app" / "models.py").write_text("import helper", "utf-8")
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(root)!r})\n{code}"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown.split() == ["app", "app.models", "helper"]
