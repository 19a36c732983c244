"""What `benchmarks.kernel` measures, with the bounds it is measured against."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.kernel import flops, peers
from benchmarks.shared import problems
from benchmarks.shared.timing import Problem
from memory.config import Backend, Errors, Prior

Bounds = tuple[str, str]  # must, aim
NONE = ("", "")
HEADS, D, C = problems.DIM // 64, 64, problems.CHUNK
SHORT, LONG, SWEEP = (8, 4096), (1, 32768), 131_072  # batch and time, or their product
DNA = (512, 101)


@dataclass
class Case:
    """Something to time.

    Args:
        name: what `--only` calls it.
        title: what it is, for a reader.
        make: builds it on the GPU.
        bounds: those on the forward, and on forward and backward; None where a pass is not timed.
        memory: bounds on peak memory in GiB; None where it is not measured.
        work: floating-point operations of both passes, where they are known.
        repeats: most repeats, for what is slow.
        unit: of the times, ms or us.
    """

    name: str
    title: str
    make: Callable[[], Problem]
    bounds: tuple[Bounds | None, Bounds | None] = (NONE, NONE)
    memory: Bounds | None = None
    work: tuple[float, float] | None = None
    repeats: int = 1000
    unit: str = "ms"


def scan(
    name: str, shape: tuple[int, int], depth: int, expansion: int = 2, width: int = D, forget_to: Prior = "zero",
    backend: Backend = "triton", chunk: int = C, dtype: torch.dtype = torch.bfloat16, title: str = "",
    errors: Errors = "anchor", heads: int | None = None, **options: object,
) -> Case:  # fmt: skip
    """A case of the recurrence alone, of DIM features or of so many heads."""
    batch, time = shape
    tokens = batch * time * (heads or problems.DIM // width)
    work = tuple(tokens * count for count in flops.per_token(depth, width, expansion * width, chunk))
    call = (batch, time, depth, expansion, width, forget_to, backend, "cuda", chunk, dtype, errors, heads)
    make = partial(problems.scan, *call)
    hidden = f" h={expansion}d" if depth > 1 else ""
    title = title or f"L_M={depth}{hidden} B={batch} T={time}{', forgetting to M_0' if forget_to == 'init' else ''}"
    return Case(name, title, make, work=work if errors == "anchor" else None, **options)


def cases() -> list[Case]:
    """Everything that is measured, what has bounds first."""
    titans, both = partial(peers.titans_layer, *SHORT), (None, NONE)
    attention = flops.attention(*SHORT, HEADS, D)
    decode = {"bounds": (("<= 60", "<= 20"), None), "unit": "us"}
    listed = [
        scan("l1", SHORT, 1, bounds=(("<= 0.45", "<= 0.3"), ("<= 2.4", "<= 1.5")), memory=NONE),
        scan("exact", SHORT, 1, errors="exact", title="L_M=1 exact errors B=8 T=4096",
             bounds=(("<= 0.5", "<= 0.35"), ("<= 2.2", "<= 1.5")), memory=NONE),
        scan("exact-long", LONG, 1, errors="exact", title="L_M=1 exact errors B=1 T=32768"),
        scan("exact-init", SHORT, 1, errors="exact", forget_to="init",
             title="L_M=1 exact errors B=8 T=4096, forgetting to M_0"),
        scan("l2h2", SHORT, 2, bounds=(("<= 1.6", "<= 0.8"), ("<= 6.5", "<= 3.5")), memory=("<= 1", "<= 0.4")),
        scan("l2h4", SHORT, 2, 4, bounds=(("<= 3.2", "<= 1.6"), ("<= 11", "<= 6")), memory=NONE),
        scan("l2h2-long", LONG, 2, bounds=(NONE, ("<= 9", "<= 5")), memory=NONE),
        Case("decode-scan", "one token, L_M=2 h=2d B=1, recurrence", problems.decode_scan, **decode),
        Case("decode-layer", "one token, L_M=2 h=2d B=1, whole layer", problems.decode_layer, **decode),
        Case("layer", "whole layer", partial(problems.layer, *SHORT, "init"), memory=NONE),
        Case("layer-zero", "whole layer, forgetting to zero", partial(problems.layer, *SHORT, "zero")),
        Case("layer-compile", "whole layer, torch.compile", partial(problems.layer, *SHORT, "init", True)),
        Case("titans-default", "titans-pytorch layer, gradients at the call's start", partial(titans, None), repeats=3,
             memory=NONE),
        Case("titans-paper", "titans-pytorch layer, gradients anchored every 64 tokens", partial(titans, 64), repeats=3,
             memory=NONE),
        Case("ttt", "fla ttt-linear, C=64", partial(peers.ttt_linear, *SHORT)),
        Case("gdn", "fla gated delta rule", partial(peers.gated_delta_rule, *SHORT)),
        Case("sdpa", "causal FlashAttention (SDPA) B=8 T=4096", partial(problems.attention, *SHORT, D), work=attention),
        scan("l2h2-init", SHORT, 2, forget_to="init", memory=NONE),
        scan("short", (512, 64), 2),
        scan("dna", DNA, 2, heads=2, chunk=16, title="L_M=2 h=2d B=512 T=101, 2 heads, chunk 16",
             bounds=(NONE, ("<= 2.5", "<= 1.5"))),
        scan("dna-init", DNA, 2, heads=2, chunk=16, forget_to="init",
             title="L_M=2 h=2d B=512 T=101, 2 heads, chunk 16, forgetting to M_0"),
        scan("dna-l1", DNA, 1, heads=2, chunk=16, forget_to="init",
             title="L_M=1 B=512 T=101, 2 heads, chunk 16, forgetting to M_0"),
        scan("dna-exact", DNA, 1, heads=2, errors="exact", forget_to="init",
             title="L_M=1 exact errors B=512 T=101, 2 heads, forgetting to M_0"),
        scan("chunked", SHORT, 2, backend="chunked", title="L_M=2 h=2d B=8 T=4096 on matrix products (backend chunked)",
             bounds=both, repeats=2),
    ]  # fmt: skip
    listed += [
        scan(f"other-chunk{chunk}", SHORT, 2, chunk=chunk, title=f"L_M=2 h=2d B=8 T=4096, chunk {chunk}")
        for chunk in (16, 32, 128)
    ] + [
        scan(f"other-float32-l{depth}", SHORT, depth, dtype=torch.float32, title=f"L_M={depth} B=8 T=4096, float32")
        for depth in (1, 2)
    ]
    lengths = [2**power for power in range(11, 18)]
    for width in (64, 128):
        for depth in (1, 2):
            title = f"L_M={depth}{' h=2d' if depth > 1 else ''} d={width}, 131,072 tokens, T="
            listed += [
                scan(f"sweep-l{depth}-d{width}", (SWEEP // time, time), depth, width=width, title=f"{title}{time}",
                     repeats=5)
                for time in lengths
            ]  # fmt: skip
        title = f"causal attention d={width}, 131,072 tokens, T="
        listed += [
            Case(f"sweep-sdpa-d{width}", f"{title}{time}", partial(problems.attention, SWEEP // time, time, width),
                 work=flops.attention(SWEEP // time, time, problems.DIM // width, width), repeats=5)
            for time in lengths
        ]  # fmt: skip
        for depth in (1, 2, 3, 4):
            title = f"L_M={depth} d={width} B=16 T=2048 on matrix products (backend chunked)"
            listed.append(
                scan(f"depth-l{depth}-d{width}", (16, 2048), depth, width=width, backend="chunked", title=title,
                     repeats=3)
            )  # fmt: skip
    # its time and memory are those of a copy of the weights per token, about 250 GiB at this size
    listed.append(Case("titans-token", "titans-pytorch layer, anchored every 64 tokens, gates per token",
                       partial(titans, 64, 1), bounds=both, repeats=3))  # fmt: skip
    return listed


# ours, peer, pass, bounds on peer's time / ours
RATIOS = [
    (ours, peer, 1, bounds)
    for peer, bounds in (("titans-default", (">= 8", ">= 20")), ("titans-paper", (">= 120", ">= 300")))
    for ours in ("layer", "layer-zero", "layer-compile")
] + [("l1", peer, i, (">= 1", ">= 1.5")) for peer in ("ttt", "gdn") for i in (0, 1)]
