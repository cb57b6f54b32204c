"""The actor of Ray that a worker lives in. Ray need not be installed to read this module."""

from __future__ import annotations

import os
import pickle
import queue
import socket
import threading
import time
import traceback
from collections.abc import Mapping

from ...errors import PoolError, RunError
from ...fence import user_code
from ..identity.match import versions
from .orders import Failed, Moved, Reply
from .worker import Inbox, Worker, serve

_TELL = 1.0  # seconds between two messages of an actor on how far it is with a span: each costs the driver a call


class Actor:
    """Takes orders while its worker, in another thread, carries them out; and is asked for the answers.

    Args:
        outfit: pickled ``Outfit``.
        device: "cpu", or "cuda", which is the GPU that Ray gave.
        expected: the versions that the driver has.
    """

    def __init__(self, outfit: bytes, device: str, expected: Mapping[str, str]) -> None:
        self._outfit, self._device, self._expected = outfit, device, expected
        self._inbox, self._replies = Inbox(), queue.SimpleQueue[Reply]()
        self._told = 0.0
        threading.Thread(target=self._work, name="mcscore-worker", daemon=True).start()

    def take(self, order: bytes) -> None:
        """Note a pickled order."""
        self._inbox.put(pickle.loads(order))

    def answers(self) -> bytes:
        """Wait for a reply, and return all that are there by then, pickled."""
        replies = [self._replies.get()]
        while not self._replies.empty():
            replies.append(self._replies.get())
        return pickle.dumps(replies)

    def _work(self) -> None:
        """Make the worker and let it carry out orders, in one thread as the number of threads of a product is a thread's."""
        try:
            try:
                worker = self._made()
            except Exception as error:
                self._replies.put(_named(Failed.of(error), isinstance(error, PoolError)))
                return
            self._replies.put(worker.hello)
            serve(worker, self._inbox, self._reply)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _made(self) -> Worker:
        if differ := [name for name, version in comparable().items() if self._expected.get(name) != version]:
            here = ", ".join(f"{name} {comparable()[name]}" for name in differ)
            there = ", ".join(f"{name} {self._expected.get(name)}" for name in differ)
            raise RunError(
                f"it has {here}, not {there} as the process that commits, which records the versions. Install the same on all nodes; "
                "RayWorkers(runtime_env={'pip': [...]}) does"
            )
        outfit, self._outfit = pickle.loads(self._outfit), b""
        with user_code("the model's code"):
            return Worker(outfit, self._device)

    def _reply(self, reply: Reply) -> None:
        if isinstance(reply, Moved):
            if (now := time.monotonic()) - self._told < _TELL:
                return
            self._told = now
        self._replies.put(reply)


def comparable() -> dict[str, str]:
    """The versions that all workers must have in common. Builds of one version may differ ("2.10.0+cu128"): the hardware class says how."""
    public = {name: version.partition("+")[0] for name, version in versions().items()}
    return public | {"python": ".".join(public["python"].split(".")[:2])}


def _named(failed: Failed, of_pool: bool) -> Failed:
    """The same error, which names the node."""
    why = f"no worker can begin on the node {socket.gethostname()}: {failed.parts[0]}"
    if of_pool:
        why += ". The pool must be where every node can open it: on storage that they share, or at a URL"
    return Failed(failed.name, (why, *failed.parts[1:]))
