"""What a layer refuses at its door, before anything is computed: each error is one sentence that says what to give."""

import sys

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from memory.precision import autocasts
from memory.state import KVCache, MemoryState, State


def check_tokens(x: Tensor, dim: int, device: torch.device) -> None:
    """Refuse tokens that a layer of width `dim` on a device cannot read.

    Raises:
        ValueError: x is no [B, T, dim] of floating-point numbers on that device, or has no token.
    """
    shape = x.shape
    if len(shape) != 3 or shape[2] != dim:
        raise ValueError(f"x has the shape {list(shape)}; give tokens [B, T, {dim}]")
    if not shape[1]:
        raise ValueError(f"there is no token: x has the shape {list(shape)}; give at least one of each sequence")
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}; give floating-point tokens")
    if x.device != device:
        raise ValueError(f"x is on {x.device} and the layer on {device}; move one of them")


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Refuse tokens of another dtype than the layer's, unless autocast makes them alike.

    Raises:
        ValueError: names both dtypes.
    """
    if x.dtype != weight.dtype and not autocasts(x.device):
        raise ValueError(f"x is {x.dtype} and the layer {weight.dtype}; convert one of them, or use torch.autocast")


def refuse_reentrant(*differentiated: Tensor) -> None:
    """Refuse to run within a reentrant activation checkpoint, which cuts the returned state from the graph.

    PyTorch runs such a call without gradients and finds tensors to differentiate among its plain arguments and results
    only, so the gradient through a state would be lost without a word. Where none of the tensors needs a gradient the
    checkpoint cannot be told from inference.

    Args:
        differentiated: tokens, and a tensor of the state.

    Raises:
        ValueError: says which kind of checkpoint to use.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not any(t.requires_grad for t in differentiated):
        return
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise ValueError("a reentrant checkpoint would lose the state's gradient; pass use_reentrant=False")
        frame = frame.f_back


def as_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A padding mask as bool: whatever is not 0 is a token.

    Args:
        mask: of any dtype, [B, T].
        x: tokens, [B, T, dim].

    Raises:
        ValueError: the mask has another shape than the tokens, or lies on another device.
    """
    if mask is None:
        return None
    if mask.shape != x.shape[:2]:
        raise ValueError(f"mask has the shape {list(mask.shape)} and x {list(x.shape)}; give a mask [B, T] of x's rows")
    if mask.device != x.device:
        raise ValueError(f"mask is on {mask.device} and x on {x.device}; move the mask")
    return mask.bool()


def check_kind(state: State, kind: type[State]) -> None:
    """Refuse the state of another layer.

    Raises:
        ValueError: names both kinds.
    """
    if not isinstance(state, kind):
        raise ValueError(f"state is a {type(state).__name__} and this layer continues a {kind.__name__}")


def check_memory_state(
    state: MemoryState, x: Tensor, shapes: list[tuple[int, int, int]], dtype: torch.dtype, tokens_per_anchor: int
) -> None:
    """Refuse the state of a memory of another form, or of other sequences.

    Args:
        state: what is to be continued.
        x: tokens, [B, T, dim].
        shapes: [H, d_in, d_out] of each layer.
        dtype: that the memory continues in.
        tokens_per_anchor: 1 with exact errors in a memory of one layer, else the tokens of a chunk.

    Raises:
        ValueError: names what differs: the kind, chunk, place in the chunk, depth, batch, sizes, device, or dtype.
    """
    check_kind(state, MemoryState)
    fast = state.fast
    its = state.tokens_per_anchor
    if its is not None and its != tokens_per_anchor:
        raise ValueError(
            f"state is of a memory whose gradients are taken every {its} tokens, and this one takes them every "
            f"{tokens_per_anchor}; continue it with the same memory.chunk and memory.errors"
        )
    if not 0 <= fast.position < tokens_per_anchor:
        raise ValueError(
            f"state is at position {fast.position} of a chunk, and this memory's chunks have {tokens_per_anchor}"
        )
    for weights in (fast.weights, fast.momentum, fast.anchor):
        check_layers(weights, x, shapes, dtype)


def check_layers(weights: list[Tensor], x: Tensor, shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> None:
    """Refuse layers of a state, [B, H, d_in, d_out] each, that are not those of a memory.

    Args:
        weights: what is to be continued.
        x: tokens, [B, T, dim].
        shapes: [H, d_in, d_out] of each layer.
        dtype: that the memory continues in.

    Raises:
        ValueError: names the depth, batch, sizes, device or dtype that differs.
    """
    if len(weights) != len(shapes):
        raise ValueError(f"state is of a memory of depth {len(weights)}, and this one has depth {len(shapes)}")
    for weight, shape in zip(weights, shapes, strict=True):
        check_tensor("state", weight, (len(x), *shape), x)
        if weight.dtype != dtype:
            raise ValueError(f"state is {weight.dtype} and this memory continues {dtype}; convert it with .to")


def check_weights(weights: list[Tensor], shapes: list[tuple[int, int, int]]) -> None:
    """Refuse to read weights of another memory.

    Args:
        weights: [..., H, d_in, d_out] per layer.
        shapes: [H, d_in, d_out] of each layer.

    Raises:
        ValueError: names both.
    """
    sizes = [tuple(weight.shape[-3:]) for weight in weights]
    if sizes != shapes:
        raise ValueError(f"weights are of layers {sizes}, and this memory's are {shapes}")


def check_cache(state: KVCache, x: Tensor, heads: int, window: int, conv: nn.Conv1d | None) -> None:
    """Refuse keys and values of another kind of attention, or of other sequences.

    Args:
        state: what is to be continued.
        x: tokens, [B, T, dim].
        heads: attention heads.
        window: tokens that a query sees, 0 for all.
        conv: the convolution on queries, keys and values.

    Raises:
        ValueError: names what differs: the kind, window, batch, heads or width, convolution, or device.
    """
    check_kind(state, KVCache)
    if state.window is not None and state.window != window:
        sizes = [f"a window of {size}" if size else "the whole past" for size in (state.window, window)]
        raise ValueError(f"state is of attention over {sizes[0]}, and this one sees {sizes[1]}")
    batch, _, dim = x.shape
    for part in (state.k, state.v):
        check_tensor("state", part, (batch, heads, state.k.shape[2], dim // heads), x)
    if state.valid is not None:
        check_shape("state's padding", state.valid, (batch, state.k.shape[2]), x)
        if state.valid.dtype != torch.bool:
            raise ValueError(f"state's padding is {state.valid.dtype}; it must be torch.bool")
    check_conv_cache(state.conv_cache, None if conv is None else (conv.kernel_size[0] - 1, 3 * dim), x)


def check_conv_cache(cache: Tensor | None, sizes: tuple[int, int] | None, x: Tensor) -> None:
    """Refuse the inputs of another convolution.

    Args:
        cache: what is to be continued, [B, width - 1, features]; None where a sequence starts.
        sizes: width - 1 and features of the layer's convolution; None where it has none.
        x: tokens, [B, T, dim].

    Raises:
        ValueError: names both shapes.
    """
    if cache is None:
        return
    if sizes is None:
        raise ValueError("state is of a layer with a convolution, and this one has none")
    check_tensor("state's convolution cache", cache, (len(x), *sizes), x)


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], x: Tensor) -> None:
    """Refuse numbers of a state that have another shape, lie elsewhere than the tokens, or are no floating-point ones.

    Raises:
        ValueError: names the batch, the shape, the device or the dtype that differs.
    """
    check_shape(name, tensor, shape, x)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} is {tensor.dtype}; it must be of floating-point numbers")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], x: Tensor) -> None:
    """Refuse a tensor of a state that has another shape or lies elsewhere than the tokens.

    Raises:
        ValueError: names the batch, the shape or the device that differs.
    """
    if tensor.shape != shape:
        if tensor.dim() and len(tensor) != shape[0]:
            raise ValueError(f"{name} is of {len(tensor)} sequences and x of {shape[0]}")
        raise ValueError(f"{name} holds {list(tensor.shape)} where this layer needs {list(shape)}")
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device} and x on {x.device}; move it with .to")
