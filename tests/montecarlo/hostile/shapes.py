"""Calls and shapes that the first items do not meet: loops to the longest item, experts, crops, calls that depend on data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .harness import model, sequences, tokens, vectors

SAYS = (r"drop|shape|calls|experts|cell|batch",)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.b = nn.Embedding(11, 16), nn.Dropout(0.4), nn.Linear(16, 3)


@model("cell loop to the batch's longest item", "either", data=tokens, says=SAYS)
class CellLoop(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(16, 16)

    def forward(self, x):
        lengths = (x > 0).sum(1)
        h = torch.zeros(len(x), 16)
        e = self.embedding(x)
        for t in range(int(lengths.max())):
            new = self.cell(self.drop(e[:, t]), h)
            h = torch.where((t < lengths)[:, None], new, h)
        return self.b(h)


@model("cell loop with dropout on the state", "either", data=tokens, says=SAYS)
class StateLoop(CellLoop):
    def forward(self, x):
        lengths = (x > 0).sum(1)
        e, h = self.embedding(x), torch.zeros(len(x), 16)
        for t in range(int(lengths.max())):
            new = self.cell(e[:, t], h) if t == 0 else self.cell(e[:, t], self.drop(h))
            h = torch.where((t < lengths)[:, None], new, h)
        return self.b(h)


@model("cell loop with one variational mask", "driven", data=tokens, says=SAYS)
class VariationalLoop(CellLoop):
    """Gal & Ghahramani 2016: one mask for all steps of an item."""

    def forward(self, x):
        lengths = (x > 0).sum(1)
        e, h = self.embedding(x), torch.zeros(len(x), 16)
        mask = self.drop(torch.ones(len(x), 16))
        for t in range(int(lengths.max())):
            h = torch.where((t < lengths)[:, None], self.cell(e[:, t], h * mask), h)
        return self.b(h)


@model("sequences cropped to the batch's longest", "either", data=tokens, says=SAYS)
class Cropped(Tokens):
    def forward(self, x):
        x = x[:, : int((x > 0).sum(1).max())]
        e = self.drop(self.embedding(x))
        kept = (x > 0)[..., None]
        return self.b(torch.tanh((e * kept).sum(1) / kept.sum(1)))


@model("sequences cropped to the batch's longest, channels first", "either", data=tokens, says=SAYS)
class CroppedChannelsFirst(Tokens):
    """Elements of a mask are counted over (D, L): with another L the same channel gets other elements."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 1)

    def forward(self, x):
        x = x[:, : int((x > 0).sum(1).max())]
        e = self.drop(torch.relu(self.conv(self.embedding(x).transpose(1, 2))))
        kept = (x > 0)[:, None]
        return self.b(torch.tanh((e * kept).sum(2) / kept.sum(2)))


@model("attention cropped to the batch's longest", "either", data=tokens, says=(r"drop|shape|attn|attention",))
class CroppedAttention(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        x = x[:, : int((x > 0).sum(1).max())]
        e, padding = self.embedding(x), x == 0
        y, _ = self.attn(e, e, e, key_padding_mask=padding)
        return self.b((y * ~padding[..., None]).sum(1))


@model("experts reached by some rows alone", "either", says=SAYS)
class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.4)) for _ in range(4))

    def forward(self, x):
        h, to = self.a(x), (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()
        y = torch.zeros_like(h)
        for e, expert in enumerate(self.experts):
            rows = (to == e).nonzero().squeeze(1)
            if len(rows):
                y = y.index_copy(0, rows, expert(h[rows]))
        return self.b(y)


@model("experts called with empty batches", "either", says=SAYS)
class EmptyExperts(Experts):
    def forward(self, x):
        h, to = self.a(x), (x[:, 0] > 0.5).long() * 2 + (x[:, 1] > 0).long()
        y = torch.zeros_like(h)
        for e, expert in enumerate(self.experts):
            y[to == e] = expert(h[to == e])
        return self.b(y)


@model("dropout called once for each row", "either", says=SAYS)
class RowByRow(Experts):
    def forward(self, x):
        rows = [self.experts[0](row) for row in self.a(x)]
        return self.b(torch.stack(rows))


@model("number of dropout calls hangs on the data", "either", says=SAYS)
class DataCalls(Experts):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        for _ in range(1 + int((x[:, 0].abs().max() > 1.0).item())):
            h = self.experts[1](h)
        return self.b(h)


@model("early exit when all items are sure", "either", says=SAYS)
class EarlyExit(Experts):
    def forward(self, x):
        h = self.experts[0](self.a(x))
        sure = torch.softmax(self.b(h), 1).amax(1)
        return self.b(h if bool((sure > 0.45).all()) else self.experts[1](h))


@model("p of a call hangs on the batch", "either", says=SAYS)
class BatchRate(Experts):
    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.2 if len(x) < 4 else 0.6, self.training))


@model("dropout left out for large batches", "either", says=SAYS)
class SkipsLarge(Experts):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = F.dropout(h, 0.2, self.training)
        return self.b(h if len(x) > 4 else self.experts[0](h))


@model("windows as many as the data has", "either", data=sequences, says=SAYS)
class Windows(Experts):
    """Rows for every step above a threshold: the ragged batch of detectors and span models."""

    def forward(self, x):
        chosen = x[..., 0] > 0.3
        h = self.experts[0](self.a(x[chosen]))
        out = torch.zeros(*chosen.shape, 16)
        out[chosen] = h
        return self.b(out.sum(1))


@model("chunks of two items at a time", "either", says=SAYS)
class TwoAtATime(Experts):
    def forward(self, x):
        return self.b(torch.cat([self.experts[0](self.a(part)) for part in x.split(2)]))


@model("padding to a multiple of four rows", "either", says=SAYS)
class PadsBatch(Experts):
    def forward(self, x):
        padded = F.pad(x, (0, 0, 0, -len(x) % 4))
        return self.b(self.experts[0](self.a(padded)))[: len(x)]


@model("steps of dropout until the batch has converged", "either", data=vectors, says=SAYS)
class UntilConverged(Experts):
    """Iterates until the batch has converged, with dropout in each step."""

    def forward(self, x):
        h = self.a(x)
        for _ in range(6):
            new = self.experts[0](h)
            if float((new - h).norm()) < 1.0:
                break
            h = 0.5 * h + 0.5 * new
        return self.b(h)
