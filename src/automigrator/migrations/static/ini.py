"""The options of a section of an ini, as `configparser` reads them.

Where the ini is a plain one, without `configparser`: its import takes longer than all else that a
start with nothing to do reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def options_of(ini: Path, section: str) -> Mapping[str, str]:
    """Return the options of a section; none where it, or the file, is not there.

    Raises ValueError for what is no text, and what `configparser` raises, by the mapping as well.
    """
    try:
        text = ini.read_text("utf-8")
    except OSError:
        return {}
    here = ini.absolute().parent.as_posix()
    options = plain(text, section, here)
    if options is not None:
        return options
    import configparser  # local: most are plain

    parser = configparser.ConfigParser({"here": here})
    parser.read_string(text)
    return parser[section] if parser.has_section(section) else {}


def plain(text: str, section: str, here: str) -> dict[str, str] | None:
    """Return the options where each stands on one line, and none names another one but `here`.

    None for every ini in which anything else is to be seen.
    """
    sections, options = {"DEFAULT"}, dict[tuple[str, str], str]()
    inside = ""
    for line in text.split("\n"):
        value = line.strip()
        if not value or value[0] in "#;":
            continue
        if line[0].isspace():
            return None
        if value[0] == "[":
            inside = value[1:-1]
            if value[-1] != "]" or not inside or inside in sections:
                return None
            sections.add(inside)
            continue
        end = min((at for at in (value.find("="), value.find(":")) if at > 0), default=0)
        key = inside, value[:end].rstrip().lower()
        if not all(key) or key in options:
            return None
        options[key] = value[end + 1 :].strip()
    own: dict[str, str] = {}
    for (where, name), value in options.items():
        if where == section:
            parts = [part.replace("%(here)s", here) for part in value.split("%%")]
            if name == "here" or any("%" in part for part in parts):
                return None
            own[name] = "%".join(parts)
    return own
