"""PatchTST, to be timed where its library is not installed."""

from math import log
from types import SimpleNamespace

import torch
from torch import Tensor, nn

PATCH, STRIDE = 16, 8


class PatchTST(nn.Module):
    """PatchTST (arXiv 2211.14730) with the sizes of the Time-Series-Library, of PyTorch's own encoder layers.

    They compute what the library's do in fewer kernels; the two were not timed side by side.

    Args:
        settings: the library's `seq_len`, `pred_len`, `d_model`, `n_heads`, `d_ff`, `e_layers` and `dropout`.
    """

    def __init__(self, settings: SimpleNamespace) -> None:
        super().__init__()
        width = settings.d_model
        patches = (settings.seq_len - PATCH) // STRIDE + 2
        angles = torch.arange(patches)[:, None] * torch.exp(torch.arange(0, width, 2) * (-log(10000.0) / width))
        self.register_buffer("position", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        self.into = nn.Linear(PATCH, width, bias=False)
        sizes = width, settings.n_heads, settings.d_ff, settings.dropout
        layers = [nn.TransformerEncoderLayer(*sizes, "gelu", batch_first=True) for _ in range(settings.e_layers)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width * patches, settings.pred_len)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, past: Tensor, *marks: None) -> Tensor:
        """Forecasts [B, H, V] of look-backs [B, L, V]."""
        mean = past.mean(1, keepdim=True)
        spread = (past.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = ((past - mean) / spread).mT
        patches = nn.functional.pad(x, (0, STRIDE), mode="replicate").unfold(2, PATCH, STRIDE).flatten(0, 1)
        tokens = self.layers(self.dropout(self.into(patches) + self.position))  # [B * V, patches, width]
        hidden = self.norm(tokens.mT).flatten(1)
        return self.dropout(self.out(hidden)).unflatten(0, (len(past), -1)).mT * spread + mean
