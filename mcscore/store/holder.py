"""Who holds the lock of a directory, by its file: for messages, and to tell a process of this machine from one elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..machine import boot_id, host, runs
from ..paths import names_in

_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names.

    Attributes:
        alive: whether the process runs; None where this machine cannot tell.
        since: when it took the lock, ISO 8601; empty where the file does not say.
    """

    pid: int
    host: str
    alive: bool | None
    since: str = field(default="", compare=False)

    def facts(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def holder_of(directory: Path) -> Holder | None:
    """Return who writes into a directory, by its lock file; None if nobody does. Takes no lock, so no writer is disturbed.

    Where the process that the file names is gone, and one that it forked still holds the lock, that one is named.
    """
    holder, here = holder_in(directory / "lock"), me()
    if holder is None:
        return None
    pid = int(holder["pid"])
    if holder["host"] != here["host"]:
        return Holder(pid, holder["host"], None, holder["since"])
    if holder["boot_id"] == here["boot_id"] and runs(pid):
        return Holder(pid, holder["host"], True, holder["since"])
    holding = processes_holding(directory / "lock")
    return Holder(holding[0] if holding else pid, holder["host"], bool(holding), holder["since"])


def holder_in(path: Path) -> dict[str, str] | None:
    """Return the fields of the lock file; None if it has none: new, or cut off while it was written."""
    try:
        holder = json.loads(path.read_bytes())
        named = {name: str(holder[name]) for name in ("host", "boot_id")}
        return {"pid": str(int(holder["pid"])), **named, "since": str(holder.get("since", ""))}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def me() -> dict[str, str]:
    """What this process writes into a lock file, beside since when it holds it."""
    return {"pid": str(os.getpid()), "host": host(), "boot_id": boot_id()}


def elsewhere(holder: dict[str, str]) -> bool:
    """Whether the fields of a lock file name a process of another machine."""
    here = me()
    return holder["host"] != here["host"] and (not here["boot_id"] or holder["boot_id"] != here["boot_id"])


def who_holds(path: Path) -> str:
    """Name who holds the kernel's lock: the process that took it, one that was forked from it since, or those that share it."""
    holder, holding = holder_in(path), processes_holding(path)
    if holder is None:
        several = "process " if len(holding) == 1 else "processes "
        return f"{several}{', '.join(map(str, holding))} on {host()}" if holding else "another process"
    if holding and int(holder["pid"]) not in holding:
        return f"process {holding[0]} on {holder['host']}, which inherited the lock of process {holder['pid']}"
    return named(holder)


def named(holder: dict[str, str]) -> str:
    """The process that the fields of a lock file name, in words."""
    since = f" since {holder['since']}" if holder["since"] else ""
    return f"process {holder['pid']} on {holder['host']}{since}"


def processes_holding(path: Path) -> list[int]:
    """The processes of this machine that hold the lock of a file, as far as /proc (of Linux) may be read.

    A lock belongs to an open file. A forked child has that file, too, and holds the lock when its parent is gone.
    """
    found = []
    for pid in names_in(_PROCESSES, "[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            file = os.stat(path)
            for descriptor in os.listdir(_PROCESSES / pid / "fd"):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    if (
                        os.path.samestat(os.stat(_PROCESSES / pid / "fd" / descriptor), file)
                        and "FLOCK" in (_PROCESSES / pid / "fdinfo" / descriptor).read_text()
                    ):
                        found.append(int(pid))
                        break
    return sorted(found)
