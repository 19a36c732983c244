"""The arguments of `memory_scan` as every implementation takes them."""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor


@dataclass
class ScanInputs:
    """What happens at each token, and what the memory is; `memory_scan` describes each field.

    Here log_keep is [B, T, H, 1 or channels], and everything is in the dtype that the implementation computes in.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    log_eta: Tensor
    log_keep: Tensor
    mask: Tensor | None
    chunk: int
    residual: bool
    scale: Tensor | None
    shift: Tensor | None
    target: list[Tensor] | None

    def tokens(self, start: int, end: int) -> Self:
        """The same for tokens start .. end - 1."""
        names = ("q", "k", "v", "theta", "log_eta", "log_keep", "mask")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(self, **{name: value[:, start:end] for name, value in given.items()})
