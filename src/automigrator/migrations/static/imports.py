"""The modules of the application that files import, found by their text: none is imported."""

from __future__ import annotations

import functools
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_IMPORT = re.compile(
    rb"^[ \t]*(?:import[ \t]+([^\n#;]+)"
    rb"|from[ \t]+([.\w]+)[ \t]+import[ \t]*"
    rb"(?:\(([^)]*)\)|([^\n#;]+)))",
    re.MULTILINE,
)
"""An import; what looks like one in a text finds at most a file more."""

_Line = tuple[bytes, bytes, bytes, bytes]
"""What the groups of an import hold, in their order."""

_INSTALLED = ("site-packages", "dist-packages")

_STANDARD = {Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib")}

_MOST = 2000
"""Files that are read; an application with more has changed in one of these, most likely."""


def imported(
    files: Mapping[str, bytes], roots: Sequence[str], seen: Callable[[Path], object] = id
) -> dict[str, bytes]:
    """Return the application's modules that these files import, and those import, by their names.

    `files` are paths with what is in them, and so are the modules; one that cannot be read is
    empty. `roots` are searched before `sys.path`. `seen` gets each module's file before it is read.
    Neither the standard library nor what is installed is the application's, unless it is the
    package that the first of the files lies in.
    """
    search = _Search(roots, Path(next(iter(files))))
    found: dict[str, bytes] = {}
    todo = [(text, "") for text in files.values()]
    while todo and len(found) < _MOST:
        text, package = todo.pop()
        for name, place in search.imports_of(text, package):
            if name not in found:
                seen(place)
                found[name] = _content(place)
                inside = place.name == "__init__.py"
                todo.append((found[name], name if inside else name.rpartition(".")[0]))
    return dict(sorted(found.items()))


def _content(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except OSError:
        return b""


class _Search:
    """Where modules are looked for, and whose they are."""

    def __init__(self, roots: Sequence[str], first: Path) -> None:
        folders = [os.path.abspath(each) for each in (*roots, *sys.path)]
        self._path = tuple(Path(each) for each in dict.fromkeys(folders))
        self._own = _installed_as(first.resolve())
        self._found = functools.cache(self._find)
        self._imported = functools.cache(self._import)

    def imports_of(self, text: bytes, package: str) -> tuple[tuple[str, Path], ...]:
        """Return the application's modules that a text of this package imports."""
        # revisions have the same few lines, nearly all
        return self._imported(tuple(_IMPORT.findall(text.replace(b"\\\n", b" "))), package)

    def _import(self, lines: tuple[_Line, ...], package: str) -> tuple[tuple[str, Path], ...]:
        return tuple(self._places(lines, package))

    def _places(self, lines: tuple[_Line, ...], package: str) -> Iterator[tuple[str, Path]]:
        for name in _names(lines, package):
            parts = name.split(".")
            for length in range(1, len(parts) + 1):  # importing one imports its parents
                dotted = ".".join(parts[:length])
                place = self._found(dotted)
                if place is None:
                    break
                if place.is_dir():
                    continue  # without an __init__.py
                yield dotted, place

    def _find(self, dotted: str) -> Path | None:
        """Return a module's file, the folder of one without a file, or None for another's."""
        parent, _, name = dotted.rpartition(".")
        if not parent:
            if name in sys.stdlib_module_names:
                return None
            folders = self._path
        else:
            place = self._found(parent)
            if place is None or not (place.is_dir() or place.name == "__init__.py"):
                return None
            folders = (place if place.is_dir() else place.parent,)
        for folder in folders:
            for place in (folder / name / "__init__.py", folder / f"{name}.py"):
                if os.path.isfile(place):  # False, too, where this process may not look
                    return place if self._is_the_applications(place) else None
        for folder in folders:
            if os.path.isdir(place := folder / name):
                return place if self._is_the_applications(place) else None
        return None

    def _is_the_applications(self, place: Path) -> bool:
        installed = _installed_as(place.resolve())
        return installed is None or installed == self._own


def _installed_as(path: Path) -> Path | None:
    """Return the installed package or module that a path lies in; None where it is in none."""
    for inside, folder in zip((path, *path.parents), path.parents, strict=False):
        if folder.name in _INSTALLED or folder in _STANDARD:
            return inside
    return None


def _names(lines: tuple[_Line, ...], package: str) -> Iterator[str]:
    """Yield the dotted names that lines import, with those that may be modules or not."""
    for modules, encoded, several, names in lines:
        if modules:
            yield from _listed(modules)
            continue
        origin = encoded.decode()
        bare = origin.lstrip(".")
        if level := len(origin) - len(bare):
            parts = package.split(".")
            if not package or level > len(parts):
                continue
            bare = ".".join([*parts[: len(parts) - level + 1], *([bare] if bare else [])])
        yield bare
        for name in _listed(several or names):
            yield f"{bare}.{name}"


def _listed(text: bytes) -> Iterator[str]:
    for each in re.sub(rb"#[^\n]*", b"", text).split(b","):
        words = each.split()
        if words and re.fullmatch(rb"[\w.]+", words[0]):
            yield words[0].decode()
