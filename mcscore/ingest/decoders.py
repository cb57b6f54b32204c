"""Processes that decode images. They are new Python processes that import nothing of the caller's script.

multiprocessing would run the script again in each of them: one without ``if __name__ == "__main__":`` would import again.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ..errors import PoolError
from .sources import Entry
from .worker import DecodedImage, ImageFormat, receive, send

# The processes find this package where this one did. A thread ends them when stdin hangs up, for that is when this process
# has ended; it runs before the imports, which take a second.
_PROGRAM = """
import os, select, sys, threading
def watch():
    waiting = select.poll()
    waiting.register(0, 0)
    waiting.poll()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
sys.path[:] = sys.argv[1:]
from mcscore.ingest.worker import serve
serve()
"""


class Decoders:
    """Decodes blocks of entries in a number of processes; use ``decoders``.

    Each process has a thread here that hands it one block at a time and waits for the answer.
    """

    def __init__(self, processes: int, image_format: ImageFormat) -> None:
        self.image_format = image_format
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="mcscore-decode")
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._started: list[subprocess.Popen[bytes]] = []
        for _ in range(processes):
            # A group of its own: Ctrl-C at a terminal is for the parent, which then ends these.
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
            self._started.append(process)
            self._idle.put(process)

    def submit(self, entries: list[Entry]) -> Future[list[DecodedImage]]:
        """Decode a block of entries in the next process that is idle."""
        return self._threads.submit(self._decode, entries)

    def _decode(self, entries: list[Entry]) -> list[DecodedImage]:
        process = self._idle.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(process.stdin, (entries, self.image_format))
            images: list[DecodedImage] = receive(process.stdout)
        except (EOFError, OSError) as error:
            self._idle.put(process)  # the next block fails at once, instead of waiting for ever
            raise PoolError(
                f"a decoding process ended (exit code {_exit_code(process)}) at one of the entries {entries[0].key!r} to "
                f"{entries[-1].key!r}, perhaps for lack of memory; repeat the call to resume"
            ) from error
        self._idle.put(process)
        return images

    def close(self) -> None:
        """End the processes and wait for them."""
        for process in self._started:
            process.kill()  # they hold nothing that could be lost
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._started:
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # bytes for a process that has ended
                    if stream is not None:
                        stream.close()


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=5)
    return None


@contextlib.contextmanager
def decoders(processes: int, image_format: ImageFormat) -> Iterator[Decoders]:
    """Start decoding processes, and end them with the block."""
    made = Decoders(processes, image_format)
    try:
        yield made
    finally:
        made.close()
