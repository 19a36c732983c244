"""Compile every Gluon kernel for a Hopper GPU, which needs none: `python -m tests.memory.hopper`."""

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource

from memory.ops.triton import mlp_hopper as hopper
from memory.ops.triton.kernels import SIZES

SCAN, SIDE = hopper.BLOCK, hopper.SIDE
FOUR, ALL = 4, hopper.SCAN_WARPS
NARROW, BOTH = (SCAN,), (SCAN, hopper.WIDE)
KERNELS = {  # rows of the tiles of each kernel's descriptors, its warps, programs on an SM, hidden widths
    hopper.scan_kernel: ({"saved": SCAN}, ALL, 1, BOTH),
    hopper.scan_bwd_kernel: (dict.fromkeys(("saved", "hidden", "dsaved", "dz1_o"), SCAN), ALL, 1, BOTH),
    hopper.read_kernel: ({"saved": SIDE}, FOUR, hopper.READ_PROGRAMS, BOTH),
    hopper.reads_bwd_kernel: ({"saved": SCAN, "hidden": SIDE, "small": SIDE}, FOUR, 2, NARROW),
    hopper.reads_bwd_wide_kernel: ({"saved": SCAN, "hidden": SCAN, "small": SIDE}, ALL, 1, (hopper.WIDE,)),
    hopper.writes_bwd_kernel: (
        dict.fromkeys(("saved", "dsaved", "hidden", "dz1"), SIDE), FOUR, hopper.WRITE_PROGRAMS, BOTH,
    ),
}  # fmt: skip
STATES = ("M1", "M2", "S1", "S2")
FLOAT32 = {"vec", "m_last", "scale", "shift", "dscale", "dshift", "dvec", "dm_last", "shared", "P1", "P2"}
OF_ANCHOR = ("A1", "A2", "dA1", "dA2")
FLOAT32 |= {*STATES, *(f"{name}_end" for name in STATES), *OF_ANCHOR}
FLOAT32 |= {f"d{name}{place}" for name in STATES for place in ("", "_start")}


def kind(name: str, tiles: dict[str, int], constants: dict[str, object]) -> str:
    """What Triton calls the type of a kernel's argument."""
    if name in constants:
        return "constexpr"
    if name in tiles:
        return f"tensordesc<bf16[{tiles[name]}, {SIDE}],{hopper.LAYOUTS[tiles[name]]!r}>"
    if name in SIZES:
        return "i32"
    return "*i32" if name == "arrived" else "*fp32" if name in FLOAT32 else "*bf16"


def compile_for_hopper(kernel: triton.JITFunction, units: int, everything: bool) -> triton.compiler.CompiledKernel:
    """A kernel as it is launched for `units` hidden units.

    Everything: it forgets to a prior, and something is learned from the state behind the tokens.
    """
    tiles, warps, *_ = KERNELS[kernel]
    sizes = {"D": SIDE, "C": SIDE, "E": units, "BE": SIDE if warps == FOUR else SCAN, "EPS": 1e-5}
    switches = {"NORM": True, "RES": True, "PRIOR": everything}
    constants = {name: value for name, value in (sizes | switches).items() if name in kernel.arg_names}
    if not everything:
        absent = ("P1", "P2", *(f"d{name}" for name in STATES), *OF_ANCHOR)
        constants |= {name: None for name in absent if name in kernel.arg_names}
    if units == SCAN:
        constants |= {name: None for name in ("shared", "arrived") if name in kernel.arg_names}
    signature = {name: kind(name, tiles, constants) for name in kernel.arg_names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
    given = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = GluonASTSource(kernel, signature, given, attrs)
    options = {"num_warps": warps} | ({"maxnreg": 168} if kernel is hopper.read_kernel and not everything else {})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def main() -> None:
    """Print each kernel's name and the bytes of shared memory that its programs on an SM take."""
    for kernel, (_, _, programs, widths) in KERNELS.items():
        # A switch alone adds no line that the two do not have, nor does a width with the other switches; the wider one
        # with everything takes the most memory.
        for units, everything in ((widths[0], False), (widths[-1], True)):
            on_sm = hopper.PRIOR_READ_PROGRAMS if everything and kernel is hopper.read_kernel else programs
            compiled = compile_for_hopper(kernel, units, everything)
            print(kernel.__name__, on_sm * compiled.metadata.shared)


if __name__ == "__main__":
    main()
