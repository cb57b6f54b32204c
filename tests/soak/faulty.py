"""Makes the n-th system call of a kind fail that touches a folder: for use in a child process."""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

READS = ("stat", "lstat", "fstat", "open", "io.open", "read", "pread", "preadv", "readinto", "listdir", "scandir")
WRITES = ("os.create", "write", "pwrite", "fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Faults:
    """Counts the calls of some kinds that touch a folder, and lets one of them fail.

    Args:
        folder: other paths are left alone, among them Python's own modules.
        kinds: out of READS or WRITES.
        nth: the call that fails, from 0 on; -1: none.
        code: the errno; 0: a read gives fewer bytes than it could.
        times: how many calls fail from then on.
    """

    def __init__(
        self, folder: Path, kinds: tuple[str, ...], nth: int = -1, code: int = errno.EIO, times: int = 1
    ) -> None:
        self.folder, self.nth, self.code, self.times = os.path.realpath(folder) + "/", nth, code, times
        self.calls: list[str] = []
        for kind in kinds:
            self._install(kind)

    def _install(self, kind: str) -> None:
        if kind == "io.open":
            real = io.open
            builtins.open = io.open = functools.partial(self._io_open, real)  # type: ignore[assignment]
        elif kind == "readinto":
            pass  # by io.open
        elif kind in ("open", "os.create"):
            real_open, creating = os.open, kind == "os.create"

            def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
                if bool(flags & _WRITING) is creating:
                    self._call(kind, path)
                return real_open(path, flags, *args, **kwargs)

            os.open = opened  # type: ignore[assignment]
        else:
            setattr(os, kind, self._wrapped(kind, getattr(os, kind)))

    def _wrapped(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            short = self._call(kind, args[0] if args else ".")
            if short and kind == "preadv":
                return real(args[0], [next(v for v in map(memoryview, args[1]) if v.nbytes).cast("B")[:3]], *args[2:])
            if short and kind in ("read", "pread"):
                return real(args[0], min(3, args[1]), *args[2:])
            return real(*args, **kwargs)

        return call

    def _io_open(self, real: Callable[..., Any], file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "r" in mode and "+" not in mode:
            self._call("io.open", file)
        opened = real(file, mode, *args, **kwargs)
        raw = getattr(getattr(opened, "buffer", opened), "raw", None)
        if (
            "r" in mode
            and "+" not in mode
            and isinstance(file, (str, os.PathLike))
            and raw is not None
            and self._in(file)
        ):
            opened.close()
            failing: Any = io.BufferedReader(_Raw(self, os.fspath(file)))
            return failing if "b" in mode else io.TextIOWrapper(failing, encoding=kwargs.get("encoding"))
        return opened

    def _call(self, kind: str, path: Any) -> bool:
        """Count a call; raises if it is to fail, and returns whether it is to be short."""
        if not self._in(path):
            return False
        number = len(self.calls)
        self.calls.append(f"{kind} {_path(path).removeprefix(self.folder)}")
        if self.nth <= number < self.nth + self.times and self.nth >= 0:
            if self.code:
                raise OSError(self.code, os.strerror(self.code), _path(path))
            return True
        return False

    def _in(self, path: Any) -> bool:
        found = _path(path)
        return found.startswith(self.folder) and "__pycache__" not in found


class _Raw(io.FileIO):
    """A file whose reads are counted, and fail, as those of os are."""

    def __init__(self, faults: Faults, path: str) -> None:
        super().__init__(path)
        self._faults, self._path = faults, path

    def readinto(self, buffer: Any) -> int | None:
        if self._faults._call("readinto", self._path):
            return super().readinto(memoryview(buffer)[:3])
        return super().readinto(buffer)

    def readall(self) -> bytes:
        parts = []
        while part := self.read(1 << 16):
            parts.append(part)
        return b"".join(parts)

    def read(self, size: int | None = -1, /) -> bytes | None:
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer) or 0])


_readlink = os.readlink


def _path(path: Any) -> str:
    if isinstance(path, int):
        try:
            return _readlink(f"/proc/self/fd/{path}")
        except OSError:
            return ""
    try:
        return os.path.abspath(os.fsdecode(path))
    except TypeError:  # a DirEntry, or nothing
        return ""
