"""Puts style sheets and script modules into the page: one file, nothing fetched, no build step.

A module is an ES module with imports of the form ``import { a, b } from "./c.js"``, and works as it is in a browser. In the page
all share one scope: each stands once, after what it imports, without its import and export words, so no two may have a name in
common.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

ROOMS = ("mcscore.report:page", "mcscore.web:")  # where modules and style sheets are
STYLES = ("theme.css", "style.css", "plots.css", "gallery.css")
_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"\./([\w.]+)";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|let|class)", re.M)


@dataclass(frozen=True)
class Script:
    """A script, and the hash by which the page's policy allows it and no other."""

    text: Markup

    @property
    def hash(self) -> str:
        """The source expression of the Content-Security-Policy."""
        return f"sha256-{b64encode(hashlib.sha256(self.text.encode()).digest()).decode()}"


def script(first: str = "main.js") -> Script:
    """Return the module ``first`` with all that it imports."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        done[name] = ""  # a module that imports itself over others
        source = read(name)
        for needed in _IMPORT.findall(source):
            add(needed)
        del done[name]
        done[name] = _EXPORT.sub("", _IMPORT.sub("", source)).strip()

    add(first)
    text = "\n\n".join(done.values())
    assert "</script" not in text.lower()
    assert "\r" not in text
    return Script(Markup("\n" + text + "\n"))


def style() -> Markup:
    """Return the style sheets of the page."""
    return Markup("\n".join(read(name).strip() for name in STYLES))


def read(name: str) -> str:
    """Return a module or style sheet of the page, or one that the pages share."""
    for room in ROOMS:
        package, _, folder = room.partition(":")
        file = resources.files(package).joinpath(folder, name) if folder else resources.files(package).joinpath(name)
        if file.is_file():
            return file.read_text("utf-8")
    raise FileNotFoundError(name)
