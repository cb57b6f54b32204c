"""Every Triton kernel compiles for sm_80, sm_90 and sm_100, keeps its values in registers, and moves 16 bytes at a time.

No GPU is needed: the launches are those of the hosts, on tensors of the meta device, and the machine code is read. The first case of
a kernel is compiled for all three, and each other case for one of them, in turn: a case takes seconds. MCSCORE_EVERY_TARGET=1, as
make test-all has it, compiles all for all.

Another Triton than the installed one:  pip install --no-deps --target DIR triton==3.6.0
                                        PYTHONPATH=DIR python -m pytest tests/kernels/triton/test_aot.py
The figures as a table:                 [PYTHONPATH=DIR] python tests/kernels/triton/test_aot.py
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton import knobs

from mcscore.acquisition import KERNEL_SCORES
from mcscore.kernels import eager
from mcscore.kernels.triton.accumulate import plan_accumulate
from mcscore.kernels.triton.channels_last import plan_dropout_images
from mcscore.kernels.triton.draws import plan_draw
from mcscore.kernels.triton.dropout import plan_dropout
from mcscore.kernels.triton.head import block_columns, plan_head, plan_linear
from mcscore.kernels.triton.joint import plan_conditional_entropy
from mcscore.kernels.triton.launch import Launch
from mcscore.kernels.triton.packed_mask import plan_packed_mask
from mcscore.kernels.triton.score import plan
from mcscore.masks import MaskSpec, rate

from .aot import Machine, compiled

pytestmark = pytest.mark.skipif(knobs.runtime.interpret, reason="this process interprets Triton kernels")

CAPABILITIES = (80, 90, 100)
LIGHT = ("bald", "entropy")


def _score(C: int, dtype: torch.dtype, scores: tuple[str, ...], likelihood: str, step: int = 0) -> Launch:
    return plan(torch.empty(20, 64, C, dtype=dtype, device="meta"), scores, likelihood)[0][step]


def _score_columns(C: int, dtype: torch.dtype) -> Launch:
    return plan(torch.empty(20, C, 4096, dtype=dtype, device="meta").transpose(1, 2), LIGHT, "categorical")[0][0]


def _sums(
    shape: tuple[int, ...], dtype: torch.dtype, scores: tuple[str, ...], likelihood: str, step: int = 0
) -> Launch:
    x, meta = torch.empty(shape, dtype=dtype, device="meta"), torch.device("meta")
    state = eager.new_state(scores, likelihood, shape[1] * torch.Size(shape[3:]).numel(), shape[2], meta)
    return plan_accumulate(x, state, likelihood)[step]


def _dropout(dtype: torch.dtype, p: float, copies: int, E: int, I: int) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(4096, device="meta")
    x_sBEI = torch.empty(copies, 4096, E, I, dtype=dtype, device="meta")
    return plan_dropout(x_sBEI, MaskSpec(9, 3, passes, ids, rate(p)), (1.25, 0.5, 0.0))[0]


def _packed_mask(p: float, elements: int) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(4096, device="meta")
    return plan_packed_mask(MaskSpec(9, 3, passes, ids, rate(p)), elements, "meta")[0]


def _dropout_images(dtype: torch.dtype, whole: bool) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(64, device="meta")
    x_sBCHW = torch.empty(20, 64, 14, 14, 1024, dtype=dtype, device="meta").permute(0, 1, 4, 2, 3)
    return plan_dropout_images(x_sBCHW, MaskSpec(9, 3, passes, ids, rate(0.1)), (1.25, 0.5, 0.0), whole)[0][1]


def _draw(law: str, dtype: torch.dtype, E: int) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(4096, device="meta")
    return plan_draw(law, MaskSpec(9, 3, passes, ids), E, dtype, "meta")[0]


def _head(C: int, dtype: torch.dtype, p: float, scores: tuple[str, ...], step: int = 0) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(4096, device="meta")
    x_BD, weight_CD = (torch.empty(n, 768, dtype=dtype, device="meta") for n in (4096, C))
    return plan_head(x_BD, MaskSpec(9, 3, passes, ids, rate(p)), weight_CD, None, scores, "categorical")[0][step]


def _errors(C: int, dtype: torch.dtype, scores: tuple[str, ...], likelihood: str, step: int = -2) -> Launch:
    """The last launch estimates, the one before leaves out groups, or merges what its predecessor says of tiles."""
    return plan(torch.empty(20, 64, C, dtype=dtype, device="meta"), scores, likelihood, errors=True)[0][step]


def _head_that_keeps(C: int, dtype: torch.dtype, p: float, scores: tuple[str, ...]) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(4096, device="meta")
    x_BD, weight_CD = (torch.empty(n, 768, dtype=dtype, device="meta") for n in (4096, C))
    kept_TBK = torch.empty(20, 4096, block_columns(C), device="meta")
    return plan_head(x_BD, MaskSpec(9, 3, passes, ids, rate(p)), weight_CD, None, scores, "categorical", kept_TBK)[0][0]


def _linear(C: int, dtype: torch.dtype, p: float) -> Launch:
    passes, ids = torch.arange(20, device="meta"), torch.arange(4096, device="meta")
    x_sBLD = torch.empty(1, 4096, 1, 768, dtype=dtype, device="meta")
    weight_CD = torch.empty(C, 768, dtype=dtype, device="meta")
    return plan_linear(x_sBLD, MaskSpec(9, 3, passes, ids, rate(p)), weight_CD, None)[0]


def _joint(C: int, dtype: torch.dtype) -> Launch:
    p_MTC = torch.empty(4096, 100, C, dtype=dtype, device="meta")
    return plan_conditional_entropy(p_MTC, torch.empty(4096, 100, device="meta"), torch.empty(4096, device="meta"))[0]


case = functools.partial
CASES: dict[str, Callable[[], Launch]] = {
    "10 classes": case(_score, 10, torch.bfloat16, LIGHT, "categorical"),
    "10 classes, class-major": case(_score_columns, 10, torch.bfloat16),
    "32 classes, class-major": case(_score_columns, 32, torch.float32),
    "100 classes, all scores": case(_score, 100, torch.float32, KERNEL_SCORES, "categorical"),
    "507 classes, odd rows": case(_score, 507, torch.float16, KERNEL_SCORES, "categorical"),
    "1000 classes": case(_score, 1000, torch.bfloat16, LIGHT, "categorical"),
    "8192 classes, all scores": case(_score, 8192, torch.float32, KERNEL_SCORES, "categorical"),
    "50000 classes, rows, all scores": case(_score, 50000, torch.bfloat16, KERNEL_SCORES, "categorical", 0),
    "50000 classes, tiles, all scores": case(_score, 50000, torch.bfloat16, KERNEL_SCORES, "categorical", 1),
    "50000 classes, merge": case(_score, 50000, torch.bfloat16, KERNEL_SCORES, "categorical", 2),
    **{
        f"{C} classes, {str(dtype)[6:]}": case(_score, C, dtype, LIGHT, "categorical")
        for C in (1024, 4096, 8192, 10_000, 16384)
        for dtype in (torch.bfloat16, torch.float32)
    },
    "24576 classes, bfloat16": case(_score, 24576, torch.bfloat16, LIGHT, "categorical"),
    **{
        f"50000 classes, {'tiles' if step else 'rows'}, {str(dtype)[6:]}": case(
            _score, 50000, dtype, LIGHT, "categorical", step
        )
        for step in (0, 1)
        for dtype in (torch.bfloat16, torch.float32)
    },
    "1000 labels": case(_score, 1000, torch.bfloat16, LIGHT, "bernoulli"),
    "8192 labels, all scores": case(_score, 8192, torch.float32, KERNEL_SCORES, "bernoulli"),
    "errors of 10 classes": case(_errors, 10, torch.bfloat16, LIGHT, "categorical"),
    "errors of 100 classes, all scores": case(_errors, 100, torch.float32, KERNEL_SCORES, "categorical"),
    "errors of 1000 classes": case(_errors, 1000, torch.bfloat16, LIGHT, "categorical"),
    "errors of 4096 classes": case(_errors, 4096, torch.float32, LIGHT, "categorical"),
    "errors of 2048 classes, all scores": case(_errors, 2048, torch.bfloat16, KERNEL_SCORES, "categorical"),
    "errors of 1000 labels, all scores": case(_errors, 1000, torch.bfloat16, KERNEL_SCORES, "bernoulli"),
    "errors of 50000 classes, tiles": case(_errors, 50000, torch.bfloat16, LIGHT, "categorical", -3),
    "errors of 50000 classes, tiles, all scores": case(_errors, 50000, torch.float32, KERNEL_SCORES, "categorical", -3),
    "errors of 50000 classes, merge": case(_errors, 50000, torch.bfloat16, KERNEL_SCORES, "categorical"),
    "errors, estimate": case(_errors, 10, torch.bfloat16, KERNEL_SCORES, "categorical", -1),
    "sums of 10 classes": case(_sums, (20, 4096, 10), torch.bfloat16, LIGHT, "categorical"),
    "sums of pixels, all scores": case(_sums, (4, 2, 21, 64, 64), torch.float32, KERNEL_SCORES, "categorical"),
    "sums of one label, all scores": case(_sums, (20, 4096, 1), torch.float32, KERNEL_SCORES, "bernoulli"),
    "sums of 1000 classes": case(_sums, (20, 64, 1000), torch.bfloat16, LIGHT, "categorical"),
    "sums of 1000 labels, all scores": case(_sums, (20, 64, 1000), torch.float32, KERNEL_SCORES, "bernoulli"),
    "sums of 4096 classes, all scores": case(_sums, (20, 64, 4096), torch.float32, KERNEL_SCORES, "categorical"),
    "sums of 50000 classes, rows": case(_sums, (20, 64, 50000), torch.bfloat16, LIGHT, "categorical"),
    "sums of 50000 classes, tiles, all scores": case(
        _sums, (20, 64, 50000), torch.float32, KERNEL_SCORES, "categorical", 1
    ),
    "dropout, 1 bit": case(_dropout, torch.bfloat16, 0.5, 1, 512, 1),
    "dropout, 16 bits": case(_dropout, torch.float32, 0.3, 20, 512, 1),
    "dropout of channels": case(_dropout, torch.float16, 0.25, 20, 64, 64),
    "dropout of images": case(_dropout_images, torch.bfloat16, False),
    "dropout of channels of images": case(_dropout_images, torch.float32, True),
    "packed mask": case(_packed_mask, 0.1, 197 * 768),
    "uniform numbers": case(_draw, "uniform", torch.float32, 512),
    "normal numbers": case(_draw, "normal", torch.float32, 512),
    "normal numbers, odd rows": case(_draw, "normal", torch.bfloat16, 513),
    "head of 10 classes": case(_head, 10, torch.bfloat16, 0.25, LIGHT),
    "head of 10 classes, half": case(_head, 10, torch.bfloat16, 0.5, LIGHT),
    "head of 100 classes": case(_head, 100, torch.bfloat16, 0.5, LIGHT),
    "head, float32, all scores": case(_head, 50, torch.float32, 0.25, KERNEL_SCORES),
    "merged head of 10 classes": case(_head, 10, torch.bfloat16, 0.25, LIGHT, 1),
    "merged head of 100 classes, all scores": case(_head, 100, torch.bfloat16, 0.5, KERNEL_SCORES, 1),
    "head of 10 classes, keeps": case(_head_that_keeps, 10, torch.bfloat16, 0.25, LIGHT),
    "head of 100 classes, keeps": case(_head_that_keeps, 100, torch.bfloat16, 0.5, LIGHT),
    "head, float32, all scores, keeps": case(_head_that_keeps, 50, torch.float32, 0.25, KERNEL_SCORES),
    "linear": case(_linear, 200, torch.float32, 0.3),
    "joint entropies of 2 classes": case(_joint, 2, torch.float32),
    "joint entropies of 10 classes": case(_joint, 10, torch.float32),
    "joint entropies of 100 classes, half": case(_joint, 100, torch.float16),
    "joint entropies of 1000 classes, half": case(_joint, 1000, torch.bfloat16),
}
COLUMNS = [name for name in CASES if name.endswith("class-major")]
PRODUCTS = {name for name in CASES if name.startswith(("head", "linear", "joint"))}
SPILLED = dict.fromkeys(PRODUCTS, 16) | {
    "16384 classes, float32": 8,
    "8192 labels, all scores": 8,
    "24576 classes, bfloat16": 72,
    "joint entropies of 2 classes": 160,
    "joint entropies of 10 classes": 80,
}
"""Bytes: an address or two, which the assembler at times spills where registers are full (512 threads of 128, or a product). The last
three are measured to be faster than what spills nothing: on sm_90, where the joint entropies spill nothing; on sm_80 they do."""
NARROW_LOADS = {
    "sums of pixels, all scores",
    "sums of one label, all scores",
    "10 classes",
    "10 classes, class-major",
    "32 classes, class-major",
    "507 classes, odd rows",
    "50000 classes, merge",
    "errors of 10 classes",
    "errors of 50000 classes, merge",
    "errors, estimate",
    "keep mask",
    "packed mask",
    "uniform numbers",
    "normal numbers",
    "normal numbers, odd rows",
}
"""Rows that do not start at 16 bytes, or are as many as there are items, which must not change the code; or nothing much to load."""
COUNTED = [name for name in CASES if name.endswith((", bfloat16", ", float32"))]
WIDE_STORES = {
    "dropout, 1 bit",
    "dropout, 16 bits",
    "dropout of channels",
    "keep mask",
    "uniform numbers",
    "normal numbers",
}


def _targets() -> dict[str, tuple[int, ...]]:
    """The capabilities that each case is compiled for."""
    if os.environ.get("MCSCORE_EVERY_TARGET") == "1":
        return dict.fromkeys(CASES, CAPABILITIES)
    targets: dict[str, tuple[int, ...]] = {}
    kernels = set()
    for name, launch in CASES.items():
        if name.endswith(", keeps"):  # it is compared with the case that does not keep
            targets[name] = targets[name.removesuffix(", keeps")]
        elif (kernel := launch().kernel) not in kernels:
            targets[name] = CAPABILITIES
            kernels.add(kernel)
        else:
            targets[name] = (CAPABILITIES[len(targets) % len(CAPABILITIES)],)
    return targets


TARGETS = _targets()


def compiled_cases(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "capability"), [(name, cc) for name in names for cc in TARGETS[name]])


@functools.cache
def machine_of(name: str, capability: int) -> Machine:
    return compiled(CASES[name](), capability)


@compiled_cases(CASES)
def test_kernel_keeps_its_values_in_registers_and_moves_sixteen_bytes(name: str, capability: int) -> None:
    machine = machine_of(name, capability)
    allowed = SPILLED.get(name, 0)
    assert machine.local_bytes <= allowed, f"{machine.local_bytes} bytes spilled at {machine.registers} registers"
    assert machine.count("STL", "LDL") <= allowed
    if name not in NARROW_LOADS | PRODUCTS:
        assert machine.count("LDG.E.128", "LDG.E.ENL2.256") > 0, machine.opcodes
    if name in WIDE_STORES:
        assert machine.count("STG.E.128", "STG.E.ENL2.256") > 0, machine.opcodes


@compiled_cases(sorted(PRODUCTS))
def test_products_run_on_tensor_cores(name: str, capability: int) -> None:
    """Programs of fewer than four warps take the instruction that all generations have."""
    opcode = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[capability]
    assert machine_of(name, capability).count(opcode, "HMMA") > 0


@compiled_cases(["head of 10 classes, half"])
def test_half_of_the_features_are_dropped_by_five_instructions_each(name: str, capability: int) -> None:
    """In the loop over the features: 64 features of 32 items in four passes, by 64 threads."""
    loop = max(machine_of(name, capability).loops, key=lambda opcodes: opcodes["HMMA.16816.F32.BF16"])
    assert loop.total() <= 5 * 32 * 64 * 4 / 64


@compiled_cases(COUNTED)
def test_a_logit_takes_twelve_instructions_of_which_one_is_an_exponential(name: str, capability: int) -> None:
    """14 instructions and 1.7 exponentials are what full memory speed allows on an H200 at 2 bytes per logit."""
    machine = machine_of(name, capability)
    assert machine.per_exponential <= 12
    assert max(loop["MUFU.EX2"] for loop in machine.loops) <= 49  # of 48 logits per thread at most


@compiled_cases(["errors of 1000 classes", "errors of 4096 classes", "errors of 50000 classes, tiles"])
def test_errors_take_fifty_instructions_per_logit_where_a_group_is_a_pass(name: str, capability: int) -> None:
    """Two loops, each with one exponential per logit: the mean, then the groups."""
    loops = [loop for loop in machine_of(name, capability).loops if loop["MUFU.EX2"] >= 16]
    mean, *_, group = sorted(loop.total() / loop["MUFU.EX2"] for loop in loops)
    assert mean <= 12
    assert mean + group <= 52
    assert max(loop["MUFU.EX2"] for loop in loops) <= 17  # of 16 logits per thread


@compiled_cases(sorted(name for name in PRODUCTS if name.endswith(", keeps")))
def test_a_head_that_keeps_its_logits_computes_scores_by_the_same_instructions(name: str, capability: int) -> None:
    """Of float arithmetic, shuffles and products, whose number would change with the order of sums or with what is fused."""
    kinds = ("FFMA", "FMUL", "FADD", "FMNMX", "MUFU", "SHFL", "HMMA", "HGMMA", "UTCHMMA", "F2F")

    def arithmetic(case: str) -> Counter[str]:
        counted: Counter[str] = Counter()
        for opcode, times in machine_of(case, capability).opcodes.items():
            if opcode.startswith(kinds):  # FFMA2 is two at once: the assembler's choice, and the same rounding
                counted[opcode.replace("FFMA2", "FFMA")] += times * (2 if opcode.startswith("FFMA2") else 1)
        return counted

    assert arithmetic(name.removesuffix(", keeps")) == arithmetic(name)


@compiled_cases(["10 classes", *COLUMNS, "100 classes, all scores", "1000 classes"])
def test_rows_of_small_models_never_cross_shared_memory(name: str, capability: int) -> None:
    """An item's classes lie in one thread (10) or one warp (100, 1000), so nothing waits at a barrier."""
    machine = machine_of(name, capability)
    assert machine.count("STS", "LDS", "BAR") == 0, machine.opcodes
    if name == "10 classes":
        assert machine.count("SHFL") == 0, machine.opcodes
    if (
        name in COLUMNS
    ):  # no sum over lanes; with two items per thread their entropies change places, 2 SHFL.IDX per pass
        assert machine.count("SHFL.BFLY") == 0
        assert all(loop["SHFL.IDX"] <= 2 for loop in machine.loops)


def main() -> None:
    """Instructions per exponential in the busiest loop, registers and spilled bytes, as Markdown."""
    print(f"Triton {triton.__version__}: instructions per logit / registers / bytes spilled\n")
    print("| kernel | " + " | ".join(f"sm_{cc}" for cc in CAPABILITIES) + " |\n| --- |" + " --- |" * len(CAPABILITIES))
    for name in CASES:
        cells = []
        for cc in CAPABILITIES:
            machine = machine_of(name, cc)
            counts = any(loop["MUFU.EX2"] for loop in machine.loops) and name not in PRODUCTS
            per_logit = f"{machine.per_exponential:.1f}" if counts else "-"
            cells.append(f"{per_logit} / {machine.registers} / {machine.local_bytes}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
