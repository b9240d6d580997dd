"""The reference language model `bytes-lm`: a GRU over bytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """tokens INT64 [n, t], bytes; state FP32 [n, width] → logits FP32 [n, t, 256], next state."""

    def __init__(self, width: int = 128, embedding: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, embedding)
        self.cell = nn.GRU(embedding, width, batch_first=True)
        self.head = nn.Linear(width, 256)

    def state(self, count: int) -> Tensor:
        """The states of ``count`` texts before their first byte."""
        return torch.zeros(count, self.cell.hidden_size)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, last = self.cell(self.embed(tokens), state[None].contiguous())
        return self.head(hidden), last[0]
