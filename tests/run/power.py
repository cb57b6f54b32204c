"""A power cut, simulated: what a disk holds at any moment if nothing survives but what was fsynced.

Files are inodes with content; directories are tables of names. An fsync of a file makes its content durable, one of a
directory the names in it. What is worst depends: the disk may lose names that were not synced, or may keep them and lose
the content.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mcscore import atomic as disk


class Inode:
    def __init__(self) -> None:
        self.content = self.durable = b""


Tree = dict[Path, Inode | None]  # None: a directory


class Disk:
    """Follows the steps of mcscore.atomic below ``root``, and calls ``after_step`` after each."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, ignore_sync_of: str = "") -> None:
        self.root, self.ignore_sync_of = root, ignore_sync_of
        self.names: Tree = {root: None}
        self.durable_names: Tree = {root: None}
        self.steps: list[str] = []
        for name in disk.STEPS:
            monkeypatch.setattr(disk, name, self._following(name, getattr(disk, name)))

    def _following(self, name: str, step):
        def follow(path: Path, *more) -> None:
            step(path, *more)
            getattr(self, name)(path, *more)
            self.steps.append(name)
            self.after_step()

        return follow

    def after_step(self) -> None: ...

    def write(self, path: Path, data: bytes) -> None:
        inode = self.names.setdefault(path, Inode())
        assert inode is not None
        inode.content = data

    def make_directory(self, path: Path) -> None:
        self.names.setdefault(path, None)

    def remove(self, path: Path) -> None:
        self.names.pop(path, None)

    def link(self, source: Path, target: Path) -> None:
        self.names[target] = self.names[source]

    def rename(self, source: Path, target: Path) -> None:
        self.names[target] = self.names.pop(source)

    def sync(self, path: Path) -> None:
        kind = "directory" if self.names.get(path, Inode()) is None else "file"
        if kind == self.ignore_sync_of:
            return
        inode = self.names.get(path)
        if inode is not None:
            inode.durable = bytes(inode.content)
            return
        for known in [known for known in self.durable_names if known.parent == path and known != self.root]:
            del self.durable_names[known]
        self.durable_names |= {known: inode for known, inode in self.names.items() if known.parent == path}

    def after_cut(self, *, names_kept: bool) -> dict[Path, bytes | None]:
        """Paths relative to the root and their content (None: a directory) after a power cut now."""
        names = self.names if names_kept else self.durable_names
        reached = {self.root}
        for path in sorted(names, key=lambda path: len(path.parts)):
            if path.parent in reached:
                reached.add(path)
        return {
            path.relative_to(self.root): None if (inode := names[path]) is None else inode.durable
            for path in reached - {self.root}
        }

    def after_random_cut(self, rng: random.Random) -> dict[Path, bytes | None]:
        """As after_cut, but of what was not synced a random part is there: names, contents, and halves of contents."""
        names: Tree = {}
        for path in {*self.names, *self.durable_names}:
            chosen = rng.choice((self.names, self.durable_names))
            if path in chosen:
                names[path] = chosen[path]
        reached = {self.root}
        tree: dict[Path, bytes | None] = {}
        for path in sorted(names, key=lambda path: len(path.parts)):
            if path == self.root or path.parent not in reached:
                continue
            inode = names[path]
            if inode is None:
                reached.add(path)
                tree[path.relative_to(self.root)] = None
            else:
                half = inode.content[: len(inode.content) // 2]
                parts = (inode.durable, inode.content, half) if inode.durable != inode.content else (inode.durable,)
                tree[path.relative_to(self.root)] = rng.choice(parts)
        return tree


def lay_out(tree: dict[Path, bytes | None], root: Path) -> None:
    root.mkdir()
    for path in sorted(tree, key=lambda path: len(path.parts)):
        data = tree[path]
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)
