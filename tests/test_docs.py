"""Every code block of a page runs, in order; every link, path and module that it names exists."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.pages import BLOCK, DOCS, HEADING, SHOWN, furnish, run_python, script

from automigrator.hooks import strategies

pytestmark = pytest.mark.plugins

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")],
)
PAGES = [path for path in TEXTS if "```" in path.read_text("utf-8")]
STARTED = {ROOT / "docs" / "frameworks.md", ROOT / "docs" / "tutorial.md"}
"""Their blocks are files, which `tests/frameworks` and `tests/examples` start and play."""

PLAYED = [
    ROOT / "docs" / f"{each.stem.removeprefix('test_').replace('_', '-')}.md"
    for each in ROOT.glob("tests/howto/test_*.py")
]
"""A test module of their own runs each of their blocks, in whatever language."""

conf = script("conf")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:src|tests|plugins|benchmarks|examples|docs)/[\w./-]+)`")
NAME = re.compile(r"`(automigrator(?:\.[a-z_]+)+)\.([A-Z]\w+)`")


def blocks(page: Path, language: str) -> list[str]:
    return [text for said, text in BLOCK.findall(page.read_text("utf-8")) if said == language]


def shown_text(page: Path) -> str:
    """The page without its code blocks."""
    return BLOCK.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the page's headings."""
    headings = HEADING.findall(shown_text(page))
    return {re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings}


def named(page: Path, pattern: re.Pattern[str]) -> list[Any]:
    return pattern.findall(shown_text(page))


every_text = pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))


@every_text
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    lost = []
    for link in named(page, LINK):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


@every_text
def test_every_link_to_a_page_is_a_link_on_the_site_too(page: Path) -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for link in named(page, LINK)}
    names = [each.relative_to(ROOT).as_posix() for each in linked if each.is_relative_to(DOCS)]
    pages = [each for each in names if each.endswith((".md", ".rst", ".svg", ".png"))]
    assert [each for each in pages if conf.page_of(each) is None] == []


@every_text
def test_every_path_and_class_that_a_page_names_exists(page: Path) -> None:
    assert [path for path in named(page, PATH) if not (ROOT / path).exists()] == []
    assert [
        f"{module}.{name}"
        for module, name in named(page, NAME)
        if not hasattr(importlib.import_module(module), name)
    ] == []


@every_text
def test_a_page_reads_easily(page: Path) -> None:
    """Lix: words a sentence, and the share of words of more than six letters (Björnsson, 1968).

    Up to 30 a text is easy, from 50 on hard. It knows no syllables, so that no list of words is
    needed.
    """
    text = re.sub(r"^:::.*?^:::$", "", shown_text(page), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(\||#).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "it", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text))
    text = re.sub(r"^\s*([-*]|\d+\.) |\n\n", ". ", text, flags=re.MULTILINE)
    sentences = [each for each in re.split(r"[.!?:;]\s", text) if re.search(r"\w", each)]
    words = re.findall(r"[A-Za-z']+", text)
    if len(words) < 100:
        return
    long = sum(len(word) > 6 for word in words)
    assert len(words) / len(sentences) <= 20
    assert len(words) / len(sentences) + 100 * long / len(words) <= 40


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the pages: an alembic.ini, an older one, two that fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    furnish(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in {*STARTED, *PLAYED}],
    ids=lambda page: str(page.relative_to(ROOT)),
)
async def test_the_python_of_a_page_runs(page: Path, application: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(blocks(page, "python"), 1):
        await run_python(source, names, f"{page.name}, block {number}")
    for name in ("engine",):
        if name in names:
            await names[name].dispose()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    languages = {language for language, _ in BLOCK.findall(page.read_text("utf-8"))}
    assert languages <= {"python", "sh", "toml", *SHOWN, *({"sql"} if page in PLAYED else ())}


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide to strategies, with its example distribution installed."""
    guide = ROOT / "docs" / "strategies.md"
    (project,) = (tomllib.loads(text)["project"] for text in blocks(guide, "toml"))
    package = project["name"].replace("-", "_")
    (tmp_path / f"{package}.py").write_text(blocks(guide, "python")[0])
    info = tmp_path / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    ((group, entries),) = project["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return guide


def test_the_guides_distribution_is_installed_and_loaded_by_its_name(guide: Path) -> None:
    ((name, strategy),) = strategies.load([("wait-for-space", {"seconds": 300})])

    assert (name, type(strategy).__name__) == ("wait-for-space", "WaitForSpace")


@pytest.mark.parametrize(
    ("cases", "ended_as"),
    [
        ("hooks", "2 passed"),
        ("answered or option or name or hooks or revision", "16 passed, 2 sk"),
    ],
    ids=["one case", "all"],
)
@pytest.mark.long("[all]")
def test_the_guides_strategy_passes_the_suite_in_both_forms(
    cases: str, ended_as: str, guide: Path, tmp_path: Path
) -> None:
    of_suite = [text for text in blocks(guide, "python") if "StrategyConformance" in text]
    page = "\n".join([blocks(guide, "python")[0], *of_suite])
    (tmp_path / "test_guide.py").write_text(page, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    chosen = ["-p", "no:cacheprovider", "-k", f"sqlite and ({cases})"]
    command = [sys.executable, "-m", "pytest", "-q", *chosen]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended_as in ended.stdout, ended.stdout


def test_a_page_that_a_benchmark_writes_names_the_command() -> None:
    marker = "<!-- measured -->"
    measured = [page for page in TEXTS if marker in page.read_text("utf-8")]
    heads = {page.name: page.read_text("utf-8").partition(marker)[0] for page in measured}
    assert len(heads) >= 8
    assert [name for name, head in heads.items() if "nox -s " not in head] == []


def test_the_readmes_second_command_is_what_ci_runs() -> None:
    _, suite, *_ = blocks(ROOT / "README.md", "sh")
    assert suite.strip() in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_readmes_first_command_shows_a_recovery() -> None:
    first, *_ = blocks(ROOT / "README.md", "sh")
    *_, command = first.strip().split(" && ")
    interpreter, script = command.split()
    assert interpreter == ".venv/bin/python"
    shown = subprocess.run(
        [sys.executable, ROOT / script], capture_output=True, text=True, check=True
    ).stdout
    outcomes = re.findall(r"^migration run: (\w+)", shown, re.MULTILINE)
    assert outcomes == ["migrated", "current", "degraded", "migrated"]
    assert "the application serves: milk, bread, eggs, salt" in shown


def test_every_package_that_a_page_installs_is_one_of_ours() -> None:
    ours = {"automigrator", *(folder.name for folder in ROOT.glob("plugins/*"))}
    for page in PAGES:
        for command in blocks(page, "sh"):
            for line in command.splitlines():
                if line.startswith("pip install "):
                    named = re.sub(r"\[\w+\]|\"", "", line.removeprefix("pip install "))
                    assert set(named.split()) <= ours
