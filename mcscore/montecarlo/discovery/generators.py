"""Find out whether a forward pass drew random numbers that no mask drives: some generator has moved.

The generators of torch (each device), Python and NumPy, and those that a module keeps for itself. A list of random functions can
never be whole: scripted code, extensions, Python's ``random`` and NumPy escape it.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ..ops.intercept import is_dense

_OWN = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


def cuda_devices(model: nn.Module) -> list[int]:
    """Indices of the CUDA devices that hold parameters of the model."""
    return sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the generators of torch, Python and NumPy at the end, also after an exception."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(cuda_devices(model)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class GeneratorWatch:
    """Names the modules of ``model`` in whose forward pass a generator moves. A context manager around forward passes.

    ``moved`` holds "module (whose generator)" in the order of events; ``outputs`` the sums of every module's output, by which two
    runs can be compared.
    """

    def __init__(self, model: nn.Module) -> None:
        self._devices = cuda_devices(model)
        self._names = {id(module): name for name, module in model.named_modules()}
        self._model = model
        self._own = [
            (f"{name}.{attribute}" if name else attribute, value)
            for name, module in model.named_modules()
            for attribute, value in vars(module).items()
            if isinstance(value, _OWN)
        ]
        self._handles: list[RemovableHandle] = []
        self._scripted: dict[str, str] = {}  # by the name of their parent
        self._known: dict[str, list[Any]] = {}
        self.settle()
        self._profile: Any = None
        self._innermost = ""
        self.moved: list[str] = []
        self.made: list[tuple[str, Any]] = []  # (module, state) of instances of random.Random at their first use
        self._used: list[random.Random] = [random._inst]
        self.outputs: list[tuple[str, list[float]]] = []

    def __enter__(self) -> GeneratorWatch:
        for name, module in self._model.named_modules():
            # A scripted module runs no hooks; what it moved is named before its parent's next child.
            if isinstance(module, torch.jit.ScriptModule):
                parent = name.rpartition(".")[0]
                self._scripted[parent] = f"{self._scripted[parent]}, {name}" if parent in self._scripted else name
                continue
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after))
        self.settle()
        self._profile = sys.getprofile()
        sys.setprofile(self._c_call)
        return self

    def __exit__(self, *_exception: object) -> None:
        sys.setprofile(self._profile)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._note("")

    def _c_call(self, _frame: Any, event: str, function: Any) -> None:
        """Generators made anew in the pass leave no trace but these calls: seeds from the operating system, and Python's own class."""
        if event != "c_call":
            return
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if name == "urandom":
            where = self._innermost or type(self._model).__name__
            self.moved.append(f"{where} (the operating system's random numbers)")
        elif isinstance(owner, random.Random) and name != "seed" and not any(owner is known for known in self._used):
            self._used.append(owner)
            self.made.append((self._innermost, owner.getstate()))

    def settle(self) -> None:
        """Take the generators as they are now: what moved them has been named otherwise, or seeds them first."""
        for what, state in self._read().items():
            self._known.setdefault(what, []).append(state)

    def _before(self, module: nn.Module, _inputs: Any) -> None:
        self._innermost = self._names.get(id(module), "")
        self._note(self._names.get(id(module), "").rpartition(".")[0])

    def _after(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        name = self._names.get(id(module), "")
        self._note(name)
        self._innermost = name.rpartition(".")[0]
        with torch._C.DisableTorchFunction():
            leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
            self.outputs.append((name, [float(t.detach().double().sum()) for t in leaves if is_dense(t)]))

    def _note(self, name: str) -> None:
        changed = [what for what, state in self._read().items() if state not in self._known[what]]
        if changed:  # a module's hook runs after those of its children, so what is still unnamed is its own
            name = self._scripted.get(name, name)
            self.moved.append(f"{name or type(self._model).__name__} ({', '.join(changed)})")
            self.settle()

    def _read(self) -> dict[str, Any]:
        with torch._C.DisableTorchFunction():
            states: dict[str, Any] = {
                "torch's random numbers": torch.get_rng_state().numpy().tobytes(),
                "Python's random module": random.getstate(),
                "NumPy's random numbers": _numpy_state(np.random.get_state(legacy=False)),
            }
            for device in self._devices:
                states[f"torch's random numbers on cuda:{device}"] = torch.cuda.get_rng_state(device).numpy().tobytes()
            for name, generator in self._own:
                states[f"the generator {name}"] = _state(generator)
        return states


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return _numpy_state(generator.get_state(legacy=False))
    return _numpy_state(generator.bit_generator.state)


def _numpy_state(state: Any) -> Any:
    """The state in a form that can be compared. Its text took a millisecond, for every module of every pass."""
    if isinstance(state, dict):
        return tuple((name, _numpy_state(value)) for name, value in state.items())
    return state.tobytes() if isinstance(state, np.ndarray) else state


def before_call(generator: torch.Generator | None, device: torch.device) -> bytes:
    """The state of the generator from which a call on this device draws."""
    if generator is None:
        cuda = device.type == "cuda"
        generator = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
    with torch._C.DisableTorchFunction():
        return _state(generator)


def first_difference(one: GeneratorWatch, other: GeneratorWatch) -> str | None:
    """The first module whose output sums, or a generator that it makes, differ between two runs of equal copies; None if none does."""
    for (name, ours), (_, theirs) in zip(one.made, other.made, strict=False):
        if ours != theirs:
            return name or "the model"
    for (name, ours), (_, theirs) in zip(one.outputs, other.outputs, strict=False):
        if not np.allclose(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True) if len(ours) == len(theirs) else True:
            return name or "the model"
    return None if len(one.outputs) == len(other.outputs) else "the model"


def join(places: Sequence[str]) -> str:
    """The places, each once, in order."""
    return "; ".join(dict.fromkeys(places))
