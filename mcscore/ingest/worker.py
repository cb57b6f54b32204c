"""The decoding process: blocks of entries come in on stdin, decoded images go out on stdout, until stdin ends."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import ImageError
from ..pool.pictures.decode import MAX_BYTES, decode_counted, too_large
from ..pool.pictures.pixel_format import PixelFormat
from .sources.entry import Entry, Part, kind_problem

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class ImageFormat:
    """How an image is stored: as pixels, or (``keep_encoded``) its encoded bytes, decoded once as a check."""

    pixels: PixelFormat
    keep_encoded: bool

    @property
    def item_bytes(self) -> int:
        """Of a decoded item."""
        return self.pixels.dtype.itemsize * math.prod(self.pixels.item_shape)


@dataclass(frozen=True)
class DecodedImage:
    """The rows of an entry, or why there are none."""

    rows: np.ndarray | None
    why: str = ""
    converted: tuple[str, ...] = ()


def decode_entry(entry: Entry, image_format: ImageFormat) -> DecodedImage:
    """Read and decode one entry; neither rows nor a reason for one that only tells what was passed over."""
    if entry.data is None and not entry.refused:
        return DecodedImage(None)
    try:
        if entry.refused:
            raise ImageError(entry.refused)
        data = _read(entry.data)
        decoded = decode_counted(data, image_format.pixels)
    except (ImageError, OSError, ValueError) as error:  # ValueError: a path with a zero byte
        return DecodedImage(None, str(error))
    rows = np.frombuffer(data, np.uint8) if image_format.keep_encoded else decoded.pixels[None]
    return DecodedImage(rows, "", decoded.converted)


def _read(data: bytes | Path | Part | None) -> bytes:
    """Return the bytes of an entry; never waits, and never reads more than MAX_BYTES.

    Raises:
        ImageError: not a regular file; too large; a part that is not all there.
    """
    if data is None or isinstance(data, bytes):
        return data or b""
    path, offset, wanted = (data.path, data.offset, data.size) if isinstance(data, Part) else (data, 0, None)
    # Without O_NONBLOCK, opening a FIFO waits for a writer. The kind was checked when the source was listed, and may differ.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        problem = kind_problem(found.st_mode)
        if problem:
            raise ImageError(problem)
        size = found.st_size if wanted is None else wanted
        if size > MAX_BYTES:
            raise too_large(size)
        file.seek(offset)
        content = file.read(size)
        if wanted is not None and len(content) < wanted:
            raise ImageError(f"the archive ends within it: {len(content):,} of {wanted:,} bytes are there")
        return content


# -- the protocol ------------------------------------------------------------------------------------------------------


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message."""
    data = pickle.dumps(message, protocol=5)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: the stream has ended.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def serve() -> None:
    """Decode the blocks that come on stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        while True:
            entries, image_format = receive(sys.stdin.buffer)
            send(answers, [decode_entry(entry, image_format) for entry in entries])
    os._exit(0)  # at an exit of the usual kind, Python would flush the broken pipe and complain
