"""The site in the version of each release, which a reader chooses: `nox -s docs -- versions`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
LATEST = "latest"
"""The version of the working tree."""

ENTRY = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>automigrator</title>
<link rel="icon" href="{LATEST}/_static/icon.svg">
<meta http-equiv="refresh" content="0; url={LATEST}/index.html">
<a href="{LATEST}/index.html">automigrator</a></html>
"""


def build(site: Path, versions: Mapping[str, Path]) -> None:
    """Build the site of each version into a folder of its name, and the list of them.

    `site`: the folder of the whole; `versions`: by name, the newest first, the tree of each. All
    are built with what is installed here, on the code of their own tree; of the latest alone a
    warning is an error. Raises CalledProcessError.
    """
    pages = {}
    with TemporaryDirectory() as doctrees:
        for name, tree in versions.items():
            code = [tree / "src", *sorted(tree.glob("plugins/*/src"))]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, code))}
            strict = ["--fail-on-warning", "--keep-going"] if name == LATEST else []
            options = [*strict, "--quiet", "-b", "html", "-A", f"shown_version={name}"]
            read = str(Path(doctrees, tree.name))  # a tree is read once
            command = [sys.executable, "-m", "sphinx", *options, "-d", read]
            command += [str(tree / "docs"), str(site / name)]
            subprocess.run(command, env=environment, check=True)
            built = (site / name).rglob("*.html")
            pages[name] = sorted(each.relative_to(site / name).as_posix() for each in built)
    (site / "versions.json").write_text(json.dumps(pages), "utf-8")
    (site / "index.html").write_text(ENTRY, "utf-8")


def releases(repository: Path) -> list[str]:
    """The tags of releases, `v0.1.0` say, the newest first."""
    return _git(repository, "tag", "--list", "v[0-9]*", "--sort=-version:refname").decode().split()


def extract(repository: Path, tag: str, into: Path) -> None:
    """Write the tree of a tag there; the repository stays as it is."""
    archive = _git(repository, "archive", "--format=tar", tag)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
        tree.extractall(into, filter="data")


def _git(repository: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(repository), *arguments], stdout=subprocess.PIPE, check=True
    ).stdout


def main() -> None:
    versions = {LATEST: ROOT}
    with ExitStack() as stack:
        for tag in releases(ROOT):
            tree = versions[tag.removeprefix("v")] = Path(stack.enter_context(TemporaryDirectory()))
            extract(ROOT, tag, tree)
        build(ROOT / "docs" / "_build" / "site", versions)


if __name__ == "__main__":
    main()
