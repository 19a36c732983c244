"""Queries, keys and values behind their linear map: see `memory.layers.ConvProjection`.

A causal depthwise convolution over a few tokens and, where asked, SiLU and RMS normalisation, in one pass:
z_t = sum_j w_j x_{t - (K-1) + j}, s = z or SiLU(z), y = s or s * LENGTH / rms(s). The backward computes z again.

A program walks down spans of rows and keeps the K - 1 rows above, the taps and their gradients in registers: a row is
loaded once, and gradients of taps are added up over rows first, which takes no other thread.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run

TILE = 1024  # elements of a row of all walks of a program
AHEAD = tl.constexpr(4)  # rows that the forward loads before it uses the first of them
SHORTEST = 16  # rows of a walk
LONGEST = 32  # of one forward, where another walk costs no more than taps
LONGEST_BACK = 68  # of one backward, which has the last K - 1 rows in common with the next
ENOUGH = 1 << 16  # walks of 8 features, which fill a GPU: they are made no shorter to be more
REGISTERS = 168  # of a thread backward: three programs share an SM
EPS = 1e-6  # of the normalisation


@triton.jit
def silu_1(z):
    """SiLU and its slope."""
    gate = 1.0 / (1.0 + tl.exp(-z))
    return z * gate, gate * (1.0 + z * (1.0 - gate))


@triton.jit
def activate(z, SILU: tl.constexpr):
    """SiLU, or nothing, and its slope."""
    if SILU:
        return silu_1(z)
    else:
        return z, tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def walks(block, B, rows, length, WALKS: tl.constexpr, K: tl.constexpr):
    """Sequences and first rows of a block of spans, of `length` rows each, that a program walks down.

    Where there is no span any more, the row is one that does not see the last of its sequence.
    """
    spans = tl.cdiv(rows, length)
    i = block * WALKS + tl.arange(0, WALKS)
    i_b = i // spans
    return i_b.to(tl.int64), tl.where(i_b < B, i % spans * length, rows + K)


@triton.jit
def own_share(width: tl.constexpr, D: tl.constexpr):
    """Block of spans and features [D] of a program: those of one row are read by neighbours, at about the same time."""
    heads: tl.constexpr = width // D
    return tl.program_id(0) // heads, tl.program_id(0) % heads * D + tl.arange(0, D)


@triton.jit
def load_row(x, before, i_b, row, N, P, of, feature):
    """A row of each sequence of N, [WALKS, D]: the first P are those of `before`, which all share; others are zero."""
    own = ((row >= P) & (row < N))[:, None]
    place = x + ((i_b * (N - P) + (row - P)) * of)[:, None] + feature[None, :]
    if before is None:
        return tl.load(place, mask=own, other=0.0)
    else:
        place_before = before + (row.to(tl.int64) * of)[:, None] + feature[None, :]
        shared = tl.load(place_before, mask=((row >= 0) & (row < P))[:, None], other=0.0)
        return tl.load(place, mask=own, other=shared)


@triton.jit
def load_rows(x, before, i_b, row, N, P, of, feature, COUNT: tl.constexpr):
    """COUNT rows one behind the other; loads are under way together."""
    loaded = ()
    for i in tl.static_range(COUNT):
        loaded += (load_row(x, before, i_b, row + i, N, P, of, feature).to(tl.float32),)
    return loaded


@triton.jit
def load_taps(w, feature, K: tl.constexpr):
    """Taps [K][1, D], the last one that of the token itself."""
    taps = ()
    for j in tl.static_range(K):
        taps += (tl.load(w + feature * K + j).to(tl.float32)[None, :],)
    return taps


@triton.jit
def weighted(rows, taps, K: tl.constexpr, BACK: tl.constexpr):
    """The sum of K rows by their taps, or by those from the last."""
    total = rows[0] * taps[K - 1 if BACK else 0]
    for j in tl.static_range(1, K):
        total += rows[j] * taps[K - 1 - j if BACK else j]
    return total


@triton.jit(do_not_specialize=[*SIZES, "P", "length"])
def conv_fwd_kernel(
    x, before, w, y, B, N, P, T, length, F: tl.constexpr, first: tl.constexpr, width: tl.constexpr, D: tl.constexpr,
    WALKS: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, EPS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """grid (blocks of WALKS spans times width / D,): features first .. first + width - 1 of x, spans of the T tokens.

    Of the N rows of a sequence the last T are the tokens; those before the first one are zero. x: [B, N - P, F], behind
    `before`: [P, F] for all sequences, which need not be there. w: [F, K]; y: [B, T, width].
    """
    block, own = own_share(width, D)
    i_b, start = walks(block, B, T, length, WALKS, K)
    feature = first + own
    taps = load_taps(w, feature, K)
    seen = load_rows(x, before, i_b, start + (N - T - K + 1), N, P, F, feature, K - 1)
    for i in range(0, tl.minimum(length, T), AHEAD):
        loaded = load_rows(x, before, i_b, start + (i + N - T), N, P, F, feature, AHEAD)
        for k in tl.static_range(AHEAD):
            seen += (loaded[k],)
            out, _ = activate(weighted(seen, taps, K, False), SILU)
            if UNIT:
                out *= (LENGTH * tl.rsqrt(tl.sum(out * out, 1) / D + EPS))[:, None]
            t = start + i + k
            place = y + ((i_b * T + t) * width)[:, None] + own[None, :]
            tl.store(place, out.to(y.dtype.element_ty), mask=((i + k < length) & (t < T))[:, None])
            seen = seen[1:]


@triton.jit(do_not_specialize=[*SIZES, "P", "length"])
def conv_bwd_kernel(
    x, before, w, dy, dx, dbefore, dw, B, N, P, T, length, F: tl.constexpr, first: tl.constexpr, width: tl.constexpr,
    D: tl.constexpr, WALKS: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr,
    EPS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """grid (blocks of WALKS spans times width / D,), spans of the N rows: gradients of x, [B, N - P, F], of `before`,
    [B, P, F] to be added up, and of w, [blocks, K, F] to be added up.

    A row's gradient is there K - 1 rows further down, where the last token that sees it is: walks go on for as long,
    through rows whose share of w's gradient is the next walk's.
    """
    block, own = own_share(width, D)
    i_b, start = walks(block, B, N, length, WALKS, K)
    feature = first + own
    end = tl.minimum(start + length, N)
    highest = tl.min(start, 0)
    taps = load_taps(w, feature, K)
    seen = load_rows(x, before, i_b, start - (K - 1), N, P, F, feature, K - 1)
    dz, dtaps = (), ()
    for _ in tl.static_range(K - 1):
        dz += (tl.zeros([WALKS, D], tl.float32),)
    for _ in tl.static_range(K):
        dtaps += (tl.zeros([WALKS, D], tl.float32),)
    next_x = load_row(x, before, i_b, start, N, P, F, feature)
    next_dy = load_row(dy, None, i_b, start + (T - N), T, 0, width, own)
    for i in range(tl.minimum(length, N) + (K - 1)):
        b_x, grad = next_x.to(tl.float32), next_dy.to(tl.float32)
        next_x = load_row(x, before, i_b, start + (i + 1), N, P, F, feature)  # under way while this row is worked on
        next_dy = load_row(dy, None, i_b, start + (i + 1 + T - N), T, 0, width, own)
        seen += (b_x,)
        out, slope = activate(weighted(seen, taps, K, False), SILU)
        if UNIT:
            rms = tl.rsqrt(tl.sum(out * out, 1) / D + EPS)[:, None]
            grad = LENGTH * rms * (grad - out * rms * rms * (tl.sum(grad * out, 1) / D)[:, None])
        grad *= slope
        dz += (grad,)
        row = start + i
        grad = tl.where((row < end)[:, None], grad, 0.0)
        added = ()
        for j in tl.static_range(K):
            added += (dtaps[j] + grad * seen[j],)
        dtaps = added
        total = weighted(dz, taps, K, True)
        row -= K - 1
        inside = (row >= start) & (row < end)
        place = dx + ((i_b * (N - P) + (row - P)) * F)[:, None] + feature[None, :]
        tl.store(place, total.to(dx.dtype.element_ty), mask=(inside & (row >= P))[:, None])
        if dbefore is not None and highest + (i - (K - 1)) < P:
            place_before = dbefore + ((i_b * P + row) * F)[:, None] + feature[None, :]
            tl.store(place_before, total, mask=(inside & (row < P))[:, None])
        seen = seen[1:]
        dz = dz[1:]
    for j in tl.static_range(K):
        tl.store(dw + (block.to(tl.int64) * K + j) * F + feature, tl.sum(dtaps[j], 0))


def _launch(
    kernel: triton.JITFunction, x: Tensor, before: Tensor | None, weight: Tensor, parts: list[Tensor],
    *out: Tensor | None, rows: int, length: int, width: int, lengths: list[float], silu: bool, **limit: int,
) -> None:  # fmt: skip
    """Run a kernel over neighbouring features that lie apart in `parts`, [B, T, ..], each with a length of its own.

    Programs walk down spans of `length` of the `rows` of a sequence; a `limit` is an option of Triton's.
    """
    first = 0
    shared = _rows(before)
    for part, unit in zip(parts, lengths, strict=True):
        batch, time, features = part.shape
        if features:
            constants = {"F": x.shape[2], "first": first, "width": features, "D": width, "WALKS": TILE // width}
            constants |= {"K": weight.shape[2], "UNIT": unit > 0, "LENGTH": unit / width**0.5, "EPS": EPS, "SILU": silu}
            grid = (_blocks(batch, rows, length, width) * (features // width),)
            args = (x, before, weight, part, *out, batch, x.shape[1] + shared, shared, time, length)
            run(kernel, grid, args, constants, (x.dtype, weight.dtype), num_warps=4, **limit)
        first += features


def _blocks(batch: int, rows: int, length: int, width: int) -> int:
    """How many blocks of spans there are."""
    return cdiv(batch * cdiv(rows, length), TILE // width)


def _steps(elements: int, longest: int) -> int:
    """Rows of a walk, which is short where there would not be enough of them to fill a GPU."""
    return min(max(elements // (8 * ENOUGH), SHORTEST), longest)


def _rows(before: Tensor | None) -> int:
    return 0 if before is None else len(before)


def _short_conv(
    x: Tensor, before: Tensor | None, weight: Tensor, first: int, past: int, width: int, lengths: list[float],
    silu: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    parts = _parts(x, before, first, past)
    inputs = (aligned(x), aligned(before), aligned(weight))
    time = parts[0].shape[1]
    length = _steps(len(x) * time * x.shape[2], LONGEST)
    _launch(conv_fwd_kernel, *inputs, parts, rows=time, length=length, width=width, lengths=lengths, silu=silu)
    leading, rest = parts
    return leading, rest


def _parts(x: Tensor, before: Tensor | None, first: int, past: int) -> list[Tensor]:
    time = _rows(before) + x.shape[1] - past
    return [x.new_empty(x.shape[0], time, n) for n in (first, x.shape[2] - first)]


_op = library.custom_op("titans::short_conv", _short_conv, mutates_args=())


@_op.register_fake
def _(x, before, weight, first, past, width, lengths, silu):
    return tuple(_parts(x, before, first, past))


@library.custom_op("titans::short_conv_backward", mutates_args=())
def _short_conv_backward(
    x: Tensor, before: Tensor | None, weight: Tensor, dfirst: Tensor, drest: Tensor, width: int,
    lengths: list[float], silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, of what comes before it ([0] where nothing does) and of weight."""
    x, weight, dfirst, drest = (aligned(t) for t in (x, weight, dfirst, drest))
    before = aligned(before)
    batch, rows, features = x.shape
    shared = _rows(before)
    taps = weight.shape[2]
    length = max(_steps(batch * (shared + rows) * features, LONGEST_BACK) - (taps - 1), 1)
    dx = torch.empty_like(x)
    dbefore = None if before is None else x.new_empty(batch, shared, features, dtype=torch.float32)
    dw = x.new_empty(_blocks(batch, shared + rows, length, width), taps, features, dtype=torch.float32)
    options = {"rows": shared + rows, "length": length, "width": width, "lengths": lengths, "silu": silu}
    options["maxnreg"] = REGISTERS
    _launch(conv_bwd_kernel, x, before, weight, [dfirst, drest], dx, dbefore, dw, **options)
    of_before = x.new_empty(0) if dbefore is None else dbefore.sum(0).to(x.dtype)
    return dx, of_before, dw.sum(0).mT[:, None].to(weight.dtype).contiguous()


@_short_conv_backward.register_fake
def _(x, before, weight, dfirst, drest, width, lengths, silu):
    of_before = x.new_empty(0 if before is None else before.shape)
    return x.new_empty(x.shape), of_before, weight.new_empty(weight.shape)


def _save(ctx, inputs, output) -> None:
    x, before, weight, _, _, *ctx.options = inputs
    ctx.save_for_backward(x, before, weight)


def _backward(ctx, dfirst, drest):
    dx, dbefore, dw = _short_conv_backward(*ctx.saved_tensors, dfirst, drest, *ctx.options)
    return dx, dbefore if ctx.needs_input_grad[1] else None, dw, *(None,) * 5


_op.register_autograd(_backward, setup_context=_save)


def short_conv(
    x: Tensor,
    weight: Tensor,
    first: int,
    past: int,
    width: int,
    lengths: list[float],
    silu: bool = True,
    before: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve, activate, and bring heads to a length.

    Args:
        x: the linear map's outputs, [B, past + T, features].
        weight: taps of the convolution, [features, 1, K].
        first: how many features come first and lie apart from the rest.
        past: rows of x before the first token, K - 1, or 0 for zeros.
        width: features of a head.
        lengths: of a head among the first features and among the rest; 0 does not change them.
        silu: whether SiLU follows the convolution.
        before: the same of P tokens that every sequence begins with, [P, features]; `past` is 0 then.

    Returns:
        [B, P + T, first] and [B, P + T, features - first].
    """
    return direct(_op, _short_conv)(x, before, weight, first, past, width, lengths, silu)
