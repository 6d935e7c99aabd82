"""The project's sessions; `nox` alone runs the whole suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

GROUPS = nox.project.load_toml("pyproject.toml")
PLUGINS = sorted(str(folder) for folder in Path("plugins").iterdir() if folder.is_dir())
BENCHMARKS = [
    *("gate", "nothing_to_do", "recovery", "applying", "replay", "fleet", "fixtures", "clones"),
    "stalls",
]
TEXTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs", "plugins"]
NEWER = [
    *("--numprocesses=2", "-k", "not postgres and (not as_plain or autocommit or beside_it)"),
    *("tests/hooks/test_calls.py", "tests/support_package/test_concurrency.py"),
    *("tests/runner/test_interruption.py", "tests/runner/test_signals.py"),
]
"""What depends on the interpreter: asyncio, threads, signals."""
NEWEST = ["tests/migrations/static/test_proof.py", "tests/migrations/test_sqlite_as_plain.py"]
"""What new syntax and a new sqlite3 may change besides."""
ALONE = ["-k", "sqlite", "-m", "not plugins"]
PARALLEL = [f"--numprocesses={min((os.cpu_count() or 1) + 2, 4)}", "--dist=worksteal"]

os.environ["PIP_NO_COMPILE"] = os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"  # seconds each
os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # uv trusts whom pip trusts
# the tests start processes: without it, each would compile all that it imports
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "alone"]


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


def install_editable(session: nox.Session, *more: str) -> None:
    """The core and every plugin in one command: a plugin's needs are not looked up elsewhere."""
    session.install("hatchling", "editables")  # once, and not in an environment of its own for each
    folders = [argument for folder in (".", *PLUGINS) for argument in ("-e", folder)]
    session.install("--no-build-isolation", *folders, *more)


def built(session: nox.Session) -> Path:
    return Path(session.cache_dir) / "wheels"


def pip(session: nox.Session) -> list[str]:
    return ["uv", "pip"] if session.venv_backend == "uv" else ["python", "-m", "pip"]


@contextmanager
def installed(session: nox.Session, folder: str) -> Iterator[str]:
    """Context manager: install a folder's wheel; yields the name of what it imports."""
    module = Path(folder).name.replace("-", "_") or "automigrator"
    session.install(str(next(built(session).glob(f"{module}-*.whl"))))
    yield module
    uninstall = [] if session.venv_backend == "uv" else ["--yes"]
    session.run(*pip(session), "uninstall", "--quiet", *uninstall, module, external=True)


def prove_enough(session: nox.Session, module: str) -> None:
    """What the installed wheels declare is all that they need."""
    session.run(*pip(session), "check", external=True)
    session.run("python", "-c", f"import {module}")


def install_histories(session: nox.Session) -> None:
    """The applications whose histories are migrated, and this package."""
    # what mlflow's env.py files and revisions import, out of all that mlflow depends on
    mlflow = ["cachetools", "click", "databricks-sdk", "flask", "flask-wtf", "importlib-metadata"]
    mlflow += ["opentelemetry-proto", "opentelemetry-sdk", "protobuf", "pyyaml", "sqlparse"]
    releases = ["optuna==5.0.0", "jupyterhub==6.1.1", "async-generator", "advanced-alchemy==1.12.0"]
    session.install("-e", ".", *group("test"), *releases, *mlflow)
    session.install("--no-deps", "mlflow==3.18.0")
    old = Path(session.cache_dir) / "jupyterhub"
    shutil.rmtree(old, ignore_errors=True)
    for release in ("0.6.1", "0.9.0b1"):
        session.install("--no-deps", "--target", str(old / release), f"jupyterhub=={release}")
    session.env["AUTOMIGRATOR_OLD_JUPYTERHUB"] = str(old.absolute())


def pytest(session: nox.Session, *arguments: str) -> None:
    session.run("python", "-m", "pytest", *arguments, *session.posargs)


def skip_without(session: nox.Session, *tools: str, package: str) -> None:
    """Skip a session where a program is missing, and say where there is one."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        names = " and ".join(missing)
        session.skip(f"{names} not installed; Debian has what is needed: apt install {package}")


def resumed(session: nox.Session, name: str, count: int = 3000) -> None:
    """A campaign that appends each result to a file in the cache, and goes on from there."""
    install_editable(session, *group("test"))
    variable, file = f"AUTOMIGRATOR_{name.upper()}", Path(session.cache_dir) / f"{name}.jsonl"
    session.env[variable] = os.environ.get(variable, str(count))
    session.env.setdefault(f"{variable}_RESULTS", str(file.absolute()))
    pytest(session, f"tests/{name}", "--long", "-rP", "--timeout=0")


expose_pyenv()
PYTHONS = found_pythons()


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", *TEXTS, "src", "examples", "benchmarks", "noxfile.py")
    session.run("proselint", "check", "--config", "docs/proselint.json", *TEXTS)


@nox.session
def types(session: nox.Session) -> None:
    install_editable(session, *group("types"))
    workers = str(os.cpu_count() or 1)
    session.run("mypy", *session.posargs, env={"MYPY_NUM_WORKERS": workers})


@nox.session(python=PYTHONS or None)
def tests(session: nox.Session) -> None:
    """Everything on the oldest Python, on newer ones what is theirs; `-- tests plugins` for all."""
    install_editable(session, *group("test"))
    newer = session.python in PYTHONS[1:] and not session.posargs
    newest = NEWEST if session.python == PYTHONS[-1] else []
    pytest(session, *([*NEWER, *newest] if newer else PARALLEL))


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every distribution as its users get it: a wheel made from the sdist."""
    session.install("build", "hatchling")
    shutil.rmtree(built(session), ignore_errors=True)
    for folder in (".", *PLUGINS):
        options = ["--no-isolation", "--outdir", str(built(session))]
        session.run("python", "-m", "build", *options, folder, silent=True)


@nox.session(requires=["wheels"])
def alone(session: nox.Session) -> None:
    """The core's wheel without any plugin, then with one at a time, on SQLite.

    What a wheel may lack is seen by the tests of the plugin.
    """
    with installed(session, ".") as core:
        prove_enough(session, core)
        without_pytest = "import automigrator.testing"  # it says what it needs
        session.run("python", "-c", without_pytest, success_codes=[1], silent=True)
        session.run("python", "-m", "automigrator", success_codes=[2], silent=True)  # so does this
        without_client = "import automigrator.prometheus"  # and this
        session.run("python", "-c", without_client, success_codes=[1], silent=True)
        for plugin in PLUGINS:
            with installed(session, plugin) as module:
                prove_enough(session, module)
        session.install(*group("runner"))
        pytest(session, "tests/hooks/test_calls.py", *ALONE)
        for plugin in PLUGINS:
            project = nox.project.load_toml(f"{plugin}/pyproject.toml")
            with installed(session, plugin):
                if "test" in project.get("dependency-groups", {}):
                    session.install(*nox.project.dependency_groups(project, "test"))
                pytest(session, f"{plugin}/tests", *ALONE)


@nox.session(requires=["wheels"])
def release(session: nox.Session) -> None:
    """All distributions as they would be uploaded: metadata, contents, one version for all."""
    session.install("twine", "check-wheel-contents")
    files = sorted(map(str, built(session).iterdir()))
    session.run("twine", "check", "--strict", *files)
    session.run("check-wheel-contents", *(each for each in files if each.endswith(".whl")))
    session.run("python", "tests/support/release.py", *files)


@nox.session
def demo(session: nox.Session) -> None:
    install_editable(session)
    session.run("python", "examples/demo.py")


@nox.session
def long(session: nox.Session) -> None:
    """Everything, and what takes long as well, on the Python that runs nox."""
    install_editable(session, *group("test"))
    pytest(session, *PARALLEL, "--long")


@nox.session
def races(session: nox.Session) -> None:
    """Twenty processes at once, twenty rounds of each; elsewhere six, and one."""
    install_editable(session, *group("test"))
    session.env["AUTOMIGRATOR_RACES"] = "1"
    pytest(session, "tests/races", "--long", "-rP", "--timeout=0")


@nox.session
def model(session: nox.Session) -> None:
    """The lock protocol, checked by spin for every order of its steps."""
    skip_without(session, "spin", "gcc", package="spin gcc")
    install_editable(session, *group("test"))
    pytest(session, "tests/model", "--long", "-rP", "--timeout=0")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, under docs/_build/html, warnings as errors.

    `-- charts` draws its pictures anew, from the tables; `-- linkcheck` tries every link to
    another host; `-- versions` builds it for every release tag as well, into docs/_build/site.
    """
    install_editable(session, *group("docs", "cli", "prometheus"))
    if "charts" in session.posargs:
        session.install("matplotlib")
        session.run("python", "docs/charts.py")
        session.run("python", "docs/diagram.py")
    build = ["sphinx-build", "--fail-on-warning", "--keep-going", "--fresh-env", "--quiet"]
    session.run(*build, "-b", "html", "docs", "docs/_build/html")
    if "linkcheck" in session.posargs:
        session.run(*build, "-b", "linkcheck", "docs", "docs/_build/linkcheck")
    if "versions" in session.posargs:
        session.run("python", "docs/versions.py")


@nox.session
def monitoring(session: nox.Session) -> None:
    """The metrics, and each alert of examples/monitoring in a real Prometheus after a real run."""
    skip_without(session, "prometheus", "promtool", package="prometheus")
    install_editable(session, *group("test"))
    pytest(session, "tests/prometheus", "tests/examples/test_monitoring.py", "--long")


@nox.session
def faults(session: nox.Session) -> None:
    """Kills at every step and at 200 random moments for each strategy; `-- -k purge` for one.

    AUTOMIGRATOR_FAULTS=20 makes it 20 random moments.
    """
    install_editable(session, *group("test"))
    session.env["AUTOMIGRATOR_FAULTS"] = os.environ.get("AUTOMIGRATOR_FAULTS", "200")
    pytest(session, "tests/faults", "--long", "-rP", "--numprocesses=2", "--timeout=0")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random lives of an application, until AUTOMIGRATOR_FUZZ runs were made: 5,000 unless set."""
    install_editable(session, *group("test"))
    session.env["AUTOMIGRATOR_FUZZ"] = os.environ.get("AUTOMIGRATOR_FUZZ", "5000")
    pytest(session, "tests/fuzz", "--long", "--show-capture=stdout", "--numprocesses=2")


@nox.session
def frameworks(session: nox.Session) -> None:
    """Every framework and server of the docs, started; a test skips what is not installed.

    `-- --write-table` writes what they do when every start fails, `-- --write-page` what they
    print.
    """
    install_editable(session, *group("test", "frameworks"))
    if "--write-page" in session.posargs:
        session.run("python", "tests/support/server_starts.py", *session.posargs)
    else:
        plugin = "plugins/automigrator-advanced-alchemy"
        tests = [
            "tests/frameworks",
            "tests/events/test_servers.py",
            "tests/howto/test_coming_from.py",
        ]
        pytest(session, *tests, plugin, "--long")


@nox.session
def browser(session: nox.Session) -> None:
    """The page, and the site of the docs, in a real Chromium.

    `-- --write-images` writes the page into the docs.
    """
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("no Chromium found; Debian has it: apt install chromium")
    install_editable(session, *group("test", "browser", "docs"))
    pytest(session, "tests/browser")


@nox.session
def faithful(session: nox.Session) -> None:
    """Pairs of plain Alembic and ours, AUTOMIGRATOR_FAITHFUL of them: 3,000 unless set."""
    resumed(session, "faithful")


@nox.session(name="fleet-kills")
def fleet_kills(session: nox.Session) -> None:
    """Fleets whose processes are killed and frozen, AUTOMIGRATOR_FLEET_KILLS rounds: 45 unless set.

    `-- --write-table` writes the table.
    """
    resumed(session, "fleet_kills", 45)


@nox.session
def safety(session: nox.Session) -> None:
    """Failures under every strategy, AUTOMIGRATOR_SAFETY of them: 3,000 unless set."""
    resumed(session, "safety")


@nox.session
def sabotage(session: nox.Session) -> None:
    """A hundred mistakes in revisions, and what three tools catch of them.

    It goes on where it was ended. AUTOMIGRATOR_SABOTAGE=20 makes the first 20 mistakes.
    """
    install_editable(session, *group("test", "sabotage"))
    results = Path(session.cache_dir) / "sabotage.jsonl"
    session.env["AUTOMIGRATOR_SABOTAGE"] = os.environ.get("AUTOMIGRATOR_SABOTAGE", "100")
    session.env.setdefault("AUTOMIGRATOR_SABOTAGE_RESULTS", str(results.absolute()))
    # the other tools are not to look at our own suite
    off = ["-p", "no:pytest_alembic", "-p", "no:mrt"]
    pytest(session, "tests/sabotage", "--long", "-rP", "--timeout=0", *off)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Ours against plain tools, both in one run: all, or `-- recovery`; options go to each."""
    named = [name for name in BENCHMARKS if name in session.posargs]
    options = [argument for argument in session.posargs if argument not in BENCHMARKS]
    install_editable(session, *group("test"))
    for name in named or BENCHMARKS:
        if name == "stalls":  # the last: what it installs, the others would have to look through
            install_histories(session)
        session.run("python", f"benchmarks/{name}.py", *options)


@nox.session
def rehearsals(session: nox.Session) -> None:
    """Measured rehearsals against what really happens under load, and beside squawk."""
    install_editable(session, *group("test"), "squawk-cli")
    session.run("python", "benchmarks/rehearsals.py", *session.posargs)


@nox.session
def histories(session: nox.Session) -> None:
    """The histories of real applications against plain Alembic; never in the quick suite."""
    install_histories(session)
    pytest(session, "tests/histories", "-W", "default")
