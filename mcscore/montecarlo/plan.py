"""Choose how many items and passes go through the model in one step: enough to fill the device, few enough for its memory.

The plan follows from measured sizes (activations per item, and per item and pass), never from measured times: another batch shape
changes the last bits of a matrix product, and two runs of the same job must agree to the last bit on a quiet machine and on a busy
one. A run records its plan, and a resumed run adopts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from .apply_masks import BatchedMasks
from .choose import choose_strategy
from .discovery.sites import Site
from .guard.state import evaluating
from .masked_forward import MaskedForward
from .ops.intercept import call_model
from .passes import Passes, Strategy

_MEMORY = 256 << 20  # bytes of activations per step, unless the caller says otherwise
# On a GPU: ResNet-50 with its head in 256 MiB is 27 items a step, and did 1,930 items/s on an H100, where steps of 8 GiB, 891
# items, did 5,810 and a forward pass of 256 items 6,190. More gives no more.
_GPU_MEMORY = 8 << 30
_LARGEST = 2**31 - 1  # values of one tensor: several kernels of PyTorch and cuDNN count them in 32 bits
# Bytes of activations per step on a CPU. Measured on one core with 512 kB L2 and 32 MB L3: a ViT (0.6 MB per item and pass) does
# 0.56 of its best rate at 2 MB, 0.9 at 24 MB and 1 from 47 MB on; a CNN with a 3872-feature head gains nothing beyond 64 MB.
_WORKING_SET = 64 << 20
# Of those before the first site on a CPU: glibc maps every buffer above 32 MiB afresh, and each of its pages costs a fault. A model of
# one cheap convolution did 25,500 items/s with steps of 32 MiB and 12,200 with 64.
_PREFIX_SET = 28 << 20
# Bytes of sums per output value, counted from kernels.eager and not measured: float64 p and p2 and int32 votes, and
# two float64 means as they are finished.
_SUMS = 36


@dataclass(frozen=True)
class Plan:
    """How many items and passes a step has, how its passes run, and what was measured to choose that."""

    items: int  # per step
    passes: int  # per chunk of a step; the prefix of a step runs once, whatever the number of chunks
    path: str  # how the passes run, see passes.PATHS
    threads: int  # of torch, when the plan was made
    prefix_bytes: (
        int  # estimated peak activations of one item before the first site; on path "head" with its logits of one pass
    )
    tail_bytes: int  # estimated peak activations of one item and pass after the first site
    prefix_flops: int  # per item
    tail_flops: int  # per item and pass
    fused: tuple[str, ...] = ()  # sites that run as one operation with the Linear behind them
    why: str = ""  # why faster paths were passed over
    autocast: str = ""  # precision of products, if not the model's own: "bfloat16"
    precision: str = ""  # why this precision
    # Per item, of sums over passes that come in chunks, or of all outputs where a score needs them: only for these are steps smaller.
    sums_bytes: int = 0

    @property
    def memory(self) -> int:
        """Estimated peak bytes of activations in one step."""
        return self.items * (self.prefix_bytes + self.sums_bytes + self.passes * self.tail_bytes)

    @property
    def strategy(self) -> Strategy:
        """The strategy of its passes."""
        return Strategy(self.path, frozenset(self.fused), self.why)

    def halved(self) -> Plan | None:
        """The next smaller step: half the items, then half the passes; None if there is nothing left to halve."""
        if self.items > 1:
            return dataclasses.replace(self, items=self.items // 2)
        if self.passes > 1 and self.path != "head":
            return dataclasses.replace(self, passes=self.passes // 2)
        return None

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(recorded: Mapping[str, Any]) -> Plan:
        """The plan that a run recorded. ValueError if it has other fields."""
        names = {field.name for field in dataclasses.fields(Plan)}
        unknown, lacking = set(recorded) - names, names - set(recorded)
        if unknown or lacking:
            raise ValueError(
                f"recorded plan has unknown fields {sorted(unknown)} and lacks {sorted(lacking)}; it was written by another version"
            )
        return Plan(**{**recorded, "fused": tuple(recorded["fused"])})


class _Meter(MaskedForward):
    """Counts the bytes of results and the FLOPs before and after the first site fires."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.largest: tuple[list[int], list[int]] = ([0, 0, 0], [0, 0, 0])
        self.widest = [1, 1]  # most values of one result
        self.flops_at_site: int | None = None
        self.flops: Callable[[], int] = lambda: 0

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        self._note(result)
        return result

    def _note(self, result: Any) -> None:
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note_bytes(leaf.numel() * leaf.element_size())
                after = self.flops_at_site is not None
                self.widest[after] = max(self.widest[after], leaf.numel())

    def note_bytes(self, size: int) -> None:
        sizes = self.largest[self.flops_at_site is not None]
        sizes.append(size)
        sizes.sort(reverse=True)
        sizes.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = len(self.fired)
        result = super().__torch_function__(func, types, args, kwargs)
        if before != len(self.fired):
            self._note(result)
        return result

    def _fire(self, site: Site) -> None:
        if not self.fired:
            self.flops_at_site = self.flops()
        super()._fire(site)


class _Flops(TorchDispatchMode):
    """PyTorch's count of products, without its tracking of modules: that fails on an expanded Parameter (a class token)."""

    def __init__(self, scratch: Callable[[int], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total, self.scratch = 0, scratch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import torch._dynamo, 1.5 s, to leave out a frame that nobody compiles

    def __torch_dispatch__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in _RECURRENT_FLOPS:
            self.total += _RECURRENT_FLOPS[packet](*args)
            if packet is torch.ops.aten.mkldnn_rnn_layer:
                self.scratch(_onednn_scratch(*args))
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=result)
        return result


def _onednn_flops(x: Tensor, w_ih: Tensor, w_hh: Tensor, *_args: Any) -> int:
    """Of one layer in one direction: a product with each weight matrix per time step and item."""
    return 2 * x[..., 0].numel() * (w_ih.numel() + w_hh.numel())


def _onednn_scratch(x: Tensor, _w_ih: Tensor, w_hh: Tensor, *_args: Any) -> int:
    """Bytes of the gates of all time steps, which no result shows: an LSTM's are four times its output."""
    return x[..., 0].numel() * w_hh.shape[0] * x.element_size()


def _cudnn_flops(x: Tensor, weights: list[Tensor], *_args: Any) -> int:
    return 2 * x[..., 0].numel() * sum(w.numel() for w in weights if w.ndim == 2)


# PyTorch's counter has no formulas for recurrent layers.
_RECURRENT_FLOPS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mkldnn_rnn_layer: _onednn_flops,
    torch.ops.aten._cudnn_rnn: _cudnn_flops,
}


@dataclass(frozen=True)
class Measured:
    """What one item costs, and one item and pass."""

    prefix_bytes: int
    tail_bytes: int
    prefix_flops: int
    tail_flops: int
    output_values: int  # of an item in one pass
    output_bytes: int
    prefix_values: int  # of the largest tensor
    tail_values: int


def measure(passes: Passes, inputs: Any, ids_B: Tensor) -> Measured:
    """Bytes and FLOPs before and behind the first site, from one pass over a small batch.

    Peak activations are taken as the three largest results: the input, the output and one branch kept for later.
    """
    B = ids_B.numel()
    first = torch.zeros(1, dtype=torch.int64, device=ids_B.device)
    meter = _Meter(passes.model, passes.found, BatchedMasks(passes.stream(ids_B), first), None)
    inputs = tree_map_only(Tensor, torch.clone, inputs)
    meter._note(inputs)
    evaluation = evaluating(passes.model, passes.found.training, passes.found.written)
    with _Flops(meter.note_bytes) as flops, evaluation, meter:
        meter.flops = lambda: flops.total
        output = meter.deferred.materialize_output(call_model(passes.model, inputs))
    at_site = meter.flops_at_site or 0
    prefix, tail = (sum(sizes) // B for sizes in meter.largest)
    values = output.numel() // B
    return Measured(
        max(prefix, 1),
        max(tail, 1),
        at_site // B,
        (flops.total - at_site) // B,
        values,
        values * output.element_size(),
        *(-(-widest // B) for widest in meter.widest),
    )


def step_memory(device: torch.device, asked: int | None) -> int:
    """Bytes of activations per step: what was asked for, or by device.

    On a GPU a quarter of its free memory as a power of two, at most 8 GiB: what else has memory there changes the plan, and with
    it the last bits of scores, as rarely as possible.
    """
    if asked is not None:
        return asked
    if device.type != "cuda":
        return _MEMORY
    free, _total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return quarter_of(free)


def quarter_of(free: int) -> int:
    """A quarter of these bytes, rounded down to a power of two, at most 8 GiB.

    >>> quarter_of(79 << 30) >> 30, quarter_of(23 << 30) >> 30
    (8, 4)
    """
    return min(_GPU_MEMORY, 1 << max(20, (free // 4).bit_length() - 1))


def make_plan(
    passes: Passes, probe_inputs: Any, probe_ids: Tensor, T: int, memory: int | None, held: bool = False
) -> Plan:
    """Choose the path on a small batch, measure what an item costs there, and fill the working set with items and passes.

    held: whether the outputs of all passes of a step are kept until its end, and read in float64 then.
    """
    strategy = choose_strategy(passes, probe_inputs, probe_ids, T)
    path = strategy.path
    one = measure(passes, probe_inputs, probe_ids)
    prefix_bytes, tail_bytes = one.prefix_bytes, one.tail_bytes
    memory = step_memory(probe_ids.device, memory)
    room, prefix_room = (
        (memory, memory) if probe_ids.device.type == "cuda" else (min(memory, _WORKING_SET), _PREFIX_SET)
    )
    if path == "head":
        tail_bytes = 0  # no dropped features, and of the logits only those of the one forward pass
        prefix_bytes += one.output_bytes
    t = 1 if path == "loop" else T
    if tail_bytes and t > 1:
        # All passes at once if they fit beside one item.
        t = max(1, min(t, (room - prefix_bytes) // tail_bytes, _LARGEST // one.tail_values))
        t = -(-T // -(-T // t))  # else chunks of one size, or one less at the end: 500 + 500, not 606 + 394
    values = max(one.prefix_values, one.tail_values * t if tail_bytes else 0)
    n = max(1, min(room // (prefix_bytes + t * tail_bytes), prefix_room // one.prefix_bytes, _LARGEST // values))
    sums_bytes = _SUMS * one.output_values if t < T and path != "head" else 0
    if held:
        sums_bytes = T * one.output_bytes
        n = max(1, min(n, memory // (prefix_bytes + sums_bytes)))
    fused = tuple(sorted(strategy.fused))
    flops = one.prefix_flops, one.tail_flops
    threads = torch.get_num_threads()
    return Plan(n, t, path, threads, prefix_bytes, tail_bytes, *flops, fused, strategy.why, sums_bytes=sums_bytes)


_PATHS = {
    "head": "one forward pass, then dropout, the last Linear and the scores in one kernel: no logits are written",
    "vmap": "all passes of a chunk at once; what no mask has touched is computed once",
    "fork": "the batch runs once to the first site and is replicated there",
    "repeat": "every item is repeated for every pass, from the input on",
    "loop": "one pass at a time; what comes before the first site is computed once",
}


def explain(plan: Plan, passes: Passes, T: int, compiled: bool, inert: Collection[str] = ()) -> str:
    """Describe the plan in text."""
    lines = [f"{'site':>4}  {'p':>5}  {'fires':<5}  {'masked per item':<16} {'kind':<22} where"]
    for site in passes.found.sites:
        shape = "x".join(map(str, site.shape)) or "1"
        fires = "off" if not site.active else "inert" if site.name in inert else "yes"
        fused = "  (one operation with the Linear behind it)" if site.name in plan.fused else ""
        p = "-" if site.p is None else f"{site.p:.3g}"
        lines.append(
            f"{site.index:>4}  {p:>5}  {fires:<5}  {shape:<16} {site.kind:<22} {site.name or 'the model'}{fused}"
        )
    if inert:
        lines.append("inert: the output for the first items does not change when everything there is dropped")
    if passes.found.idle:
        lines.append(f"never drop (p = 0, or training=False): {', '.join(passes.found.idle)}")
    total = plan.prefix_flops + T * plan.tail_flops
    once = plan.prefix_flops + plan.tail_flops
    share = plan.prefix_flops / once if once else 0.0
    lines += [
        f"before the first site: {share:.1%} of one pass's FLOPs, computed once per item;"
        f" {T} passes cost {total / once if once else T:.1f} times one deterministic pass instead of {T}",
        f"path: {plan.path}, {_PATHS[plan.path]}" + (f" (not {plan.why})" if plan.why else ""),
    ]
    if compiled:
        parts = {
            "head": "the forward pass up to the last dropout, for full steps",
            "loop": "not for a loop over passes",
        }
        both = "what is before the first site, and what is behind it, for full steps"
        lines.append(f"torch.compile: {parts.get(plan.path, both)}")
    if plan.precision:
        lines.append(f"precision: {plan.autocast or 'as the model is'} ({plan.precision})")
    lines += [
        f"step: {plan.items} items x {plan.passes} passes, {plan.threads} thread(s)",
        f"memory: about {plan.memory / 2**20:.0f} MiB of activations per step ({plan.prefix_bytes / 2**10:.3g} KiB per item"
        f" before the first site, {plan.tail_bytes / 2**10:.3g} KiB per item and pass behind it), whatever T and the pool",
    ]
    return "\n".join(lines)
