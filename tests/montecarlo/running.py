"""Passes of the models of the zoo, for the tests that run them."""

from __future__ import annotations

import torch

from mcscore.montecarlo import Passes, Strategy
from mcscore.montecarlo.discovery import discover

from .zoo import ZOO

IDS = torch.tensor([12, 5, 2**40 + 1, 7])


def prepared(name, seed=3, shared=False, **kwargs):
    make, data = ZOO[name]
    torch.manual_seed(0)
    model, x = make().eval(), data(4)
    return model, x, Passes(model, discover(model, x[:2], x[:3], **kwargs), seed=seed, shared=shared)


def run(passes, x, ids, T, path, chunk=None):
    strategy = path if isinstance(path, Strategy) else Strategy(path)
    return torch.cat(list(passes.chunks(x, ids, list(torch.arange(T).split(chunk or T)), strategy)))
