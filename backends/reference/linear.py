"""Version 1 of the reference model `digits`: one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """pixels FP32 [n, 64], 0 to 16 → scores FP32 [n, 10], probabilities; label INT64 [n]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 10)

    def scale(self, pixels: Tensor) -> Tensor:
        """To [-1, 1], as in training."""
        return pixels / 8 - 1

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        logits = self.net(self.scale(pixels))
        return {"scores": torch.softmax(logits, dim=-1), "label": logits.argmax(dim=-1)}
