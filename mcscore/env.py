"""Versions of packages, facts about the machine, and which kernels run here or why not."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = ("mcscore", "torch", "triton", "numpy", "zarr", "zarrs", "faiss-cpu", "safetensors", "pyarrow")
REPORT_PACKAGES = ("jinja2", "pillow")


def versions() -> dict[str, str | None]:
    """Look up the installed version of each package that mcscore uses (None: not installed), without importing it."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES + REPORT_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def machine() -> dict[str, Any]:
    """Look up operating system, processor, cores this process may use, memory in bytes, and names of GPUs."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "torch_threads": torch.get_num_threads(),
    }


def describe() -> dict[str, Any]:
    """Collect what `mcscore env` shows, ready for JSON: versions, machine, backends (name -> active, why)."""
    from .kernels import backends

    return {
        "versions": versions(),
        "machine": machine(),
        "backends": {name: {"active": active, "why": why} for name, (active, why) in backends.status().items()},
    }


def text(facts: dict[str, Any]) -> str:
    """Format the result of ``describe`` as aligned lines for a terminal."""
    box = facts["machine"]
    lines = [f"{name:12} {version or '-'}" for name, version in facts["versions"].items()]
    lines += [
        "",
        f"{'system':12} {box['system']}",
        f"{'processor':12} {box['processor']}, {box['cores']} cores, {box['memory'] / 2**30:.1f} GiB",
        f"{'GPUs':12} {', '.join(box['gpus']) or 'none'}",
        f"{'threads':12} {box['torch_threads']} (torch)",
        "",
    ]
    lines += [
        f"{name:12} {'active' if state['active'] else 'inactive'}: {state['why']}"
        for name, state in facts["backends"].items()
    ]
    return "\n".join(lines)


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
