"""What was found of a model's code and values, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from .hashes import hashed


@dataclass
class Found:
    """What was found, by name ("source of Net.forward", "value of MEAN", "attribute scale of Net"): hash, or hashes in any order.

    Attributes:
        parts: the hashes.
        files: the file that a name is from, without its folder.
        unseen: what could not be compared, and why.
    """

    parts: dict[str, set[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, None] = field(default_factory=dict)

    def add(self, name: str, part: str, file: str = "") -> None:
        """Note a part of ``name``."""
        self.parts.setdefault(name, set()).add(part)
        if file:
            self.files.setdefault(name, file)


def summary(found: Found) -> dict[str, str]:
    """One hash for each name, and the file it is from behind it."""
    return {
        name: f"{hashed(*sorted(parts))} {found.files.get(name, '')}".strip()
        for name, parts in sorted(found.parts.items())
    }
