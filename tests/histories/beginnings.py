"""What stands in a database before its application is updated: old tables, and rows in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

OLD_RELEASES = "AUTOMIGRATOR_OLD_JUPYTERHUB"
"""Names the folder that holds one folder per unpacked old release of JupyterHub."""

_UNIFORM = '{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 1.0}}'
_INT = '{"name": "IntUniformDistribution", "attributes": {"low": 1, "high": 9, "step": 2}}'


def jupyterhub_tables(release: str) -> Callable[[str], None]:
    """The tables that an old release makes, and a user."""

    def make(url: str) -> None:
        folder = Path(os.environ[OLD_RELEASES]) / release
        subprocess.run(
            [sys.executable, Path(__file__).with_name("old_tables.py"), url],
            env={**os.environ, "PYTHONPATH": str(folder)},
            check=True,
        )

    return make


def jupyterhub_now(connection: Connection) -> str:
    """How JupyterHub begins a new database."""
    from jupyterhub.orm import Base

    Base.metadata.create_all(connection)
    return "head"


def optuna_now(connection: Connection) -> str:
    """How Optuna begins a new database."""
    from optuna.storages._rdb.models import BaseModel

    BaseModel.metadata.create_all(connection)
    return "head"


def optuna_trials(url: str) -> None:
    """A study with two trials, as Optuna 0.19 kept them, in the tables of the first revision."""
    _insert(
        url,
        {
            "studies": [{"study_id": 1, "study_name": "s", "direction": "MINIMIZE"}],
            "trials": [
                {"trial_id": 1, "study_id": 1, "state": "COMPLETE", "value": 0.5},
                {"trial_id": 2, "study_id": 1, "state": "PRUNED", "value": None},
            ],
            "trial_params": [
                {
                    "param_id": number,
                    "trial_id": number,
                    "param_name": "x",
                    "param_value": 3.0,
                    "distribution_json": distribution,
                }
                for number, distribution in ((1, _UNIFORM), (2, _INT))
            ],
            "trial_system_attributes": [
                {
                    "trial_system_attribute_id": number,
                    "trial_id": number,
                    "key": "_number",
                    "value_json": str(number - 1),
                }
                for number in (1, 2)
            ],
            "trial_values": [{"trial_value_id": 1, "trial_id": 2, "step": 7, "value": 0.25}],
        },
    )


def mlflow_initial(connection: Connection) -> None:
    """How MLflow begins a new database: the tables of 0.9.1, then every revision."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    Base.metadata.create_all(connection)


def mlflow_run(url: str) -> None:
    """MLflow 0.9.1's tables with an experiment and a run."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        mlflow_initial(connection)
    engine.dispose()
    _insert(
        url,
        {
            "experiments": [
                {
                    "experiment_id": 1,
                    "name": "e",
                    "artifact_location": "a",
                    "lifecycle_stage": "active",
                }
            ],
            "runs": [
                {
                    "run_uuid": "r1",
                    "name": "first",
                    "source_type": "LOCAL",
                    "source_name": "train.py",
                    "entry_point_name": "main",
                    "user_id": "rosa",
                    "status": "FINISHED",
                    "start_time": 1,
                    "end_time": 2,
                    "source_version": "v",
                    "lifecycle_stage": "active",
                    "artifact_uri": "a/r1",
                    "experiment_id": 1,
                }
            ],
            "metrics": [
                {"key": "loss", "value": value, "timestamp": at, "run_uuid": "r1"}
                for value, at in ((0.5, 1), (0.25, 2))
            ],
            "params": [{"key": "lr", "value": "0.1", "run_uuid": "r1"}],
            "tags": [{"key": "team", "value": "red", "run_uuid": "r1"}],
        },
    )


def _insert(url: str, rows: dict[str, list[dict[str, object]]]) -> None:
    engine = sa.create_engine(url)
    metadata = sa.MetaData()
    with engine.begin() as connection:
        metadata.reflect(connection)
        for name, values in rows.items():
            connection.execute(metadata.tables[name].insert(), values)
    engine.dispose()
