"""What an entry of the zoo is, the wrappers that give one tensor of logits, and the inputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mcscore.montecarlo import Passes, Strategy, choose_strategy
from mcscore.montecarlo.checks import require_effect
from mcscore.montecarlo.discovery import discover
from mcscore.montecarlo.ops.intercept import call_model

SEED = 11  # of the masks
CHOICE_PASSES = 4  # enough for every path to be tried
CALIBRATION_ITEMS = 32


@dataclass(frozen=True)
class Entry:
    """A model of some package, and what becomes of it.

    make: builds it, small, with random weights. data: n items of input, a tensor or a dict of arguments.
    refused: a word of the error that names the reason; None: driven. sites: those chosen, where not all can be.
    """

    name: str
    package: str  # as it is imported
    make: Callable[[], nn.Module]
    data: Callable[[int], Any]
    refused: str | None = None
    sites: Sequence[str] | None = None
    note: str = ""  # what a reader of the table should know: what is off, what to do instead

    def missing(self) -> bool:
        return importlib.util.find_spec(self.package) is None

    def build(self, items: int) -> tuple[nn.Module, Any]:
        """The model in evaluation mode and its input; the same in every call."""
        torch.manual_seed(0)
        model = self.make().eval()
        _enliven(model, self.data(CALIBRATION_ITEMS))
        torch.manual_seed(1)
        return model, self.data(items)

    def prepare(self, model: nn.Module, inputs: Any) -> tuple[Passes, Strategy]:
        """Find the sites with the first three of the items and choose a path, as the first batch of a Scorer does."""
        three = first(inputs, 3)
        passes = Passes(model, discover(model, first(inputs, 2), three, self.sites), seed=SEED, shared=False)
        require_effect(passes, three)
        strategy = choose_strategy(passes, three, torch.arange(3), CHOICE_PASSES)
        return passes, strategy


@torch.no_grad()
def _enliven(model: nn.Module, inputs: Any) -> None:
    """Give a fresh model outputs as wide as a trained one's, for what dropping changes must stand out of the rounding.

    Fresh Transformers have weights of std 0.02, and a fresh BatchNorm believes in a variance of 1 that its untrained
    input does not have: the logits of a fresh EfficientNet are 1e-14.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and isinstance(weight, nn.Parameter):
            wanted = (weight[0].numel() if weight.ndim > 1 else 1) ** -0.5
            if float(weight.std()) < 0.5 * wanted:
                nn.init.normal_(weight, std=wanted)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    call_model(model, inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def first(inputs: Any, n: int) -> Any:
    return rows(inputs, slice(0, n))


def rows(inputs: Any, which: slice) -> Any:
    if isinstance(inputs, dict):
        return {name: value[which] for name, value in inputs.items()}
    return inputs[which]


class Logits(nn.Module):
    """A model whose output has fields, or is a tuple, as one that returns the logits."""

    def __init__(self, model: nn.Module, name: str = "logits") -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.model(*args, **kwargs)
        if isinstance(output, Tensor):
            return output
        return getattr(output, self.name) if hasattr(output, self.name) else output[0]


class Pooled(nn.Module):
    """An encoder and a classifier of the mean of its last hidden states."""

    def __init__(self, encoder: nn.Module, width: int, classes: int = 3) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(width, classes)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.classifier(self.encoder(*args, **kwargs).last_hidden_state.mean(1))


def images(size: int = 32, channels: int = 3) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, channels, size, size)


def tokens(length: int = 12) -> Callable[[int], Tensor]:
    return lambda n: torch.randint(4, 50, (n, length))


def masked_tokens(n: int) -> dict[str, Tensor]:
    """Sequences of 12 tokens and less."""
    lengths = torch.tensor([12, 9, 7, 10]).repeat(n)[:n, None]
    mask = (torch.arange(12) < lengths).long()
    return {"input_ids": torch.randint(4, 50, (n, 12)) * mask, "attention_mask": mask}


def sound(samples: int = 400) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, samples)
