"""Which calls the Triton kernels take: facts alone, each on a line of its own, and nothing here imports Triton."""

import os
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from memory.config import Backend
from memory.ops.rule import Rule, Tokens
from memory.state import FastState

HAS_TRITON = find_spec("triton") is not None  # found at import, as torch.compile does not trace such a search
INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run in Python, on CPU tensors

MOST_DEPTH = 2  # layers of a memory
MOST_EXACT_DEPTH = 1  # layers of a memory with exact errors
MOST_ROWS = 65535  # sequences times heads, as CUDA counts the second dimension of a grid
CHUNKS = (16, 32, 64, 128)
WIDTHS = (32, 64, 128)  # of a head; 16 was never checked on a GPU
HIDDEN_TILE = 64  # hidden units of a program, which divide those of a memory of depth 2
LARGE_CHUNK = 128  # fits the shared memory of Hopper alone, in bfloat16 and at one width
LARGE_CHUNK_WIDTH = 64
NARROW_WIDTH = 32  # where Triton 3.6 compiles `read_bwd_kernel` wrongly for more than NARROW_CHUNK tokens a chunk
NARROW_CHUNK = 32
GLUON_SIDE = 64  # tokens of a chunk and channels of a head of the Gluon kernels
GLUON_HIDDEN = (128, 256)  # hidden units of the Gluon kernels
DECODE_WIDTHS = (16, 32, 64, 128)  # of a head, in the kernel of a decoding step
DECODE_HIDDEN_TILE = 16  # which divides the hidden units there
# widest head whose retrieval fits the shared memory, by whether the GPU is a Hopper and tokens are float32
RETRIEVED_WIDTHS = {(True, False): 128, (True, True): 64, (False, False): 64, (False, True): 32}
ELEMENTWISE_WIDTHS = (16, 32, 64, 128)  # of a head, in the layer's elementwise kernels


class Unserved(ValueError):
    """A backend was asked for that cannot serve the call; the message says why."""


def traced() -> bool:
    """Whether a call is traced, or seen by a mode such as that of fake tensors: what it computes may have no data."""
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode()


def most_depth(rule: Rule) -> int:
    """How many layers of a memory of this rule the kernels take."""
    return MOST_EXACT_DEPTH if rule.exact else MOST_DEPTH


def no_closed_form(rule: Rule) -> str | None:
    """Why only `reference` can compute the rule's errors, in one sentence; None where others can as well."""
    if not rule.exact:
        return None
    if rule.norm is not None:
        return "exact errors of a chunk have no closed form with LayerNorm; use reference"
    if rule.loss is not None:
        return "exact errors of a chunk have no closed form for this inner loss; use reference"
    return None


def refusal(tokens: Tokens, state: FastState, rule: Rule) -> str | None:
    """What about a call no kernels can serve, in words; None where they can.

    The interpreter also runs smaller sizes than a GPU, in float32.
    """
    q = tokens.q
    depth = len(state.weights)
    hidden, width = state.weights[-1].shape[-2:]
    if not (q.is_cuda or INTERPRET):
        return "a CPU"
    if depth > most_depth(rule):
        return f"a memory of depth {depth}{' with exact errors' if rule.exact else ''}"
    if rule.loss is not None:
        return "an inner loss other than 1/2 |M(k) - v|^2"
    if tokens.log_keep.shape[-1] != 1:
        return "forgetting per channel"
    if rule.chunk not in CHUNKS:
        return f"a chunk of {rule.chunk}"
    if q.shape[0] * q.shape[2] > MOST_ROWS:
        return f"{q.shape[0] * q.shape[2]} sequences times heads"
    if INTERPRET:
        return None
    if q.dtype == torch.float64:
        return f"{q.dtype}"
    return size_refusal(depth, width, hidden, rule.chunk, tokens.product_dtype, is_hopper(q.device))


def size_refusal(depth: int, width: int, hidden: int, chunk: int, dtype: torch.dtype, hopper: bool) -> str | None:
    """What about a call's sizes was not checked against float64 on a GPU, or is known to fail; None where it was.

    Args:
        depth: layers of the memory, 1 or 2.
        width: channels of a head.
        hidden: hidden units; no effect at depth 1.
        chunk: tokens of a chunk, one of `CHUNKS`.
        dtype: products' operands are rounded to it.
        hopper: whether the GPU is a Hopper.
    """
    if width not in WIDTHS:
        return f"a head width of {width}"
    if chunk == LARGE_CHUNK and (width != LARGE_CHUNK_WIDTH or dtype == torch.float32):
        return f"a chunk of {chunk} with a head width of {width} in {dtype}"
    if (chunk == LARGE_CHUNK or dtype == torch.float32) and not hopper:
        return f"a chunk of {chunk} in {dtype} on a GPU other than Hopper, whose shared memory it was fitted to"
    if depth == 1:
        return None
    if width == NARROW_WIDTH and chunk > NARROW_CHUNK:
        return f"a chunk of {chunk} with a head width of {width} and depth 2"
    return f"{hidden} hidden units" if hidden % HIDDEN_TILE else None


def uses_gluon(width: int, hidden: int, chunk: int, dtype: torch.dtype, hopper: bool) -> bool:
    """Whether the Gluon kernels take a memory of depth 2 in place of the portable ones."""
    fits = width == chunk == GLUON_SIDE and hidden in GLUON_HIDDEN
    return fits and hopper and dtype == torch.bfloat16


@torch.compiler.assume_constant_result  # else torch.compile would trace the question
def is_hopper(device: torch.device) -> bool:
    """Whether it is a GPU of the architecture that the kernels were tuned on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def decodes(tokens: Tokens, state: FastState, rule: Rule) -> bool:
    """Whether one kernel takes a call: one token, nothing to differentiate, a float32 state of one or two layers."""
    q = tokens.q
    weights = state.weights
    if q.shape[1] != 1 or torch.is_grad_enabled():
        return False
    if not HAS_TRITON or not (q.is_cuda or INTERPRET):
        return False
    if len(weights) > most_depth(rule) or rule.loss is not None or tokens.log_keep.shape[-1] != 1:
        return False
    if weights[0].dtype != torch.float32 or q.dtype == torch.float64:
        return False
    return q.shape[-1] in DECODE_WIDTHS and weights[0].shape[-1] % DECODE_HIDDEN_TILE == 0


def retrieves(q: Tensor, weights: list[Tensor], rule: Rule) -> bool:
    """Whether a kernel reads a memory that stays as it is with queries q [B, T, H, D].

    Args:
        q: queries.
        weights: the memory, [B, H, d_in, d_out] per layer; one that all sequences share has a dimension less.
        rule: what the memory is; the features of exact errors have unit length, which no kernel makes them.
    """
    first = weights[0]
    if rule.exact or len(weights) != 2 or first.dim() != 4 or first.dtype != torch.float32:
        return False
    width, hidden = first.shape[-2:]
    if INTERPRET:
        return hidden % 16 == 0
    widest = RETRIEVED_WIDTHS[is_hopper(q.device), q.dtype == torch.float32]
    return width in WIDTHS and width <= widest and hidden % 16 == 0


def fuses(x: Tensor, width: int, backend: Backend) -> bool:
    """Whether Triton kernels do the layer's elementwise work on x, in heads of this width."""
    return (
        backend in ("auto", "triton")
        and x.is_cuda
        and x.dtype != torch.float64
        and width in ELEMENTWISE_WIDTHS
        and HAS_TRITON
    )
