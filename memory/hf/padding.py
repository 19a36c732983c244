"""Which padding a memory can read past: it counts as positions, so that it may stand behind a row alone."""

from torch import Tensor


def padding(mask: Tensor | None, tokens: Tensor, anywhere: bool) -> Tensor | None:
    """The part of an attention mask that belongs to the tokens of this call; None where nothing is padded.

    Args:
        mask: 0 at padding, [B, T] of the tokens of this call or [B, past + T] with those before them.
        tokens: those of this call, [B, T] or [B, T, D].
        anywhere: whether padding moves nothing, so that it may stand before a row too.

    Raises:
        ValueError: the mask is of other rows or of fewer tokens, or a row has padding before a token, where it would
            move the token within its chunk or segment.
    """
    if mask is None:
        return None
    if mask.dim() != 2:
        raise ValueError(f"attention_mask has {mask.dim()} axes; a memory needs [B, T], with 0 at padding")
    rows, length = tokens.shape[:2]
    if len(mask) != rows or mask.shape[1] < length:
        raise ValueError(f"attention_mask has the shape {[*mask.shape]}; {rows} rows of {length} tokens are read")
    if not anywhere and stands_before(mask):
        raise ValueError(
            "padding stands before a token of its row, where it would move the token within memory.chunk or segment; "
            "pad on the right to learn from texts, or read them from their start without a gradient"
        )
    mask = mask[:, -length:].bool()
    return None if mask.all() else mask


def stands_before(mask: Tensor) -> bool:
    """Whether a row of an attention mask [B, T] has padding before a token."""
    if mask.dim() != 2:
        return False
    mask = mask.bool()
    return bool((mask[:, 1:] & ~mask[:, :-1]).any())
