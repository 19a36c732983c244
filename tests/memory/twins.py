"""A twin in PyTorch for each portable Triton kernel of the two-layer memory, from DERIVATION.md in its names.

A twin has the name of its kernel. It takes the kernel's arguments as they were before the launch (see `arguments`) and
returns what the kernel must write, by the arguments' names. All chunks of a segment are batched: tensors of tokens are
[N, n, C, D] or [N, n, C, 1], for N sequences times heads and n chunks.
"""

import math
import re
from types import SimpleNamespace as Arguments
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# What kernels hold under each name: B batch, T tokens, H heads, N = B H, n chunks of the segment, K chunks of the
# sequence, C tokens of a chunk, D head width, E hidden units (D at depth 1), L spans of all.
SHAPES = {
    "BTHD": "q k v y dy dq dk dv",
    "BTH": "theta log_eta log_keep dtheta dlog_eta dlog_keep",
    "NnCD": "err z2 d_err dzq2 unit dz_m dz_s dz_p d_b dz_k",
    "NnEC": "x e1 slope curve xq slopeq dx d_e1 dzq1 dz1",
    "NnCC": "PN RN dPN d_scores inv",
    "NnED": "M1c M2c S1c S2c dM1c dM2c dS1c dS2c Mc Sc dMc dSc dMr dSr",
    "NED": (
        "M1 M2 S1 S2 M1_end M2_end S1_end S2_end A1 A2 dM1 dM2 dS1 dS2 dM1_start dM2_start dS1_start dS2_start dA1 dA2 "
        "dP1 dP2 M S M_end S_end A dM dS dM_start dS_start dA dP"
    ),
    "HED": "P1 P2 P",
    "HD": "scale shift",
    "Nn4C": "vec dvec",
    "Nn2C": "stat",
    "Nn": "m_last dm_last",
    "NKD": "dscale dshift",
}
SHAPE_OF = {name: shape for shape, names in SHAPES.items() for name in names.split()}
OF_TOKENS = {name for name, shape in SHAPE_OF.items() if shape.startswith("BTH")}  # nothing is written behind the last
EXCEPTIONS = {
    ("read_bwd_kernel", "dk"): "NnCD",
    ("write_bwd_kernel", "dk_i"): "NnCD",
    ("read_again_kernel", "dscale"): "NnD",
    ("read_again_kernel", "dshift"): "NnD",
    ("state_bwd_kernel", "dscale"): "ND",
    ("state_bwd_kernel", "dshift"): "ND",
    ("delta_scan_kernel", "M"): "LED",
    ("delta_scan_kernel", "M_end"): "LED",
    ("delta_scan_bwd_kernel", "dM"): "LED",
    ("delta_scan_bwd_kernel", "dM_start"): "LED",
}
VEC = ("beta", "f", "pn", "rn")
# what is not there without momentum
OF_MOMENTUM = {"S", "Sc", "S_end", "dS", "dSc", "dSr", "dS_start", "RN", "f", "rn", "d_f", "d_rn", "m_last", "dm_last"}
EPS = 1e-5
BEFORE = ("_o", "", "_io", "_i")  # a name may end in what is done with it; of two with one stem the later counts
AFTER = ("_i", "", "_io", "_o")


def arguments(kernel: str, launched: dict[str, Any], ends: tuple[str, ...]) -> Arguments:
    """A launch's arguments by their stems, in float64 and the shapes of the page; rows of vec by their names.

    Args:
        kernel: name of the kernel.
        launched: the arguments that it was launched with.
        ends: BEFORE for those it reads, AFTER for those it has written.
    """
    if kernel == "delta_carry_kernel":
        spans = launched["spans"]
        return Arguments(**{n: by_span(x, spans) if isinstance(x, Tensor) else x for n, x in launched.items()})
    token = next(launched[name] for name in ("k", "q", "log_eta") if name in launched)
    batch, time, heads = token.shape[:3]
    chunk, first, chunks = launched["C"], launched["c0"], launched["n"]
    whole = -(-time // chunk)
    width = launched.get("D")
    sizes = {"N": batch * heads, "H": heads, "n": chunks, "K": whole, "C": chunk, "D": width, "4": 4, "2": 2}
    sizes |= {"E": launched.get("E", width), "L": batch * heads * -(-chunks // launched.get("span", chunks))}

    def in_chunks(x: Tensor) -> Tensor:
        """[B, T, H, F] to [N, n, C, F], zero behind the last token."""
        x = F.pad(x, (0, 0, 0, 0, 0, whole * chunk - time)).unflatten(1, (whole, chunk))
        return x.permute(0, 3, 1, 2, 4).flatten(0, 1)[:, first : first + chunks]

    def view(name: str, x: Tensor) -> Tensor:
        shape = EXCEPTIONS.get((kernel, name), SHAPE_OF[stem(name)])
        if shape.startswith("BTH"):
            return in_chunks(x.double().view(batch, time, heads, -1))
        size = [sizes[letter] for letter in shape]
        if shape in ("NED", "LED") and x.numel() < math.prod(size):  # a state that stands for all sequences
            x = x.flatten().repeat(batch)
        if kernel == "delta_scan_kernel" and name == "M_end" and launched["M"] is None:
            size = [2, *size]
        x = x.flatten()[: math.prod(size)].view(size).double()
        if shape.startswith("H"):
            x = x.repeat(batch, *(1,) * (x.dim() - 1))[:, None]
            return x[:, :, None] if shape == "HD" else x
        return x.mT if shape == "NnEC" else x[:, first : first + chunks] if shape == "NKD" else x

    def stem(name: str) -> str:
        return re.sub("_(i|o|io)$", "", name)

    named = {"mask": None}
    for end in ends:
        for name, x in launched.items():
            if name.removeprefix(stem(name)) == end:
                named[stem(name)] = view(name, x) if isinstance(x, Tensor) and stem(name) in SHAPE_OF else x
    for name in SHAPES["HED"].split():
        if named.get(name, 0) is None:  # no prior is one of zeros
            named[name] = torch.zeros(1, 1, sizes["E"], sizes["D"], dtype=torch.float64)
    for name in ["dM1", "dM2", "dS1", "dS2", "dA1", "dA2", "dM", "dS", "dA"]:
        if named.get(name, 0) is None:  # and so is the gradient of what nothing is learned from
            named[name] = torch.zeros(1, sizes["E"], sizes["D"], dtype=torch.float64)
    for prefix, name in (("", "vec"), ("d_", "dvec")):
        if name in named:
            named |= {prefix + row: named[name][:, :, i, :, None] for i, row in enumerate(VEC)}
    if not launched.get("MOMENTUM", True):
        for name in OF_MOMENTUM & named.keys():
            shape = [sizes[letter] for letter in SHAPE_OF.get(name, "NnC")] + [1] * (name in ("f", "rn", "d_f", "d_rn"))
            named[name] = torch.zeros(shape, dtype=torch.float64)
        if "log_eta" in named:
            named["log_eta"] = torch.full_like(named["log_eta"], float("-inf"))
    real = torch.ones(batch, time, 1, 1) if named["mask"] is None else named["mask"].view(batch, time, 1, 1)
    named["inside"] = in_chunks(torch.ones(batch, time, heads, 1, dtype=torch.float64))
    named["real"] = in_chunks(real.expand(-1, -1, heads, -1).double())
    return Arguments(**named)


def by_span(x: Tensor, spans: int) -> Tensor:
    """[N spans, D, D] as [N, spans, D, D], and one state of each sequence and head, [B, H, D, D], as [N, D, D]."""
    return x.double().unflatten(0, (-1, spans)) if x.dim() == 3 else x.double().flatten(0, 1)


# What twins share


def gelu_2(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """GELU in its tanh form, its slope and its curvature."""
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (z + 0.044715 * z**3))
    inner = c * (1 + 3 * 0.044715 * z**2)
    bend = (1 - t**2) * inner
    curve = bend + 0.5 * z * ((1 - t**2) * c * 6 * 0.044715 * z - 2 * t * bend * inner)
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * bend, curve


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def standardise(z: Tensor) -> tuple[Tensor, Tensor]:
    """unit and rstd."""
    centred = z - mean(z)
    rstd = (mean(centred**2) + EPS).rsqrt()
    return centred * rstd, rstd


def project(g: Tensor, unit: Tensor) -> Tensor:
    return g - mean(g) - unit * mean(g * unit)


def wanted(a: Arguments) -> Tensor:
    return a.v - a.k if a.RES else a.v


def error(z: Tensor, wanted: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is None:
        return z - wanted
    unit, rstd = standardise(z)
    return rstd * project(scale * (unit * scale + shift - wanted), unit)


def error_bwd(
    d_err: Tensor, z: Tensor, wanted: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z and of what M(k) misses v by, and of scale and shift at each token."""
    if scale is None:
        return d_err, d_err, 0 * d_err, 0 * d_err
    unit, rstd = standardise(z)
    miss = unit * scale + shift - wanted
    err = rstd * project(scale * miss, unit)
    dz, across = through_error(d_err, unit, err, rstd, mean(scale * miss * unit), scale)
    d_miss = scale * rstd * across
    return dz, d_miss, rstd * (miss + scale * unit) * across, d_miss


def through_error(
    d_err: Tensor, unit: Tensor, err: Tensor, rstd: Tensor, along: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of z from what the forward knows of its LayerNorm, and d_err without what LayerNorm takes out of it."""
    across = project(d_err, unit)
    g = scale**2 * across
    inner = rstd * (g - mean(g) - along * across)
    dz = rstd * (inner - mean(d_err * unit) * err - (mean(d_err * err) + rstd * mean(g * unit)) * unit)
    return dz, across


def output(z: Tensor, a: Arguments) -> Tensor:
    if a.scale is not None:
        z = standardise(z)[0] * a.scale + a.shift
    return z + a.q if a.RES else z


# Coefficients


def decays(a: Arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """m and beta [.., C, 1], the matrices N and B [.., C, C], the columns of B at padding zero."""

    def products(gate: Tensor) -> tuple[Tensor, Tensor]:
        rows = [torch.zeros_like(gate[..., 0])]
        unit = torch.eye(gate.shape[-2], dtype=gate.dtype)
        for t in range(gate.shape[-2]):
            rows.append(gate[..., t, :] * rows[-1] + unit[t])
        return gate.cumprod(-2), torch.stack(rows[1:], -2)

    padded = a.real == 0
    m, n = products(a.log_eta.masked_fill(padded, 0).exp())
    beta, b = products(a.log_keep.masked_fill(padded, 0).exp())
    return m, n, beta, b * a.real.mT


def coefficients_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    m, n, beta, b = decays(a)
    step = -(a.theta * a.real).mT
    pn, rn = b @ n * step, n * step
    last = {"beta": beta, "f": b @ m, "pn": pn[..., -1, :, None], "rn": rn[..., -1, :, None], "m_last": m[..., -1, 0]}
    return {"PN": pn, **last} | ({"RN": rn} if a.RN is not None else {})


def coefficients_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    m, n, beta, b = decays(a)
    last = torch.zeros_like(m)
    last[..., -1, :] = 1
    dPN = a.dPN + last * a.d_pn.mT
    dRN = b.mT @ dPN + last * a.d_rn.mT
    rn = a.RN if a.MOMENTUM else a.PN.diagonal(dim1=-2, dim2=-1).diag_embed()
    d_b = dPN @ rn.mT + a.d_f @ m.mT
    d_m = b.mT @ a.d_f + last * a.dm_last[..., None, None]

    def of_log(matrix: Tensor, column: Tensor) -> Tensor:
        """Sums over t >= r > s of the matrix and over t >= r of the column, for each r."""
        size = matrix.shape[-1]
        below = torch.ones(size, size, dtype=matrix.dtype).tril()
        of_matrix = torch.einsum("...ts,tr,rs->...r", matrix, below, below.tril(-1))
        return (of_matrix + torch.einsum("...t,tr->...r", column[..., 0], below))[..., None]

    grads = {"dtheta": -(dRN * n).sum(-2)[..., None], "dlog_eta": of_log(dRN * rn, d_m * m)}
    grads["dlog_keep"] = of_log(d_b * b, a.d_beta * beta)
    return {name: grad * a.real for name, grad in grads.items()}


# Depth 2


def state_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    m1, m2, s1, s2 = a.M1, a.M2, a.S1, a.S2
    out = {name: [] for name in ("M1c", "M2c", "S1c", "S2c", "z2", "err")}
    for j in range(a.n):
        k, pn, rn = a.k[:, j], a.pn[:, j], a.rn[:, j]
        beta, f, m = a.beta[:, j, -1:], a.f[:, j, -1:], a.m_last[:, j, None, None]
        x, slope, _ = gelu_2(k @ m1.mT)
        z2 = x @ m2
        scale, shift = (None if p is None else p[:, 0] for p in (a.scale, a.shift))
        err = error(z2, wanted(a)[:, j], scale, shift)
        e1 = (err @ m2.mT) * slope
        for name, value in zip(out, (m1, m2, s1, s2, z2, err), strict=True):
            out[name].append(value)
        m1 = beta * m1 + f * s1 + (1 - beta) * a.P1[:, 0] + (pn * e1).mT @ k
        m2 = beta * m2 + f * s2 + (1 - beta) * a.P2[:, 0] + (pn * x).mT @ err
        s1 = m * s1 + (rn * e1).mT @ k
        s2 = m * s2 + (rn * x).mT @ err
    out = {name: torch.stack(values, 1) for name, values in out.items()}
    out |= {"A1": out["M1c"][:, -1], "A2": out["M2c"][:, -1]}
    return there(a, out | {"M1_end": m1, "M2_end": m2, "S1_end": s1, "S2_end": s2})


def there(a: Arguments, out: dict[str, Tensor]) -> dict[str, Tensor]:
    """What has a place that it is written to."""
    return {name: value for name, value in out.items() if getattr(a, name) is not None}


def reads(a: Arguments) -> Arguments:
    """The activations of keys and of queries."""
    x, slope, bent = gelu_2(a.k @ a.M1c.mT)
    h = a.err @ a.M2c.mT
    e1 = h * slope
    attend = (a.q @ a.k.mT) * a.PN
    zq1 = a.beta * a.q @ a.M1c.mT + a.f * a.q @ a.S1c.mT + (1 - a.beta) * a.q @ a.P1.mT + attend @ e1
    xq, slopeq, _ = gelu_2(zq1)
    scores = xq @ x.mT
    mixed = scores * a.PN
    zq2 = a.beta * xq @ a.M2c + a.f * xq @ a.S2c + (1 - a.beta) * xq @ a.P2 + mixed @ a.err
    return Arguments(x=x, slope=slope, curve=h * bent, e1=e1, xq=xq, slopeq=slopeq, scores=scores, mixed=mixed, zq2=zq2)


def read_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    return {"y": output(reads(a).zq2, a)}


def read_again_kernel(a: Arguments) -> dict[str, Tensor]:
    r = reads(a)
    out = {name: getattr(r, name) for name in ("x", "slope", "curve", "e1", "xq", "slopeq")}
    dzq2 = a.dy
    if a.scale is not None:
        unit, rstd = standardise(r.zq2)
        out |= {"dscale": (a.dy * unit).sum(-2), "dshift": a.dy.sum(-2)}
        dzq2 = rstd * project(a.dy * a.scale, unit)
    d_mixed = (dzq2 @ a.err.mT).tril()
    out |= {"dzq2": dzq2, "d_err": r.mixed.mT @ dzq2, "dPN": d_mixed * r.scores, "d_scores": d_mixed * a.PN}
    out["d_beta"] = (dzq2 * (r.xq @ (a.M2c - a.P2))).sum(-1, keepdim=True)
    return out | {"d_f": (dzq2 * (r.xq @ a.S2c)).sum(-1, keepdim=True)}


def read_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    dxq = a.beta * a.dzq2 @ a.M2c.mT + a.f * a.dzq2 @ a.S2c.mT + (1 - a.beta) * a.dzq2 @ a.P2.mT + a.d_scores @ a.x
    dzq1 = dxq * a.dzq1  # whose place holds the slope
    raw = a.q @ a.k.mT
    d_attend = (dzq1 @ a.e1.mT).tril()
    d_raw = d_attend * a.PN
    dq = a.beta * dzq1 @ a.M1c + a.f * dzq1 @ a.S1c + (1 - a.beta) * dzq1 @ a.P1 + d_raw @ a.k
    return {
        "dzq1": dzq1,
        "dx": a.d_scores.mT @ a.xq,
        "d_e1": (raw * a.PN).mT @ dzq1,
        "dPN": a.dPN + d_attend * raw,
        "d_beta": a.d_beta + (a.q * (dzq1 @ (a.M1c - a.P1))).sum(-1, keepdim=True),
        "d_f": a.d_f + (a.q * (dzq1 @ a.S1c)).sum(-1, keepdim=True),
        "dq": dq + a.dy if a.RES else dq,
        "dk": d_raw.mT @ a.q,
    }


def state_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    rows = len(a.k)
    dm1, dm2, ds1, ds2, da1, da2 = (d.expand(rows, -1, -1) for d in (a.dM1, a.dM2, a.dS1, a.dS2, a.dA1, a.dA2))
    out = {name: [None] * a.n for name in ("dM1c", "dM2c", "dS1c", "dS2c", "dz1", "dv")}
    dscale, dshift = 0, 0
    for j in reversed(range(a.n)):
        k, q, err, x, slope, m2 = a.k[:, j], a.q[:, j], a.err[:, j], a.x[:, j], a.slope[:, j], a.M2c[:, j]
        pn, rn, beta, f = a.pn[:, j], a.rn[:, j], a.beta[:, j], a.f[:, j]
        scale, shift = (None if p is None else p[:, 0] for p in (a.scale, a.shift))
        d_e1 = a.d_e1[:, j] + pn * (k @ dm1.mT) + rn * (k @ ds1.mT)
        dh = d_e1 * slope
        d_err = a.d_err[:, j] + pn * (x @ dm2) + rn * (x @ ds2) + dh @ m2
        dz2, d_miss, g_scale, g_shift = error_bwd(d_err, a.z2[:, j], wanted(a)[:, j], scale, shift)
        dx = a.dx[:, j] + pn * (err @ dm2.mT) + rn * (err @ ds2.mT) + dz2 @ m2.mT
        dz1 = dx * slope + d_e1 * a.curve[:, j]
        for name, value in zip(out, (dm1, dm2, ds1, ds2, dz1, -d_miss), strict=True):
            out[name][j] = value
        dscale, dshift = dscale + g_scale.sum(-2), dshift + g_shift.sum(-2)
        kept, entered, m = beta[:, -1:], f[:, -1:], a.m_last[:, j, None, None]
        dzq1, dzq2, xq = a.dzq1[:, j], a.dzq2[:, j], a.xq[:, j]
        ds1 = entered * dm1 + m * ds1 + (f * dzq1).mT @ q
        ds2 = entered * dm2 + m * ds2 + (f * xq).mT @ dzq2
        dm1 = kept * dm1 + (beta * dzq1).mT @ q + dz1.mT @ k
        dm2 = kept * dm2 + (beta * xq).mT @ dzq2 + dh.mT @ err + x.mT @ dz2
        if j == a.n - 1:
            dm1, dm2 = dm1 + da1, dm2 + da2
    out = {name: torch.stack(values, 1) for name, values in out.items()}
    if a.scale is not None:
        out |= {"dscale": a.dscale + dscale, "dshift": a.dshift + dshift}
    return there(a, out | {"dM1_start": dm1, "dM2_start": dm2, "dS1_start": ds1, "dS2_start": ds2})


def write_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    of_pn = a.k * (a.e1 @ a.dM1c) + a.err * (a.x @ a.dM2c)
    of_rn = a.k * (a.e1 @ a.dS1c) + a.err * (a.x @ a.dS2c)
    dk = a.dk + a.pn * (a.e1 @ a.dM1c) + a.rn * (a.e1 @ a.dS1c) + a.dz1 @ a.M1c
    return {
        "dk": dk - a.dv if a.RES else dk,
        **end_of_chunk(a, [(a.dM1c, a.dS1c, a.M1c, a.S1c, a.P1), (a.dM2c, a.dS2c, a.M2c, a.S2c, a.P2)]),
        "d_pn": of_pn.sum(-1, keepdim=True),
        "d_rn": of_rn.sum(-1, keepdim=True),
    }


def end_of_chunk(a: Arguments, layers: list[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """What the state's step over a chunk adds to the gradients of beta, f and m: at the last token."""
    d_beta, d_f, d_m = 0, 0, 0
    for dm, ds, m, s, prior in layers:
        d_beta = d_beta + (dm * (m - prior)).sum((-2, -1))
        d_f = d_f + (dm * s).sum((-2, -1))
        d_m = d_m + (ds * s).sum((-2, -1))
    last = F.one_hot(torch.tensor(a.C - 1), a.C).double()[:, None]
    of = {"d_beta": a.d_beta + last * d_beta[..., None, None], "d_f": a.d_f + last * d_f[..., None, None]}
    return of | {"dm_last": d_m}


def prior_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    lost = 1 - a.beta
    of_1 = lost[:, :, -1:] * a.dM1c + (lost * a.dzq1).mT @ a.q
    of_2 = lost[:, :, -1:] * a.dM2c + (lost * a.xq).mT @ a.dzq2
    return {"dP1": a.dP1 + of_1.sum(1), "dP2": a.dP2 + of_2.sum(1)}
