"""The application under test: its migrator, turned to whatever database a test has."""

from __future__ import annotations

import asyncio
import pkgutil
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import URL

from automigrator import ConfigurationError, Migrator, Plan, Report, Target
from automigrator.testing.elsewhere import elsewhere
from automigrator.testing.models import drift_of, version_tables_of
from pytest_automigrator.engines import led_to
from pytest_automigrator.settings import Settings, kind_of

T = TypeVar("T")

_NO_CONFIG = (
    "there is no Alembic configuration: {root} has no alembic.ini, and its pyproject.toml no "
    "[tool.alembic] with a script_location. Name one with automigrator_config in pytest's ini "
    "(a path from {root}), or the application's Migrator with automigrator_app"
)


def awaited(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine, in a loop of its own: the caller may be inside one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


@dataclass(frozen=True)
class Application:
    """The history, the options and the strategies that an application migrates with.

    `settings`: of the session. `options`: further ones for `Target`, where the application has
    no migrator of its own.
    """

    settings: Settings
    options: Mapping[str, Any]
    _versions: list[frozenset[str]] = field(default_factory=list, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process imports the application's migrator itself."""
        return (Application, (self.settings, dict(self.options)))

    @property
    def databases(self) -> tuple[str, ...]:
        """The kinds of database to test on: the configured ones, else that of the target."""
        return self.settings.databases or (kind_of(self._chosen.application_url.drivername),)

    @cached_property
    def own(self) -> Migrator:
        """The application's own migrator, or one of its Alembic configuration."""
        if self.settings.app:
            return _imported(self.settings)
        if self.settings.config is None:
            raise ConfigurationError(_NO_CONFIG.format(root=self.settings.root))
        unused = URL.create("sqlite+aiosqlite", database="unused")
        target = Target(unused, self.settings.config, name="app", **self.options)
        return Migrator(target, mode="migrate", recovery=self.settings.recovery)

    @property
    def target(self) -> Target:
        """The target whose history is tested."""
        unused = URL.create("sqlite+aiosqlite", database="unused")
        return self._at(unused).targets[0]

    @property
    def _chosen(self) -> Target:
        """The target as the application has it, with its own database."""
        targets = {each.name: each for each in self.own.targets}
        return targets[self.target.name]

    def migrate(
        self,
        url: URL,
        revision: str | None = None,
        *,
        plugins: Sequence[object] = (),
        recovery: bool = False,
    ) -> Report:
        """Bring a database to a revision; default: the application's. Raises MigrationError.

        `recovery`: whether the application's strategies are asked; default False.
        """
        migrator = self._at(url, revision=revision, plugins=plugins, recovery=recovery)
        return awaited(migrator.run)

    def downgrade(self, url: URL, revision: str) -> Report:
        """Take a database down to a revision. Raises MigrationError."""
        return awaited(lambda: self._at(url).rollback(revision))

    def plan(self, url: URL, revision: str | None = None) -> Plan:
        """What a run would apply to a database."""
        return awaited(lambda: self._at(url, revision=revision).plan())[0]

    def paths(self) -> dict[str, str]:
        """The file of each revision; no database is asked."""
        absent = URL.create("sqlite+aiosqlite", database=str(self.settings.root / "absent.db"))
        return {each.revision: each.path for each in self.plan(absent, "heads").revisions}

    def version_tables(self, url: URL) -> frozenset[str]:
        """The names of the tables that env.py keeps heads in; a database is asked once."""
        if not self._versions:
            names = awaited(lambda: version_tables_of(self._at(url).targets[0]))
            self._versions.append(frozenset(names))
        return self._versions[0]

    def drift(self, url: URL) -> tuple[str, ...] | None:
        """How a migrated database differs from env.py's models; None where env.py has none."""
        return awaited(lambda: drift_of(self._at(url).targets[0]))

    def _at(self, url: URL, *, recovery: bool = False, **options: Any) -> Migrator:
        turned = elsewhere(self.own, url, target=self.settings.target, recovery=recovery, **options)
        turned.targets = tuple(
            target._replace(config=led_to(url, target.config)) for target in turned.targets
        )
        return turned


def _imported(settings: Settings) -> Migrator:
    """The migrator that `automigrator_app` names. Raises ConfigurationError."""
    root = str(settings.root)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        value = pkgutil.resolve_name(settings.app)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"automigrator_app={settings.app!r} leads nowhere: {error}; it is "
            "package.module:migrator, found from pytest's rootdir or sys.path"
        ) from error
    if not isinstance(value, Migrator) and callable(value):
        value = value()
    if not isinstance(value, Migrator):
        raise ConfigurationError(
            f"automigrator_app={settings.app!r} is a {type(value).__name__}, and should be a "
            "Migrator, or a function without arguments that returns one"
        )
    return value
