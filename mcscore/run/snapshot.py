"""Which items a run skips, fixed when it starts: the pool's labels and flags may change while the run goes on.

So every worker, and every later attempt, leaves out the same items, and a worker needs no labels. In the run directory:

    skipped/<start>-<stop>      one part: the items start..stop-1, at most 2^24 of them

    offset   bytes
    0        40       magic, run id, start, stop (little-endian uint64)
    40                zlib: one bit per item, 1 = skipped, the first item in the highest bit of the first byte
    end - 4  4        crc32c of all bytes before it

A part is written once, and never changes. The items that are appended to the pool get parts of their own. Memory is that of one
part, 2 MiB, whatever the pool.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import RunError
from ..store.place import AnyPath, Place, place_at
from .journal.shard import crc32c
from .scoring.task import Flags
from .skipped import Flagged, count, first_kept

DIRECTORY = "skipped"
PART = 1 << 24  # items in a part at most
_STRIDE = 1 << 16  # items whose labels and flags are read at a time; whole bytes of bits

_HEAD = struct.Struct("<8s16sQQ")
_MAGIC = b"mcskip01"
_CRC = struct.Struct("<I")
_NAME = re.compile(r"(0|[1-9][0-9]{0,18})-([1-9][0-9]{0,18})", re.ASCII)

Bits = npt.NDArray[np.uint8]


class Part(NamedTuple):
    """The items start..stop-1, which have a file of their own."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.start}-{self.stop}"

    @property
    def file(self) -> str:
        """The name of the file, from the run directory on."""
        return f"{DIRECTORY}/{self.name}"


class Snapshot:
    """The items of a run that are skipped: ``snapshot[start:stop]`` are the flags of a range.

    A damaged part is found when it is read: RunError names the file and says what to do.

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> snapshot = Snapshot.take(folder, "ab" * 16, 4, np.array([True, False, True, False]))
    >>> snapshot[1:4].tolist(), snapshot.first_kept(), snapshot.count(3)
    ([False, True, False], 1, 2)
    """

    def __init__(self, place: Place, run: str, n: int, parts: Sequence[Part]) -> None:
        """Use :meth:`take` or :meth:`open`."""
        self._place, self._run, self._n, self._parts = place, run, n, parts
        self._starts = [part.start for part in parts]
        self._held: tuple[Part, Bits] | None = None  # what was read last; one assignment, as two threads may read

    @staticmethod
    def take(path: AnyPath, run: str, n: int, skipped: Flagged, known: int = 0) -> Snapshot:
        """Fix which items are skipped, as far as they are not fixed yet; durable on return. Hold the run's lock.

        A part that is there and whole stands, also if another process has made it meanwhile.

        Args:
            path: the run directory.
            run: the run's id.
            n: items in the pool.
            skipped: of the pool as it is now.
            known: the items before this one must have been fixed, as some of them are scored; that a part there is missing or
                damaged, and written anew, is told by a warning.

        Raises:
            RunError: a part cannot be read for a reason that may pass.
            OSError: of the disk.
        """
        place = place_at(path)
        place.lay_out(DIRECTORY, alone=False)  # several may, see below
        there = _parts_in(place)
        for part in _missing(there, n):
            _tell(place, part, "missing", known)
            try:
                place.create(part.file, _bytes_of(run, part, skipped))
            except FileExistsError:  # another process was faster, and what it has fixed stands
                place.sync(part.file)  # the name may not be durable yet
        for part in (part for part in there if part.stop <= n):
            try:
                _read(place, run, part)
            except _Damaged as damage:
                _tell(place, part, str(damage), known)
                place.replace(part.file, _bytes_of(run, part, skipped))
        return Snapshot.open(path, run, n)

    @staticmethod
    def open(path: AnyPath, run: str, n: int) -> Snapshot:
        """Open what is fixed of the first ``n`` items of a run.

        Raises:
            RunError: a part is missing.
        """
        place = place_at(path)
        parts = _parts_in(place)
        for one, other in itertools.pairwise(parts):
            if other.start < one.stop:
                raise RunError(
                    f"{place.path / DIRECTORY} has the parts {one.name} and {other.name}, which overlap: remove one of them"
                )
        for part in _missing(parts, n):
            raise _unusable(place, part, "missing")
        return Snapshot(place, run, n, parts)

    def __getitem__(self, part: slice) -> Flags:
        start, stop, _ = part.indices(self._n)
        flags = np.empty(max(0, stop - start), bool)
        at = start
        while at < stop:
            here = self._parts[bisect.bisect_right(self._starts, at) - 1]
            last = min(stop, here.stop)
            flags[at - start : last - start] = self._flags(here, at, last)
            at = last
        return flags

    def first_kept(self) -> int | None:
        """The first item that is not skipped; None if there is none."""
        return first_kept(self, self._n)

    def count(self, n: int) -> int:
        """How many of the first n items are skipped."""
        return count(self, n)

    def _flags(self, part: Part, start: int, stop: int) -> Flags:
        """The flags of the items start..stop-1, all of them in one part."""
        held = self._held
        if held is None or held[0] != part:
            try:
                held = self._held = part, _read(self._place, self._run, part)
            except _Damaged as damage:
                raise _unusable(self._place, part, str(damage)) from None
        first, last = start - part.start, stop - part.start
        bits = np.unpackbits(held[1][first // 8 : -(-last // 8)])
        return bits[first % 8 : first % 8 + last - first].view(bool)


class _Damaged(Exception):
    """Why a file is not the part that this run wrote."""


def is_part(data: bytes) -> bool:
    """Whether a file is a part of some run's, whole or cut off."""
    return data[: len(_MAGIC)] == _MAGIC


def _parts_in(place: Place) -> list[Part]:
    """The parts that have a file, in order."""
    found = [_NAME.fullmatch(name) for name in place.names(DIRECTORY)]
    parts = sorted(Part(int(match[1]), int(match[2])) for match in found if match)
    return [part for part in parts if part.start < part.stop]


def _missing(parts: Sequence[Part], n: int) -> list[Part]:
    """The parts to be made, so that each of the n items is in one."""
    missing, at = [], 0
    for start, stop in (*parts, Part(n, n)):
        end = min(start, n)
        missing += [Part(first, min(first + PART, end)) for first in range(at, end, PART)]
        at = max(at, stop)
    return missing


def _tell(place: Place, part: Part, why: str, known: int) -> None:
    if part.start < known:
        warnings.warn(
            f"{place.path / part.file}: {why}. Which of the items {part.start}..{part.stop - 1} are skipped is fixed anew, by the labels "
            "and exclusions that the pool has now; what is scored of them stays",
            stacklevel=3,
        )


def _bytes_of(run: str, part: Part, skipped: Flagged) -> bytes:
    """The content of the file of a part."""
    pack = zlib.compressobj(1)
    pieces = [_HEAD.pack(_MAGIC, bytes.fromhex(run), *part)]
    for start in range(part.start, part.stop, _STRIDE):
        pieces.append(pack.compress(np.packbits(skipped[start : min(start + _STRIDE, part.stop)]).data))
    data = b"".join([*pieces, pack.flush()])
    return data + _CRC.pack(crc32c(data))


def _read(place: Place, run: str, part: Part) -> Bits:
    """The bits of a part, packed.

    Raises:
        _Damaged: they are not those that this run wrote.
        RunError: they cannot be read now.
    """
    try:
        data = place.read(part.file)
    except FileNotFoundError:
        raise _Damaged("missing") from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise _Damaged("the disk cannot read it") from None
        raise RunError(f"{place.path / part.file} cannot be read: {error.strerror}; nothing was changed") from error
    content, crc = data[: -_CRC.size], data[-_CRC.size :]
    if len(data) < _HEAD.size + _CRC.size or crc != _CRC.pack(crc32c(content)):
        raise _Damaged("crc32c mismatch")
    if _HEAD.unpack_from(content) != (_MAGIC, bytes.fromhex(run), *part):
        raise _Damaged("written for another run, or for other items")
    return np.frombuffer(zlib.decompress(content[_HEAD.size :]), np.uint8)


def _unusable(place: Place, part: Part, why: str) -> RunError:
    return RunError(
        f"{place.path / part.file} cannot be used: {why}. It says which items were labeled or excluded when the run started. Put it "
        "back from a copy; or score into the same directory again, which writes it anew from the labels and exclusions of now"
    )
