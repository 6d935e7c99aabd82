"""The versions of the site: which tags are releases, and what is built of each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.pages import script

versions = script("versions")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with three releases, and a tag that is none."""

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "tag.gpgSign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    git("init", "--quiet")
    for tag in ("v0.9.0", "v0.10.0", "vendored", "v0.2.0"):
        (tmp_path / "README.md").write_text(tag)
        git("add", "README.md")
        git("commit", "--quiet", "--message", tag, "--no-gpg-sign")
        git("tag", tag)
    return tmp_path


def test_releases_come_by_their_numbers_and_nothing_else_is_one(repository: Path) -> None:
    assert versions.releases(repository) == ["v0.10.0", "v0.9.0", "v0.2.0"]


def test_a_release_is_built_from_its_own_tree(repository: Path, tmp_path: Path) -> None:
    (repository / "README.md").write_text("not committed")
    versions.extract(repository, "v0.9.0", tmp_path / "tree")
    assert (tmp_path / "tree" / "README.md").read_text() == "v0.9.0"
    assert (repository / "README.md").read_text() == "not committed"
