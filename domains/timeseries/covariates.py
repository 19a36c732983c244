"""Covariates and calendar marks as inputs of the forecaster: beside the tokens, and under the forecast."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.timeseries.windows import Covariates


class CovariateInputs(nn.Module):
    """What is known beside the variables, added to their tokens and, where it is known beforehand, to their forecast.

    Mean and spread of the train rows travel in the checkpoint, as those of the variables do.

    Args:
        dim: width of a token.
        variables: that each learn how what is known beforehand moves them; 1 where a panel's series learn it together.
        past_size: P covariates known over the look-back alone.
        future_size: K covariates and marks known over the horizon too.
        patch: rows per token.
        stride: rows from one token to the next.
        tokens: tokens per variable; the last row is repeated to fill the last patch.
    """

    def __init__(
        self, dim: int, variables: int, past_size: int, future_size: int, patch: int, stride: int, tokens: int
    ) -> None:
        super().__init__()
        self.sizes = (past_size, future_size)
        self.patch = patch
        self.stride = stride
        self.rows = (tokens - 1) * stride + patch
        self.into = nn.Linear((past_size + future_size) * patch, dim, bias=False)
        self.ahead = nn.Linear(future_size, variables, bias=False)
        nn.init.zeros_(self.ahead.weight)  # a forecast starts out as the one without covariates
        self.register_buffer("mean", torch.zeros(past_size + future_size, dtype=torch.float64))
        self.register_buffer("std", torch.ones(past_size + future_size, dtype=torch.float64))

    def fit(self, rows: Covariates) -> None:
        """Take mean and population spread of the train rows, [T, P] and [T, K]."""
        both = torch.cat(list(rows), dim=1).double()
        std = both.std(0, correction=0)
        self.mean.copy_(both.mean(0))
        # of what is always the same nothing is left but rounding
        self.std.copy_(std.masked_fill(std <= 1e-12 * both.abs().amax(0), 1.0))

    def tokens(self, covariates: Covariates) -> Tensor:
        """What is added to the tokens of every variable: [B, 1, tokens, dim]."""
        past, future = self._scaled(covariates)
        x = torch.cat([past, future[:, : past.shape[1]]], dim=2).transpose(1, 2)  # [B, P + K, L]
        x = F.pad(x, (0, self.rows - x.shape[2]), mode="replicate")
        x = x.unfold(2, self.patch, self.stride).permute(0, 2, 1, 3).flatten(2)  # [B, tokens, (P + K) * patch]
        return self.into(x)[:, None]

    def forecast(self, covariates: Covariates) -> Tensor:
        """What is added to the forecast, in its own scaled units: [B, H, V]."""
        past, future = self._scaled(covariates)
        return self.ahead(future[:, past.shape[1] :]).float()

    def _scaled(self, covariates: Covariates) -> Covariates:
        means, stds = self.mean.split(self.sizes), self.std.split(self.sizes)
        parts = zip(covariates, means, stds, strict=True)
        return Covariates(*(((x - mean) / std).to(self.into.weight.dtype) for x, mean, std in parts))
