"""What decides the last bits of a score beside model, items and plan: device, instruction sets, libraries, numeric modes.

Measured: a run of 20,000 items that was resumed with another instruction set (baseline after AVX2) changed 9,318 scores by
up to 4e-7. So a run records its hardware class, and another one needs to be asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...store.files import AnyPath
from ..journal.shard import crc32c
from ..schema import Hardware, to_json

_DRIVER = Path("/proc/driver/nvidia/version")


def hardware_of(device: str, precision: str | None = None) -> Hardware:
    """Describe what scores on a device of PyTorch ("cpu", "cuda:0") are computed with: in the modes of scoring, not those of the process.

    precision: dtype of Execution.
    """
    from ...scorer.numeric import numeric_modes

    with numeric_modes(precision == "tf32"):
        return _hardware_now(device)


def _hardware_now(device: str) -> Hardware:
    import torch

    deterministic = "on" if torch.are_deterministic_algorithms_enabled() else "off"
    precision = torch.get_float32_matmul_precision()
    if not device.startswith("cuda"):
        return _cpu(precision, deterministic)
    backends: Any = torch.backends
    at = torch.device(device)
    if backends.cudnn.deterministic:
        deterministic += ", cudnn deterministic"
    if backends.cudnn.benchmark:
        deterministic += ", cudnn benchmark"
    return Hardware(
        device=torch.cuda.get_device_name(at),
        capability=".".join(map(str, torch.cuda.get_device_capability(at))),
        driver=_driver(),
        cuda=torch.version.cuda or torch.version.hip or "",
        cudnn=str(backends.cudnn.version() or ""),
        matmul_precision=precision,
        tf32={"matmul": backends.cuda.matmul.fp32_precision, "convolution": backends.cudnn.conv.fp32_precision},
        reduced_precision=bool(
            backends.cuda.matmul.allow_bf16_reduced_precision_reduction
            or backends.cuda.matmul.allow_fp16_reduced_precision_reduction
        ),
        attention=_attention(),
        deterministic=deterministic,
    )


def _attention() -> str:
    """Which kernels scaled_dot_product_attention may choose from."""
    import torch

    kinds = ("flash", "mem_efficient", "cudnn", "math")
    return ", ".join(kind for kind in kinds if getattr(torch.backends.cuda, f"{kind}_sdp_enabled")())


def _cpu(precision: str, deterministic: str) -> Hardware:
    import torch

    from ...env import machine
    from ...kernels import native

    built = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return Hardware(
        device=str(machine()["processor"]),
        instruction_set=native.isa() if native.available()[0] else "none (no C++ kernels)",
        torch_instruction_set=torch.backends.cpu.get_cpu_capability(),
        blas=f"{built[1] if built else 'unknown'}{', onednn' if torch.backends.mkldnn.enabled else ''}",
        matmul_precision=precision,
        deterministic=deterministic,
    )


def _driver() -> str:
    """The version of NVIDIA's kernel module; nothing where that is not Linux's."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def class_of(path: AnyPath, recorded: Sequence[Hardware], now: Hardware, mixed: bool) -> int | None:
    """Find ``now`` among the recorded hardware classes: its index, or None if ``mixed`` allows a new one.

    Raises:
        RunError: it is none of them, and ``mixed`` is False. The message names what differs from the first.
    """
    if now in recorded:
        return list(recorded).index(now)
    if mixed or not recorded:
        return None
    raise RunError(
        f"{path} cannot be resumed on other hardware, as the last bits of scores would differ: "
        f"{'; '.join(differences(recorded[0], now))}. Resume where it was started, score into another directory, "
        "or mix the two with mixed_hardware=True (--mixed-hardware)"
    )


def differences(then: Hardware, now: Hardware) -> list[str]:
    """Name the fields that differ, as "instruction set avx2 then, baseline now"."""
    before, after = to_json(then), to_json(now)
    return [
        f"{name.replace('_', ' ')} {_text(value)} then, {_text(after[name])} now"
        for name, value in before.items()
        if value != after[name]
    ]


def conditions(
    hardware: Hardware, versions: Mapping[str, str], threads: int, plan: Mapping[str, Any], code: int = 0
) -> int:
    """Sum up in 32 bits what equal scores depend on: two attempts at a span with equal ones must agree to the last bit."""
    given: dict[str, Any] = {
        "hardware": to_json(hardware),
        "versions": dict(versions),
        "threads": threads,
        "plan": dict(plan),
    }
    if code:
        given["code"] = code
    return crc32c(json.dumps(given, sort_keys=True).encode())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items()) or "none"
    return str(value) or "none"
