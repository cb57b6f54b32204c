"""A team of processes of this machine, one per device, that talk through a socket each.

Not by multiprocessing, which runs the user's script again in every process, and hangs where that has no main guard. A worker ends
when its socket does, so none outlives the process that started it, however that ended.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ...fence import user_code
from .orders import Ended, Failed, Order, Outfit, Reply
from .worker import Worker, serve

_GRACE = 5.0  # seconds until a process whose socket is closed is killed


@dataclass
class _Process:
    child: subprocess.Popen[bytes]
    connection: Connection
    device: str


class ProcessTeam:
    """Processes of this machine, each on one of ``devices``; the first that is free is taken."""

    def __init__(self, outfit: Outfit, devices: Sequence[str]) -> None:
        self._outfit, self._devices = outfit, list(devices)
        self._processes: dict[int, _Process] = {}
        self._begun = 0

    def begin(self) -> int:
        """Start a process and return its number."""
        used = [each.device for each in self._processes.values()]
        device = min(self._devices, key=lambda each: used.count(each) - self._devices.count(each))
        ours, theirs = socket.socketpair()
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-m", "mcscore.run.scoring.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what the user's code prints; ours is for the answer
                env=os.environ | {"OMP_NUM_THREADS": str(self._outfit.threads), "PYTHONPATH": _path()},
            )
        process = _Process(child, Connection(ours.detach()), device)
        self._begun += 1
        self._processes[self._begun] = process
        self._send(process, (self._outfit, device))
        return self._begun

    def send(self, worker: int, order: Order) -> None:
        """Give a process an order."""
        if worker in self._processes:
            self._send(self._processes[worker], order)

    def _send(self, process: _Process, message: object) -> None:
        with contextlib.suppress(OSError):  # it has ended, which ``wait`` tells
            process.connection.send_bytes(pickle.dumps(message))

    def wait(self, seconds: float) -> list[tuple[int, Reply]]:
        """Return one answer of each process that has one."""
        numbers = {process.connection: number for number, process in self._processes.items()}
        replies: list[tuple[int, Reply]] = []
        for connection in wait(list(numbers), seconds):
            number = numbers[connection]  # type: ignore[index]  # these are what was waited for
            try:
                replies.append((number, pickle.loads(self._processes[number].connection.recv_bytes())))
            except (EOFError, OSError):
                replies.append((number, Ended(_how(self._gone(number)))))
        return replies

    def end(self, worker: int) -> None:
        """Kill a process."""
        if worker in self._processes:
            self._processes[worker].child.kill()

    def close(self) -> None:
        """Kill all processes; they have nothing to lose."""
        for process in self._processes.values():
            process.child.kill()
        for number in list(self._processes):
            self._gone(number)

    def _gone(self, number: int) -> int:
        """The exit code of a process that is ending."""
        process = self._processes.pop(number)
        process.connection.close()
        try:
            return process.child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.child.kill()
            return process.child.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _path() -> str:
    """What this process can import its workers can."""
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


class _Unpickled(queue.SimpleQueue[Any]):
    """A queue of pickled messages, each read by who takes it."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next message; queue.Empty if there is none in time."""
        return pickle.loads(super().get(block, timeout))


def main(descriptor: int) -> None:
    """Be a worker: begin with what comes first through a socket, and end when that does."""
    for number in (signal.SIGINT, signal.SIGHUP):  # they go to a whole group, and whoever started this process decides
        signal.signal(number, signal.SIG_IGN)
    connection, inbox = Connection(descriptor), _Unpickled()

    def reply(answer: Reply) -> None:
        connection.send_bytes(pickle.dumps(answer))

    def receive() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                inbox.put(connection.recv_bytes())
        os._exit(0)  # whoever started this process is gone, or has no use for it

    # Before torch is imported, which takes seconds, so that the end is seen meanwhile, too.
    threading.Thread(target=receive, name="mcscore-orders", daemon=True).start()
    outfit, device = inbox.get()
    try:
        with user_code("the model's code"):
            worker = Worker(outfit, device)
    except Exception as error:
        reply(Failed.of(error))
        return
    reply(worker.hello)
    serve(worker, inbox, reply)
