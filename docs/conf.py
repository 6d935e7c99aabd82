"""How Sphinx builds the site from these pages: `nox -s docs`."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

from automigrator import __version__

logging.getLogger("alembic").setLevel("WARNING")  # a module of the theme's turns INFO on for all

project = "automigrator"
author = "automigrator maintainers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_templates"]
suppress_warnings = ["myst.strikethrough"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
default_role = "code"
highlight_language = "python"

html_theme = "furo"
html_title = f"automigrator {version}"
html_static_path, templates_path = ["_static"], ["_templates"]
html_css_files, html_js_files = ["site.css"], ["accessible.js"]
html_favicon = "_static/icon.svg"
html_copy_source = html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}

autodoc_member_order = "bysource"
autodoc_typehints = "none"

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]*)(#[\w-]+)?\)")
DIAGRAM = re.compile(r"^```mermaid$", re.MULTILINE)
OPTION = re.compile(r"(?:^|(?<=[.;] ))((?:`\w+`)(?:,\s`\w+`)*): ", re.MULTILINE)
"""How a docstring begins to tell of an argument, or of several."""
ARGUMENTS = re.compile(r"^Arguments:\n((?: {4}.*\n?)+)", re.MULTILINE)
ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)
"""The same in a docstring that has them under a heading."""
NAME = re.compile(r"\w+")


def page_of(path: str) -> str | None:
    """The site's page that holds a file of the repository's; None where there is none."""
    if found := re.fullmatch(r"plugins/([\w-]+)/README\.md", path):
        return f"/plugins/{found[1]}.md"
    pages = {"README.md": "/index.md", "CHANGELOG.md": "/project/changes.md"}
    pages |= {"SECURITY.md": "/project/security.md", "CONTRIBUTING.md": "/project/contributing.md"}
    within = path.startswith("docs/") and path.endswith((".md", ".rst", ".png", ".svg"))
    return pages.get(path) or (path.removeprefix("docs") if within else None)


def led(folder: Path, text: str) -> str:
    """A text of that folder with links that lead to pages; what is no page is named alone."""

    def lead(link: re.Match[str]) -> str:
        said, file, anchor = link[1], link[2], link[3] or ""
        if not file or re.match(r"[a-z]+:", file):
            return link[0]
        path = (folder / file).resolve().relative_to(ROOT).as_posix()
        if path.endswith(".json"):
            return f"{{download}}`{said} </../{path}>`"
        page = page_of(path)
        return f"[{said}]({page}{anchor})" if page else said

    return LINK.sub(lead, text)


def rewritten(app: Any, name: str, source: list[str]) -> None:
    """Let a page's links lead to pages, and show a diagram as its text."""
    folder = Path(app.env.doc2path(name)).parent
    source[0] = led(folder, DIAGRAM.sub("```text", source[0]))


def included(app: Any, path: Path, parent: str, source: list[str]) -> None:
    """The same for a file that a page includes."""
    source[0] = led((ROOT / "docs" / path).resolve().parent, source[0])


def set_out(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Show the arguments that a docstring lists as a list, each with its default and an example."""
    text = ARGUMENTS.sub(lambda found: ARGUMENT.sub(r"`\1`: ", dedent(found[1])), "\n".join(lines))
    shown = EXAMPLES.get(name.rpartition(".")[2], {})
    defaults = _defaults(thing) if shown else {}
    parts = (_listed(each, shown, defaults) for each in text.split("\n\n"))
    lines[:] = "\n\n".join(map("\n".join, parts)).splitlines()


def _listed(
    paragraph: str, shown: dict[str, list[str]], defaults: dict[str, object]
) -> Iterator[str]:
    before, *parts = OPTION.split(paragraph)
    yield before.rstrip()
    for names, text in zip(parts[::2], parts[1::2], strict=True):
        told, raises, rest = text.partition("Raises ")
        yield from (
            "",
            " ".join(names.split()),
            *(f"   {line.strip()}" for line in told.strip().splitlines()),
        )
        named = NAME.findall(names)
        given = [f"{name}={defaults[name]!r}" for name in named if name in defaults]
        if given and "default" not in told:
            yield f"   Default: {_literals(given)}."
        if examples := [example for name in named for example in shown.get(name, ())]:
            yield f"   Example: {_literals(examples)}."
        if raises:
            yield from ("", raises + rest)


def _literals(texts: list[str]) -> str:
    return ", ".join(f"``{text}``" for text in texts)


def _defaults(thing: Any) -> dict[str, object]:
    parameters = inspect.signature(thing).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def examples() -> dict[str, dict[str, list[str]]]:
    """The examples of each option, by what takes it, as they are written."""
    source = (ROOT / "docs" / "reference" / "examples.py").read_text("utf-8")
    found: dict[str, dict[str, list[str]]] = {}
    for statement in ast.parse(source).body:
        match statement:
            case ast.Expr(ast.Call() as call) | ast.Assign(value=ast.Call() as call):
                shown = found.setdefault(ast.unparse(call.func), {})
                for each in call.keywords:
                    text = f"{each.arg}={ast.get_source_segment(source, each.value)}"
                    of_option = shown.setdefault(str(each.arg), [])
                    if text not in of_option:
                        of_option.append(text)
    return found


EXAMPLES = examples()


def setup(app: Any) -> None:
    app.connect("source-read", rewritten)
    app.connect("include-read", included)
    app.connect("autodoc-process-docstring", set_out)
