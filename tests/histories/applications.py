"""The Alembic histories that released applications ship, and how each application begins one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from histories import alchemy, beginnings
from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class Application:
    """One history and one way of beginning it.

    `config` is made as the application makes its own, for a URL and a folder to write in. Before
    the update, plain Alembic ran as far as `begun`, `tables` filled the database, and `stamped`
    was stamped there. `revision` is how far to go; `bootstrap` and `baseline` are a Target's.
    `databases` are those on which plain Alembic can do it. `program` is a script that its operator
    runs in the place of `alembic`, with the act, its engine's URL, the folder and the revision.
    """

    name: str
    start: str
    config: Callable[[str, Path], Config]
    version_table: str = "alembic_version"
    begun: str | None = None
    tables: Callable[[str], None] | None = None
    stamped: str | None = None
    revision: str = "head"
    bootstrap: Callable[[Connection], str | None] | None = None
    baseline: str | None = None
    databases: tuple[str, ...] = ("sqlite", "postgresql")
    program: Path | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.start}"


def _optuna(url: str, folder: Path) -> Config:
    import optuna.storages._rdb.models as models

    config = Config(Path(models.__file__).with_name("alembic.ini"))
    config.set_main_option("script_location", str(Path(models.__file__).with_name("alembic")))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def _mlflow(url: str, folder: Path) -> Config:
    from mlflow.store.db.utils import _get_alembic_config

    return _get_alembic_config(url)


def _mlflow_auth(url: str, folder: Path) -> Config:
    from mlflow.server.auth.db.utils import _get_alembic_config

    return _get_alembic_config(url)


def _jupyterhub(url: str, folder: Path) -> Config:
    from jupyterhub.dbutil import write_alembic_ini

    write_alembic_ini(str(folder / "jupyterhub.ini"), url)
    return Config(folder / "jupyterhub.ini")


def _alchemy_async(url: str, folder: Path) -> Config:
    return alchemy.commands(alchemy.with_async_driver(url), folder).config


def _alchemy_sync(url: str, folder: Path) -> Config:
    return alchemy.commands(url, folder).config


OLDEST_JUPYTERHUB = Application(
    "jupyterhub",
    "tables of 0.6.1, unversioned: `baseline`",
    _jupyterhub,
    tables=beginnings.jupyterhub_tables("0.6.1"),
    baseline="base",
    revision="56cc5a70207e",
)
CANNOT_RUN = "99a28a4418e1"
"""JupyterHub's revision after that one calls a method that no datetime has."""

APPLICATIONS = (
    Application("optuna", "an empty database", _optuna),
    Application(
        "optuna",
        "a study at its first revision",
        _optuna,
        begun="v0.9.0.a",
        tables=beginnings.optuna_trials,
        databases=("sqlite",),  # v2.4.0.a creates an enum that v0.9.0.a made in another run
    ),
    Application(
        "optuna", "`bootstrap`: create_all, stamp", _optuna, bootstrap=beginnings.optuna_now
    ),
    Application(
        "mlflow", "`bootstrap`: its initial tables", _mlflow, bootstrap=beginnings.mlflow_initial
    ),
    Application(
        "mlflow",
        "a run in 0.9.1's tables, unversioned: `baseline`",
        _mlflow,
        tables=beginnings.mlflow_run,
        baseline="base",
    ),
    Application(
        "mlflow.server.auth",
        "an empty database",
        _mlflow_auth,
        version_table="alembic_version_auth",
    ),
    OLDEST_JUPYTERHUB,
    Application(
        "jupyterhub",
        "a database of 0.9.0b1",
        _jupyterhub,
        tables=beginnings.jupyterhub_tables("0.9.0b1"),
        stamped="d68c98b66cd4",
    ),
    Application(
        "jupyterhub",
        "`bootstrap`: create_all, stamp",
        _jupyterhub,
        bootstrap=beginnings.jupyterhub_now,
    ),
    Application(
        "advanced_alchemy",
        "an empty database, its async env.py",
        _alchemy_async,
        version_table="alembic_versions",
        program=Path(alchemy.__file__),
    ),
    Application(
        "advanced_alchemy",
        "an empty database, its sync env.py",
        _alchemy_sync,
        version_table="alembic_versions",
        program=Path(alchemy.__file__),
    ),
)


def begin(application: Application, url: str, folder: Path) -> None:
    """Fill a database with what stood there before the update; `url` is a sync one."""
    if application.begun is not None:
        plain_alembic(application, url, folder, "upgrade", application.begun)
    if application.tables is not None:
        application.tables(url)
    if application.stamped is not None:
        plain_alembic(application, url, folder, "stamp", application.stamped)


def migrate_plainly(application: Application, url: str, folder: Path) -> None:
    """What the application's operator does without automigrator."""
    if application.bootstrap is not None:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            revision = application.bootstrap(connection)
        engine.dispose()
        if revision is not None:
            plain_alembic(application, url, folder, "stamp", revision)
    plain_alembic(application, url, folder, "upgrade", application.revision)


def plain_alembic(application: Application, url: str, folder: Path, *arguments: str) -> None:
    """Run Alembic's own command line, or the application's. Raises CalledProcessError."""
    folder.mkdir(exist_ok=True)
    config = application.config(url, folder)
    if application.program is not None:
        act, revision = arguments
        command = [str(application.program), act, config.db_url, str(folder), revision]
    else:
        ini = folder / "plain.ini"
        with ini.open("w", encoding="utf-8") as text:
            config.file_config.write(text)
        command = ["-m", "alembic", "-c", str(ini), *arguments]
    subprocess.run([sys.executable, *command], cwd=folder, check=True)
