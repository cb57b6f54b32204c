"""The Ray cluster that this process is connected to, for as long as a team of actors works in it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from ...errors import RunError

_CONNECT = 15.0  # seconds in which the head node must answer

_lock = threading.Lock()
_teams = 0
_ours = False  # whether this module connected the process


def connect(address: str) -> None:
    """Connect this process to a cluster, unless it is already.

    Args:
        address: "auto" (the cluster of this process, of RAY_ADDRESS or of this machine), "local" (a new one of this machine's
            processes), or "HOST:PORT".

    Raises:
        RunError: there is no such cluster, or the process is connected to another one.
    """
    global _ours
    with _lock:
        if ray.is_initialized():
            there = ray.get_runtime_context().gcs_address
            if address not in ("auto", there) and not (_ours and address == "local"):
                raise RunError(
                    f"this process is connected to Ray at {there} already: use that as 'auto', or call ray.shutdown()"
                )
            return
        if address.startswith("ray://"):
            raise RunError(
                f"{address} is an address of Ray Client, which mcscore does not use: start the command on a node of the cluster, with "
                "'auto', or hand it in with `ray job submit`"
            )
        try:
            _require_listening(address)
            with _handlers_kept(), _without_usage_stats(address == "local"):
                ray.init(
                    address=address,
                    logging_level=logging.WARNING,
                    **({"include_dashboard": False} if address == "local" else {}),
                )
        except Exception as error:  # Ray raises a plain Exception where a node does not start in time
            failed = (
                "a Ray cluster could not be started here"
                if address == "local"
                else f"there is no Ray cluster to connect to at {address!r}"
            )
            raise RunError(f"{failed}: {error}") from error
        _ours = True


def _require_listening(address: str) -> None:
    """OSError if nobody is at HOST:PORT: Ray would try for more than five minutes."""
    there = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = there.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()


def join() -> None:
    """Keep the connection until ``leave``."""
    global _teams
    with _lock:
        _teams += 1


def leave() -> None:
    """End the connection if nobody else needs it and it was made here; a local cluster ends with it."""
    global _teams, _ours
    with _lock:
        _teams -= 1
        if _teams == 0 and _ours:
            _ours = False
            with _handlers_kept():
                ray.shutdown()


def rooms(needs: Mapping[str, float]) -> int:
    """How many workers the nodes that are there have room for, if nobody else used them."""
    return sum(
        min(int(node.get(name, 0) / amount) for name, amount in needs.items() if amount) if any(needs.values()) else 1
        for node in nodes()
    )


def nodes() -> list[dict[str, Any]]:
    """The resources of each node, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def text(resources: Mapping[str, float]) -> str:
    """CPUs, GPUs and the user's own resources, as "CPU 8, GPU 1"."""
    shown = {name: amount for name, amount in sorted(resources.items()) if amount and not _is_rays(name)}
    return ", ".join(f"{name} {amount:g}" for name, amount in shown.items()) or "nothing"


def _is_rays(name: str) -> bool:
    return name in ("memory", "object_store_memory") or name.startswith(("node:", "accelerator_type:"))


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets a handler of SIGTERM that ends the process at once: ours, which lets the span be committed, stays."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _without_usage_stats(local: bool) -> Iterator[None]:
    """A cluster that we start sends no statistics to Ray's makers, unless the user has set what Ray reads."""
    name = "RAY_USAGE_STATS_ENABLED"
    if not local or name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        del os.environ[name]
