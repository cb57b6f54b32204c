"""Common mistakes in how items reach a model, each with what would undo it on the model's input.

A mistake is only ever suspected because the model fits the input better once it is undone: no range of values or shape is wrong
by itself, as a model may have been trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KNOWN = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CLIP": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.2860,), (0.3530,)),
}
"""Mean and standard deviation of each channel, of values in [0, 1], by which pretrained models were normalized."""
_HALF = ((0.5,), (0.5,))


@dataclass(frozen=True)
class Undo:
    """The input without a mistake. ``made``: how it differs; ``advice``: what to do if that fits better.

    fitted: statistics of the items themselves are in it.
    """

    made: str
    advice: str
    x_B: Tensor
    fitted: bool = False


def undone(x_B: Tensor, mean_std: tuple[Sequence[float], Sequence[float]] | None, transform: bool) -> Iterator[Undo]:
    """Yield the input (B, ...) as it would be without each mistake that may have been made.

    Args:
        x_B: the input of the model, floating point.
        mean_std: what it was normalized with by mcscore.
        transform: whether the model has a transform of its own, which then has to be changed.
    """
    if x_B.ndim < 2 or not x_B.is_floating_point() or not bool(x_B.isfinite().all()):
        return
    normalize = _Advice(transform)
    if mean_std is not None and not transform:
        pool_mean, pool_std = (
            _shaped(torch.tensor(part, dtype=x_B.dtype, device=x_B.device), x_B) for part in mean_std
        )
        raw_B = x_B * pool_std + pool_mean
        yield Undo(
            "without the pool's mean and std",
            "the model seems to normalize by itself: take them away with `mcscore pool set POOL --unnormalized`",
            raw_B,
        )
        for name, mean, std in _known(x_B):
            how = (
                f"scaled to [-1, 1], by mean and std {name}"
                if name == "0.5"
                else f"normalized by mean and std of {name}"
            )
            yield Undo(f"{how} in place of the pool's", normalize.by(mean, std), _normalized(raw_B, mean, std))
    lowest, highest = float(x_B.min()), float(x_B.max())
    if lowest >= 0 and highest > 2:
        yield Undo("divided by 255", normalize.text("let the transform divide by 255"), x_B / 255)
    if lowest >= 0 and highest <= 1.001:
        yield Undo("multiplied by 255", "give a transform that multiplies by 255, as lambda x: x.float()", x_B * 255)
    if lowest >= 0:
        in_units = x_B / 255 if highest > 2 else x_B
        of_255 = "divided by 255 and " if highest > 2 else ""
        for name, mean, std in _known(x_B):
            how = f"{of_255}normalized by mean and std of {name}" if name != "0.5" else f"{of_255}scaled to [-1, 1]"
            yield Undo(how, normalize.by(mean, std), _normalized(in_units, mean, std))
    yield _standardized(x_B, normalize)
    if x_B.ndim == 4:
        yield from _of_images(x_B)


def _known(x: Tensor) -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
    """Yield name, mean and std of the usual normalizations of as many channels as x has, and of "0.5", for any number of them."""
    if x.ndim >= 3:
        yield from ((name, mean, std) for name, (mean, std) in KNOWN.items() if len(mean) == x.shape[1])
        yield ("0.5", *_HALF)


def _of_images(x: Tensor) -> Iterator[Undo]:
    B, _, height, width = x.shape
    if x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        moved = x.permute(0, 3, 1, 2).contiguous()
        advice = "import with --layout hwc, or give a transform that has x.permute(0, 3, 1, 2)"
        yield Undo("with channels first (CHW) in place of last (HWC)", advice, moved)
    if x.shape[1] in (3, 4):
        yield Undo(
            "with its channels in the opposite order (BGR in place of RGB)",
            "give a transform that has x.flip(1)",
            x.flip(1),
        )
        moved = x.permute(0, 2, 3, 1).contiguous()
        advice = "give a transform that has x.permute(0, 2, 3, 1)"
        yield Undo("with channels last (HWC) in place of first (CHW)", advice, moved)
        mixed = x.reshape(B, height, width, x.shape[1]).permute(0, 3, 1, 2).contiguous()
        advice = "use permute(0, 3, 1, 2) in place of reshape or view, which mixes pixels and channels"
        yield Undo("read as channels last (HWC) and then moved to channels first", advice, mixed)
    if x.shape[1] in (1, 3, 4) and height == width:
        advice = "swap height and width where the data are made, or by a transform that has x.transpose(2, 3)"
        yield Undo("with height and width swapped", advice, x.transpose(2, 3).contiguous())


@dataclass(frozen=True)
class _Advice:
    """What to do about the normalization, which a model's own transform has to do itself."""

    transform: bool

    def text(self, own: str) -> str:
        return own if self.transform else f"give a transform beside the model, build() -> (model, transform): {own}"

    def by(self, mean: Sequence[float], std: Sequence[float]) -> str:
        if self.transform:
            return f"let the transform normalize: mean {_listed(mean)}, std {_listed(std)}, of values in [0, 1]"
        return f"`mcscore pool set POOL --mean {_listed(mean)} --std {_listed(std)}`"


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _shaped(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def _normalized(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    mean_C, std_C = (_shaped(torch.tensor(part, dtype=x.dtype, device=x.device), x) for part in (mean, std))
    return (x - mean_C) / std_C


def _standardized(x: Tensor, normalize: _Advice) -> Undo:
    """Channels (or features) with mean 0 and standard deviation 1."""
    over = [0, *range(2, x.ndim)]
    mean_C, std_C = x.mean(over, keepdim=True), x.std(over, keepdim=True)
    std_C = torch.where(std_C > 0, std_C, torch.ones_like(std_C))
    what = "channel" if x.ndim > 2 else "feature"
    advice = (
        f"give the model what it was trained on: mean and standard deviation of each {what}, of the training data, by "
        + (
            "the transform"
            if normalize.transform
            else "a transform, or for channels by `mcscore pool set POOL --mean --std`"
        )
    )
    return Undo(f"with mean 0 and standard deviation 1 in every {what}", advice, (x - mean_C) / std_C, fitted=True)
