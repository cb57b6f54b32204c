"""Recurrent layers behind dropout: states made for the undropped rows have killed the process inside torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .harness import add, images, model, sequences, tokens


class EmbeddingRNN(nn.Module):
    def __init__(self, rnn: type[nn.RNNBase], layers: int = 1, batch_first: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding, self.drop, self.b = nn.Embedding(11, 8), nn.Dropout(0.4), nn.Linear(16, 3)
        self.rnn = rnn(8, 16, num_layers=layers, batch_first=batch_first, dropout=dropout)
        self.first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        e = self.drop(self.embedding(x))
        out, _ = self.rnn(e if self.first else e.transpose(0, 1))
        return self.b(out[:, -1] if self.first else out[-1])


for rnn in (nn.LSTM, nn.GRU, nn.RNN):
    for first in (True, False):
        add(
            f"Embedding, Dropout, {rnn.__name__}, {'batch' if first else 'time'} first",
            lambda rnn=rnn, first=first: EmbeddingRNN(rnn, 1, first),
            tokens,
            "driven",
            process=True,
        )
add(
    "Embedding, Dropout, LSTM of two layers",
    lambda: EmbeddingRNN(nn.LSTM, 2, True, 0.3),
    tokens,
    "driven",
    process=True,
)


@model("CNN, Dropout, view, LSTM", "driven", data=images, process=True)
class ConvLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.rnn, self.b = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Dropout(0.4),
            nn.LSTM(8, 16, batch_first=True),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        h = self.drop(torch.relu(self.conv(x)))
        h = h.view(h.size(0), 8, -1).transpose(1, 2)
        return self.b(self.rnn(h)[0][:, -1])


@model(
    "CNN on frames, Dropout, view to clips, GRU", "driven", data=lambda n: images(n).view(n, 4, 3, 4, 4), process=True
)
class ClipGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.rnn, self.b = (
            nn.Conv2d(3, 8, 3),
            nn.Dropout(0.4),
            nn.GRU(8, 16, batch_first=True),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        B, L = x.shape[:2]
        h = self.drop(torch.relu(self.conv(x.flatten(0, 1))).mean((2, 3)))
        return self.b(self.rnn(h.view(B, L, -1))[1][-1])


class OwnState(nn.Module):
    """States from the batch size before the dropout, handed to torch directly, which does not check them."""

    def __init__(self, direct: bool, rnn: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.a, self.drop, self.rnn, self.b = (
            nn.Linear(8, 8),
            nn.Dropout(0.4),
            rnn(8, 16, batch_first=True),
            nn.Linear(16, 3),
        )
        self.direct = direct

    def forward(self, x):
        e = self.a(x)
        h0 = torch.zeros(1, x.size(0), 16)
        e = self.drop(e)
        states: object = (h0, torch.zeros(1, e.size(0), 16)) if isinstance(self.rnn, nn.LSTM) else h0
        if not self.direct:
            out = self.rnn(e, states)[0]
        else:
            function = torch.lstm if isinstance(self.rnn, nn.LSTM) else torch.gru
            out = function(e, states, self.rnn._flat_weights, True, 1, 0.0, self.training, False, True)[0]
        return self.b(out[:, -1])


for direct in (False, True):
    for rnn in (nn.LSTM, nn.GRU):
        add(
            f"own states for {rnn.__name__}, {'torch called directly' if direct else 'through the module'}",
            lambda direct=direct, rnn=rnn: OwnState(direct, rnn),
            sequences,
            "driven",
            process=True,
        )


@model("learned first state expanded to the batch", "driven", data=sequences, process=True)
class LearnedState(OwnState):
    def __init__(self) -> None:
        super().__init__(False, nn.GRU)
        self.h0 = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x):
        e = self.drop(self.a(x))
        return self.b(self.rnn(e, self.h0.expand(-1, len(e), -1).contiguous())[0][:, -1])


@model("encoder and decoder, the state passes between", "driven", data=sequences, process=True)
class Seq2Seq(OwnState):
    def __init__(self) -> None:
        super().__init__(False)
        self.decoder = nn.LSTM(8, 16, num_layers=1, batch_first=True)

    def forward(self, x):
        _, state = self.rnn(self.drop(self.a(x)))
        return self.b(self.drop(self.decoder(x[:, -2:], state)[0][:, -1]))


@model("cells by hand with a state that waits outside", "driven", data=sequences, process=True)
class CellState(OwnState):
    def __init__(self) -> None:
        super().__init__(False)
        self.cell = nn.LSTMCell(8, 16)

    def forward(self, x):
        h, c = torch.zeros(x.size(0), 16), torch.zeros(x.size(0), 16)
        for t in range(x.size(1)):
            h, c = self.cell(self.drop(x[:, t]), (h, c))
        return self.b(self.drop(h))


@model("LSTM with projections behind dropout", "driven", data=sequences, process=True)
class Projected(OwnState):
    def __init__(self) -> None:
        super().__init__(False)
        self.rnn = nn.LSTM(8, 32, proj_size=16, batch_first=True)

    def forward(self, x):
        return self.b(self.rnn(self.drop(self.a(x)))[0][:, -1])


@model("index by arange of the batch behind dropout", "driven", data=tokens, process=True)
class GathersRows(EmbeddingRNN):
    def __init__(self) -> None:
        super().__init__(nn.GRU)

    def forward(self, x):
        e = self.drop(self.embedding(x))
        out, _ = self.rnn(e)
        last = (x > 0).sum(1) - 1
        return self.b(out[torch.arange(e.size(0)), last])


@model("einsum and class token expanded by the size of a dropped tensor", "driven", data=sequences, process=True)
class ClassToken(OwnState):
    def __init__(self) -> None:
        super().__init__(False)
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 3)

    def forward(self, x):
        e = self.drop(self.a(x))
        e = torch.cat([self.token.expand(e.shape[0], -1, -1), e], 1)
        attention = torch.softmax(torch.einsum("bld,bmd->blm", e, e), -1)
        return self.head(self.drop(attention @ e)[:, 0])


@model("permute and reshape by len() of a dropped tensor", "driven", data=images, process=True)
class ReshapesByLen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Dropout2d(0.4), nn.Linear(8 * 16, 3)

    def forward(self, x):
        h = self.drop(torch.relu(self.conv(x)))
        return self.b(h.permute(0, 2, 3, 1).reshape(len(h), -1))
