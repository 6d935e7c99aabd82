"""Whatever is missing in the distributions given as arguments; `nox -s release` runs it."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

OURS = ("Requires-Python", "License-Expression", "License-File", "Keywords")


def lacking_in_wheel(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        package = path.name.partition("-")[0]
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(wheel.read(about))
    folders = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    if folders != {package}:
        yield f"holds {', '.join(sorted(folders))}"
    if f"{package}/py.typed" not in names:
        yield "has no py.typed"
    if not any(name.endswith("licenses/LICENSE") for name in names):
        yield "has no license"
    if metadata["Description-Content-Type"] != "text/markdown":
        yield "has no description in Markdown"
    yield from (f"has no {name}" for name in OURS if not metadata[name])
    if "Typing :: Typed" not in metadata.get_all("Classifier", ()):
        yield "does not say that it is typed"


def lacking_in_sdist(path: Path) -> Iterator[str]:
    with tarfile.open(path) as sdist:
        parts = [name.split("/") for name in sdist.getnames()]
    for folder in ("src", "tests"):
        if not any(len(each) > 1 and each[1] == folder for each in parts):
            yield f"has no {folder}"


def lacking(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        found = lacking_in_wheel(path) if path.suffix == ".whl" else lacking_in_sdist(path)
        yield from (f"{path.name} {each}" for each in found)
    versions = {path.name.split("-")[1].removesuffix(".tar.gz") for path in paths}
    if len(versions) != 1:
        yield f"the versions differ: {', '.join(sorted(versions))}"


if __name__ == "__main__":
    sys.exit("\n".join(lacking([Path(each) for each in sys.argv[1:]])) or 0)
