"""A power cut, simulated: what a disk holds at any moment if nothing survives but what was fsynced.

A file is a node with content, a directory a node with a table of names. An fsync of a file makes its content durable, one
of a directory the names in it. What is worst depends: the disk may lose names that were not synced, or may keep them and
lose the content.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcscore import atomic


class File:
    def __init__(self, content: bytes = b"", durable: bytes = b"") -> None:
        self.content, self.durable = content, durable


class Folder:
    def __init__(self) -> None:
        self.names: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}


Tree = dict[Path, bytes | None]  # content; None: a directory


class Disk:
    """Follows the steps of mcscore.atomic below ``root``, and calls ``after_step`` after each. What is there is durable."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, ignore_sync_of: str = "") -> None:
        self.root, self.ignore_sync_of = root, ignore_sync_of
        self.top = self._as_it_is(root)
        self.steps: list[str] = []
        for name in atomic.STEPS:
            monkeypatch.setattr(atomic, name, self._following(name, getattr(atomic, name)))

    def _as_it_is(self, path: Path) -> Folder:
        folder = Folder()
        for entry in path.iterdir():
            content = b"" if entry.is_dir() else entry.read_bytes()
            folder.names[entry.name] = self._as_it_is(entry) if entry.is_dir() else File(content, content)
        folder.durable = dict(folder.names)
        return folder

    def _following(self, name: str, step):
        def follow(path: Path, *more) -> None:
            step(path, *more)
            getattr(self, name)(path, *more)
            self.steps.append(name)
            self.after_step()

        return follow

    def after_step(self) -> None: ...

    def _node(self, path: Path) -> File | Folder:
        node: File | Folder = self.top
        for name in path.relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.names[name]
        return node

    def _names(self, path: Path) -> dict[str, File | Folder]:
        """The table that has the name of a path."""
        folder = self._node(path.parent)
        assert isinstance(folder, Folder)
        return folder.names

    def write(self, path: Path, *parts) -> None:
        file = self._names(path).setdefault(path.name, File())
        assert isinstance(file, File)
        file.content = b"".join(bytes(part) for part in parts)

    def make_directory(self, path: Path) -> None:
        self._names(path).setdefault(path.name, Folder())

    def remove(self, path: Path) -> None:
        self._names(path).pop(path.name, None)

    remove_tree = remove

    def link(self, source: Path, target: Path) -> None:
        self._names(target)[target.name] = self._names(source)[source.name]

    def rename(self, source: Path, target: Path) -> None:
        self._names(target)[target.name] = self._names(source).pop(source.name)

    def sync(self, path: Path) -> None:
        node = self._node(path)
        kind = "directory" if isinstance(node, Folder) else "file"
        if kind == self.ignore_sync_of:
            return
        if isinstance(node, Folder):
            node.durable = dict(node.names)
        else:  # what went into an open file is no step of its own
            node.durable = node.content = path.read_bytes()

    def after_cut(self, *, names_kept: bool) -> Tree:
        """Paths relative to the root and their content after a power cut now."""

        def walk(folder: Folder, where: Path) -> Iterator[tuple[Path, bytes | None]]:
            for name, node in (folder.names if names_kept else folder.durable).items():
                yield where / name, None if isinstance(node, Folder) else node.durable
                if isinstance(node, Folder):
                    yield from walk(node, where / name)

        return dict(walk(self.top, Path()))

    def after_random_cut(self, rng: random.Random) -> Tree:
        """As after_cut, but of what was not synced a random part is there: names, contents, and halves of contents."""

        def walk(folder: Folder, where: Path) -> Iterator[tuple[Path, bytes | None]]:
            for name in sorted({*folder.names, *folder.durable}):
                node = rng.choice((folder.names, folder.durable)).get(name)
                if isinstance(node, Folder):
                    yield where / name, None
                    yield from walk(node, where / name)
                elif node is not None:
                    half = node.content[: len(node.content) // 2]
                    parts = (node.durable, node.content, half) if node.durable != node.content else (node.durable,)
                    yield where / name, rng.choice(parts)

        return dict(walk(self.top, Path()))


def lay_out(tree: Tree, root: Path) -> None:
    root.mkdir()
    for path in sorted(tree, key=lambda path: len(path.parts)):
        data = tree[path]
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)
