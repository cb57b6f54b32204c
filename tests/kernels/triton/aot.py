"""Compile Triton launches for GPUs that are not there, and read what the machine code says.

``compiled(launch, capability)`` compiles a ``Launch`` whose tensors may be on the meta device, with the signature and the
alignment facts that Triton's own launcher would pass, and disassembles the result with the tools of the Triton wheel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mcscore.kernels.triton.launch import Launch

_POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


_INSTRUCTION = re.compile(
    r"^\s+/\*(?P<at>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*);", re.MULTILINE
)


@dataclass(frozen=True)
class Machine:
    """What one compiled kernel is: registers per thread, bytes of local memory (spills), and its opcodes, counted.

    loops: the opcodes of each loop, from the target of a branch backwards to the branch, in the order of the branches.
    """

    registers: int
    local_bytes: int
    opcodes: Counter[str]
    loops: tuple[Counter[str], ...]

    def count(self, *prefixes: str) -> int:
        return sum(n for opcode, n in self.opcodes.items() if opcode.startswith(prefixes))

    @property
    def per_exponential(self) -> float:
        """Instructions per exponential in the loop that has most of them: per logit, where a logit takes one."""
        loop = max(self.loops, key=lambda opcodes: opcodes["MUFU.EX2"])
        return loop.total() / loop["MUFU.EX2"]


def compiled(launch: Launch, capability: int) -> Machine:
    """The machine code of a launch on sm_<capability>."""
    signature, attrs, constants = _specialized(launch)
    source = ASTSource(launch.kernel, signature, constants, attrs)
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (_run("-res-usage", file.name), _run("-sass", file.name))
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = [(int(m["at"], 16), m["opcode"], m["operands"]) for m in _INSTRUCTION.finditer(code)]
    opcodes = Counter(opcode for _, opcode, _ in instructions)
    return Machine(resources["REG"], resources["STACK"] + resources["LOCAL"], opcodes, tuple(_loops(instructions)))


def _loops(instructions: list[tuple[int, str, str]]) -> Iterator[Counter[str]]:
    for at, opcode, operands in instructions:
        target = re.search(r"0x([0-9a-f]+)", operands)
        if opcode.startswith("BRA") and target and int(target[1], 16) < at:  # a branch to itself only fills the end
            yield Counter(opcode for where, opcode, _ in instructions if int(target[1], 16) <= where <= at)


def _specialized(launch: Launch) -> tuple[dict[str, str], dict[tuple[int, ...], Any], dict[str, Any]]:
    """Signature, attributes and constants as Triton's launcher derives them: 1 is a constant, multiples of 16 are known."""
    position = {param.name: i for i, param in enumerate(launch.kernel.params)}
    plain = {param.name for param in launch.kernel.params if param.do_not_specialize}
    signature = dict.fromkeys(position, "constexpr")
    attrs: dict[tuple[int, ...], Any] = {}
    constants = dict(launch.meta)
    for name, value in launch.args.items():
        multiple_of_16 = False
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            multiple_of_16 = value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and name not in plain:
            constants[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            multiple_of_16 = value % 16 == 0 and name not in plain
        if multiple_of_16:
            attrs[(position[name],)] = [["tt.divisibility", 16]]
    return signature, attrs, constants


def _run(option: str, path: str) -> str:
    return subprocess.run([str(_TOOL), option, path], capture_output=True, text=True, check=True).stdout
