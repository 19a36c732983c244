"""What every Triton path of the recurrence shares: a call's inputs, its segments, and the gates' coefficients.

A sequence is worked through in segments of whole chunks, so that buffers do not grow with it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from memory.ops.rule import EPS
from memory.ops.triton.kernels.coefficients import coefficients_bwd_kernel, coefficients_fwd_kernel
from memory.ops.triton.launch import aligned, cdiv, start

PRIOR_PROGRAMS = 512  # that add up the gradient of the prior, at most


class Call(NamedTuple):
    """The arguments of one call of the operator.

    Args:
        tokens: q, k, v [B, T, H, D] and theta, log eta, log(1 - alpha) [B, T, H].
        norm: scale and shift of the LayerNorm, [H, D], or none.
        prior: M_0, [H, d_in, d_out] per layer, or none for zero.
        mask: False at padding, [B, T].
        chunk: tokens of a chunk.
        residual: M(x) = x + MLP(x).
        exact: every token's gradient at the memory before it, in place of the chunk's start.
        momentum: whether past surprise is carried along.
    """

    tokens: list[Tensor]
    norm: list[Tensor]
    prior: list[Tensor]
    mask: Tensor | None
    chunk: int
    residual: bool
    exact: bool
    momentum: bool


class Gradients(NamedTuple):
    """Gradients of a call's inputs: `state` of each sequence, where wanted, and `prior`, as kernels hold them."""

    tokens: list[Tensor]
    state: list[Tensor]
    norm: list[Tensor]
    prior: list[Tensor]


@dataclass(frozen=True)
class Segments:
    """How a sequence is cut: `size` chunks each, in the first the rest, in a `ramp` fewer in the last three."""

    size: int
    ramp: bool = False

    @property
    def last(self) -> list[int]:
        """Chunks of the last segments, from the end of the sequence, where they are fewer."""
        return [self.size // 4 * k for k in (1, 2, 3)] if self.ramp else []

    def count(self, time: int, chunk: int) -> int:
        """How many there are, as arithmetic that `torch.compile` does for any length."""
        rest = -(-time // chunk)
        count = 0
        for chunks in self.last:
            if rest > 0:
                rest -= chunks
                count += 1
        return count + (-(-rest // self.size) if rest > 0 else 0)

    def cut(self, time: int, chunk: int) -> list[tuple[int, int]]:
        """The first chunk of each and how many it has."""
        end = cdiv(time, chunk)
        last = self.last
        segments = []
        while end > 0:
            chunks = min(end, last.pop(0) if last else self.size)
            end -= chunks
            segments.insert(0, (end, chunks))
        return segments


class Coefficients(NamedTuple):
    """What `coefficients_fwd_kernel` makes of a segment's gates, and with `past` its backward needs."""

    weight: Tensor  # PN [B*H, chunks, C, C]
    past: Tensor | None  # RN, the same
    vec: Tensor  # [B*H, chunks, 4, C]
    m_last: Tensor  # m_C [B*H, chunks]


def carries(exact: bool, momentum: bool) -> bool:
    """Whether kernels carry momentum: those of anchored errors do in any case, where eta is 0 for nothing."""
    return momentum or not exact


def parts_of(state: int, momentum: bool) -> int:
    """How many of the weights and momenta of a state go from one segment to the next."""
    return state if momentum else state // 2


def idle_share(programs: int, places: int) -> float:
    """Which share of `places` is empty while programs run there, one in each, round after round until all have run."""
    return 1 - programs / (cdiv(programs, places) * places)


def held(weights: list[Tensor]) -> list[Tensor]:
    """Layers' weights as kernels hold them, float32 [..., E, D], all but the last transposed; no copies of such."""
    *earlier, last = weights
    return [aligned(w.float()) for w in (*(w.mT for w in earlier), last)]


def returned(weights: list[Tensor]) -> list[Tensor]:
    """Layers' weights [..., d_in, d_out] from those that kernels hold, as views."""
    *earlier, last = weights
    return [w.mT for w in earlier] + [last]


class Plan:
    """How the kernels of one call run: its inputs, sizes, flags and segments.

    A buffer for some chunks also serves fewer: kernels take the start of it.
    """

    def __init__(self, call: Call, segments: Segments, prior: list[Tensor], **flags: object) -> None:
        self.q, self.k, self.v, *self.gates = (aligned(x) for x in call.tokens)
        self.norm = [aligned(x) for x in call.norm] or [None, None]
        self.prior = prior or [None] * 2
        self.mask = aligned(call.mask)
        self.chunk = call.chunk
        self.batch, self.time, self.heads, self.width = self.q.shape
        self.rows = self.batch * self.heads
        self.dtype = self.q.dtype
        self.device = self.q.device
        self.chunks = cdiv(self.time, self.chunk)
        self.segments = segments.cut(self.time, self.chunk)
        self.last = len(self.segments) - 1
        self.longest = max(chunks for _, chunks in self.segments)
        precision = "tf32x3" if self.dtype == torch.float32 else "tf32"  # three products on tensor cores for float32
        self.flags: dict[str, Any] = {"D": self.width, "C": self.chunk, "EPS": EPS, "IP": precision}
        self.flags |= {"MASK": call.mask is not None, "NORM": bool(call.norm)}
        self.flags |= {"RES": call.residual, "PRIOR": bool(call.prior)}
        self.flags["MOMENTUM"] = carries(call.exact, call.momentum)
        self.flags |= flags
        # the class is part of what tells calls apart: portable and Gluon kernels store some gradients in other dtypes
        mask_dtype = None if call.mask is None else call.mask.dtype
        self.call = (type(self), self.dtype, mask_dtype, *self.flags.values())

    def launch(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, warps: int = 4, stages: int = 1,
        registers: int | None = None, **flags: object,
    ) -> None:  # fmt: skip
        """Run a kernel with those of the call's flags that it knows; of a call's flags all others here follow."""

        def settings() -> dict[str, object]:
            every = self.flags | flags
            known = {name: every[name] for name in kernel.arg_names[len(args) :]}
            return known | {"num_warps": warps, "num_stages": stages, "maxnreg": registers}

        start(kernel, grid, args, self.call, settings)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialised tensor on the call's device."""
        return torch.empty(*shape, dtype=dtype, device=self.device)

    def new_starts(self, state: list[Tensor]) -> Tensor:
        """Room for the state at the start of all segments but the first, see `parts_of`."""
        parts = parts_of(len(state), self.flags["MOMENTUM"])
        return self.new(self.last, parts, self.batch, *state[0].shape[1:])

    def new_dstates(self, state: list[Tensor], dstate: list[Tensor], wanted: list[bool]) -> list[list[Tensor | None]]:
        """The gradients of the state before each segment and, the last, behind all: of the first what is `wanted`.

        Those between segments lie in one place, where each takes that of the one before.
        """
        shape = (self.batch, *state[0].shape[1:])
        room = [self.new(*shape) if self.last or want else None for want in wanted]
        first = [d if want else None for d, want in zip(room, wanted, strict=True)]
        behind: list[Tensor | None] = [*dstate] or [None for _ in state]
        return [first, *[room] * self.last, behind]

    def new_dprior(self, tiles: int, hidden: int) -> Tensor:
        """Zeros that the prior's gradient is added to, [G, H, E, D]: G sums of it, so that all programs have work."""
        groups = min(max(PRIOR_PROGRAMS // (self.heads * tiles), 1), self.batch)
        return self.new(groups, self.heads, hidden, self.width).zero_()

    def new_coefficients(self, backward: bool) -> Coefficients:
        """Room for those of the longest segment."""
        chunks = (self.rows, self.longest)
        weight = self.new(*chunks, self.chunk, self.chunk, dtype=self.dtype)
        past = torch.empty_like(weight) if backward and self.flags["MOMENTUM"] else None
        return Coefficients(weight, past, self.new(*chunks, 4, self.chunk), self.new(*chunks))

    def find_coefficients(self, first: int, chunks: int, out: Coefficients) -> None:
        """Compute the coefficients of a segment into `out`."""
        shape = (self.time, self.heads, first, chunks)
        self.launch(coefficients_fwd_kernel, (chunks, self.rows), *self.gates, self.mask, *out, *shape, warps=1)

    def gate_gradients(
        self, first: int, chunks: int, coefficients: Coefficients, grads: tuple[Tensor, ...], dgates: list[Tensor]
    ) -> None:
        """From the gradients of PN, vec and m_C of a segment to those of its tokens' gates, written into `dgates`."""
        shape = (self.time, self.heads, first, chunks)
        inputs = (*self.gates[1:], self.mask, *coefficients[:3], *grads)
        self.launch(coefficients_bwd_kernel, (chunks, self.rows), *inputs, *dgates, *shape, warps=1)
