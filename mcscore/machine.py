"""Which machine this is, and which of its processes run: for names and locks that other machines see, too."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from pathlib import Path

from .paths import exists

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux; elsewhere the host name alone tells machines apart
_PROCESS_NUMBERS = Path("/proc/self/ns/pid")


def host() -> str:
    """The name of this machine, or of this container."""
    return socket.gethostname()


def boot_id() -> str:
    """What another machine, or this one after its next start, has otherwise; nothing where the system does not say."""
    return _BOOT_ID.read_text().strip() if exists(_BOOT_ID) else ""


@functools.cache
def machine() -> str:
    """Where a process number means the same process, as 8 characters: of host name, boot and namespace of process numbers.

    Containers of one machine have the boot in common and often the host name, but each counts its processes from 1.

    >>> len(machine()), machine() == machine()
    (8, True)
    """
    numbers = os.readlink(_PROCESS_NUMBERS) if exists(_PROCESS_NUMBERS) else ""
    return hashlib.sha256("\0".join((host(), boot_id(), numbers)).encode()).hexdigest()[:8]


def runs(pid: int) -> bool:
    """Whether there is a process of this number on this machine.

    >>> runs(os.getpid()), runs(2**22 + 1)
    (True, False)
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True
