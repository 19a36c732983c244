"""A block that mixes no tokens, behind stems that have looked around already."""

from torch import Tensor, nn

from memory import BackboneConfig


class Nothing(nn.Module):
    """A mixer that adds nothing, so that the feed-forward of its block works on each token alone.

    Args:
        config: of the backbone; none of it is needed.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, state: None = None, mask: Tensor | None = None) -> tuple[Tensor, None]:
        """Zeros of the shape of the tokens [B, T, dim], and no state."""
        return x.new_zeros(x.shape), None
