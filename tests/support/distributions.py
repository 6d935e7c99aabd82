"""Installs a distribution, as far as its entry points go, from what its pyproject.toml says."""

from __future__ import annotations

import tomllib
from pathlib import Path


def install(pyproject: str, site: Path) -> None:
    """Write the metadata of a project into a folder that is, or will be, on `sys.path`."""
    project = tomllib.loads(pyproject)["project"]
    name, version = project["name"], project["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
