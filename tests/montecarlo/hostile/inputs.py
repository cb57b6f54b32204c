"""Inputs that are no batch, and models from recurrent and checkpointed families."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .harness import ITEMS, add, model, sequences, tokens, vectors

ADJACENCY = (torch.rand(ITEMS, ITEMS, generator=torch.Generator().manual_seed(5)) < 0.5).float() + torch.eye(ITEMS)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 3)


class Reads(nn.Module):
    """Asks for a dropped value, so that only one pass at a time can run."""

    def forward(self, h):
        return h * 1.0 if bool(h.sum() > -1e9) else h


@model(
    "adjacency matrix as large as the batch",
    "driven",
    data=lambda n: vectors(n)[:, :6],
    transform=lambda x: (x, ADJACENCY),
)
class Graph(nn.Module):
    """Six items of six nodes with a 6 x 6 matrix for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(1, 16), nn.Dropout(0.4), nn.Linear(16, 3)

    def forward(self, x, adjacency):
        h = self.drop(torch.tanh(adjacency @ self.a(x.unsqueeze(-1))))
        return self.b((adjacency @ h).mean(1))


@model(
    "adjacency matrix as large as the batch, no vmap",
    "driven",
    data=lambda n: vectors(n)[:, :6],
    transform=lambda x: (x, ADJACENCY),
)
class GraphNoVmap(Graph):
    def forward(self, x, adjacency):
        h = self.drop(torch.tanh(adjacency @ self.a(x.unsqueeze(-1))))
        h = torch.stack(list(h.numpy(force=True).shape and h.unbind(0)))  # numpy: vmap cannot
        return self.b((adjacency @ h).mean(1))


@model("scalar and None inputs", "driven", transform=lambda x: (x, torch.tensor(0.5), None, 2))
class Scalars(Base):
    def forward(self, x, scale, mask, power):
        assert mask is None
        return self.b(self.drop(torch.tanh(self.a(x) * scale) ** power))


@model(
    "dict inputs with a table that is no batch",
    "driven",
    transform=lambda x: {"x": x, "table": torch.arange(16.0), "flag": True},
)
class DictInputs(Base):
    def forward(self, x, table=None, flag=False):
        h = torch.tanh(self.a(x)) * (table / 16 if flag else 1)
        return self.b(self.drop(h))


@model("a list of tensors as one argument", "driven", transform=lambda x: {"parts": [x[:, :4], x[:, 4:]]})
class Parts(Base):
    def forward(self, parts):
        return self.b(self.drop(torch.tanh(self.a(torch.cat(parts, 1)))))


@model("positions that are computed from the batch", "driven", transform=lambda x: (x, torch.arange(len(x))))
class RowNumbers(Base):
    """Gets row numbers of the batch and does not let them matter."""

    def forward(self, x, rows):
        h = torch.tanh(self.a(x[rows - rows[0]]))
        return self.b(self.drop(h))


class Checkpointed(Base):
    def __init__(self, reentrant: bool, always: bool) -> None:
        super().__init__()
        self.block, self.reentrant, self.always = (
            nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.3)),
            reentrant,
            always,
        )

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.training or self.always:
            h = checkpoint(self.block, h, use_reentrant=self.reentrant)
        else:
            h = self.block(h)
        return self.b(self.drop(h))


for reentrant in (False, True):
    for always in (False, True):
        add(
            f"gradient checkpointing, reentrant {reentrant}, {'always' if always else 'in training'}",
            lambda reentrant=reentrant, always=always: Checkpointed(reentrant, always),
            vectors,
            "driven",
        )


class Compiled(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.compile(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.4)), backend="eager")

    def forward(self, x):
        return self.b(self.inner(x))


add("a compiled part with dropout inside", Compiled, vectors, "either", says=(r"inner|compile",))


@model("sparse matrix inside the model", "driven", data=lambda n: vectors(n)[:, :6])
class SparseGraph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(1, 16), nn.Dropout(0.4), nn.Linear(16, 3)
        self.register_buffer("adjacency", ADJACENCY.to_sparse())

    def forward(self, x):
        h = self.a(x.unsqueeze(-1))
        flat = h.transpose(0, 1).reshape(6, -1)
        h = torch.sparse.mm(self.adjacency, flat).view(6, len(x), 16).transpose(0, 1)
        return self.b(self.drop(torch.tanh(h)).mean(1))


@model("sparse values dropped", "either", data=lambda n: vectors(n)[:, :6], says=(r"drop|sparse",))
class SparseDropped(SparseGraph):
    def forward(self, x):
        a = self.adjacency.coalesce()
        dropped = torch.sparse_coo_tensor(a.indices(), self.drop(a.values()), a.shape)
        h = self.a(x.unsqueeze(-1)).transpose(0, 1).reshape(6, -1)
        h = torch.sparse.mm(dropped, h).view(6, len(x), 16).transpose(0, 1)
        return self.b(torch.tanh(h).mean(1))


@model("autocast inside forward", "driven")
class Autocast(Base):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = torch.tanh(self.a(x))
        return self.b(self.drop(h.float()))


@model("autocast around dropout", "either", says=(r"autocast|drop",))
class AutocastAround(Base):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.b(self.drop(torch.tanh(self.a(x))))
        return y.float()


@model("inference mode inside forward", "driven", warm=False)
class InferenceInside(Base):
    def forward(self, x):
        with torch.inference_mode():
            h = torch.tanh(self.a(x))
        return self.b(self.drop(h))


@model("half precision in a part", "driven")
class HalfPart(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a = self.a.to(torch.bfloat16)

    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x.to(torch.bfloat16))).float()))


@model("nested tensor inside", "either", data=sequences, says=(r"(?i)nested|drop",))
class Nested(Base):
    def forward(self, x):
        parts = torch.nested.nested_tensor([row[: 2 + i % 3] for i, row in enumerate(x)])
        return self.b(self.drop(torch.tanh(self.a(parts.to_padded_tensor(0.0)))).sum(1))


class Packed(nn.Module):
    """The textbook model: packed sequences, two recurrent layers with dropout between them."""

    def __init__(self, rnn: type[nn.RNNBase], sort: bool) -> None:
        super().__init__()
        self.embedding, self.drop, self.fc = nn.Embedding(11, 8, padding_idx=0), nn.Dropout(0.4), nn.Linear(16, 3)
        self.rnn = rnn(8, 8, num_layers=2, bidirectional=True, dropout=0.4, batch_first=True)
        self.sort = sort

    def forward(self, x):
        lengths = (x > 0).sum(1).cpu()
        e = self.drop(self.embedding(x))
        if self.sort:
            lengths, order = lengths.sort(descending=True)
            packed = nn.utils.rnn.pack_padded_sequence(e[order], lengths, batch_first=True)
        else:
            packed = nn.utils.rnn.pack_padded_sequence(e, lengths, batch_first=True, enforce_sorted=False)
        _, h = self.rnn(packed)
        h = h[0] if isinstance(h, tuple) else h
        y = torch.cat([h[-2], h[-1]], 1)
        return self.fc(self.drop(y[order.argsort()] if self.sort else y))


for rnn in (nn.LSTM, nn.GRU):
    for sort in (False, True):
        add(
            f"packed {rnn.__name__}{', sorted by hand' if sort else ''}",
            lambda rnn=rnn, sort=sort: Packed(rnn, sort),
            tokens,
            "refused",
            says=(r"packed", r"rnn"),
            way={"sites": ["drop*"]},
            process=True,
        )


@model("packed LSTM of one layer behind dropout", "driven", data=tokens, process=True)
class PackedOneLayer(Packed):
    def __init__(self) -> None:
        super().__init__(nn.LSTM, False)
        self.rnn = nn.LSTM(8, 8, bidirectional=True, batch_first=True)


@model("packed and unpacked again, dropout on the outputs", "driven", data=tokens, process=True)
class PackedOutputs(Packed):
    def __init__(self) -> None:
        super().__init__(nn.GRU, False)
        self.rnn = nn.GRU(8, 8, bidirectional=True, batch_first=True)

    def forward(self, x):
        lengths = (x > 0).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.fc(self.drop(out).sum(1))
