"""A twin in PyTorch for each Triton kernel around the recurrence, and for the decoding step, from DERIVATION.md.

As in `twins`, but arguments keep the kernels' own shapes, in float64; what a kernel leaves of a tensor, a twin copies.
"""

from types import SimpleNamespace as Arguments

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.memory.twins import error, gelu_2, mean, project, standardise


def silu_1(z: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its slope."""
    gate = z.sigmoid()
    return z * gate, gate * (1 + z * (1 - gate))


def in_blocks(x: Tensor, dim: int, block: int) -> Tensor:
    """Sums of x over the blocks of a dimension that one program each takes."""
    blocks = -(-x.shape[dim] // block)
    x = x.movedim(dim, -1)
    x = F.pad(x, (0, blocks * block - x.shape[-1])).unflatten(-1, (blocks, block)).sum(-1)
    return x.movedim(-1, dim)


# One token


def decode_kernel(a: Arguments) -> dict[str, Tensor]:
    rows, heads = a.W2.shape[:2]

    def of_head(x: Tensor) -> Tensor:
        return x.view(rows, heads, 1, -1)

    k, q, v = map(of_head, (a.k, a.q, a.v))
    real = torch.ones(1) if a.mask is None else a.mask.view(rows, 1, 1, 1).double()
    theta = of_head(a.theta) * real
    eta, keep = (of_head(x).exp() * real + 1 - real for x in (a.log_eta, a.log_keep))
    scale, shift = (None if p is None else p[:, None] for p in (a.scale, a.shift))

    def learned(w: Tensor, s: Tensor, prior: Tensor | None, gradient: Tensor) -> tuple[Tensor, Tensor]:
        s = eta * s - theta * gradient
        return keep * w + (1 - keep) * (0 if prior is None else prior) + real * s, s

    x, xq, out = k, None, {}
    if a.A1 is not None:
        x, slope, _ = gelu_2(k @ a.A1)
    err = error(x @ a.A2, v - k if a.RES else v, scale, shift)
    w2, s2 = learned(a.W2, a.S2, a.P2, x.mT @ err)
    xq = q
    if a.A1 is not None:
        e1 = (err @ a.A2.mT) * slope
        w1, s1 = learned(a.W1, a.S1, a.P1, k.mT @ e1)
        xq, _, _ = gelu_2(q @ w1)
        out = {"W1_o": w1, "S1_o": s1}
    z = xq @ w2
    if scale is not None:
        z = standardise(z)[0] * scale + shift
    z = z + q if a.RES else z
    if a.ends is not None:
        ends = a.ends.view(rows, 1, 1, 1)
        out |= {"A2": torch.where(ends, w2, a.A2)}
        out |= {} if a.A1 is None else {"A1": torch.where(ends, w1, a.A1)}
    return out | {"W2_o": w2, "S2_o": s2, "y": z.view_as(a.y)}


def slots_kernel(a: Arguments) -> dict[str, Tensor]:
    rows, heads = len(a.seen), a.H
    parts = 1 if a.WHOLE else a.top.shape[1]
    score = (a.k.view(rows, heads, a.n, a.D) * a.q.view(rows, heads, 1, a.D)).sum(-1) * a.SCALE
    score = score.masked_fill(~a.seen[:, None], -1e30)
    results = []
    for own, v in zip(score.split(a.span, 2), a.v.view(rows, heads, a.n, a.D).split(a.span, 2), strict=True):
        top = own.amax(2)
        p = (own - top[..., None]).exp().masked_fill(own == -1e30, 0)
        results.append((top, p.sum(2), (p[..., None] * v).sum(2)))
    top, total, y = (torch.stack(part, 2) for part in zip(*results, strict=True))
    if a.WHOLE:
        return {"y": (y / total[..., None]).view_as(a.y)}
    full = {"top": top.flatten(0, 1), "total": total.flatten(0, 1), "y": y.flatten(0, 1)}
    for name, missing in (("top", -1e30), ("total", 0.0), ("y", 0.0)):  # parts behind the last slot find nothing
        nothing = full[name].new_full((rows * heads, parts - len(results), *full[name].shape[2:]), missing)
        full[name] = torch.cat([full[name], nothing], 1)
    return full


def slots_merge_kernel(a: Arguments) -> dict[str, Tensor]:
    weight = (a.top - a.top.amax(1, keepdim=True)).exp()
    y = (weight[..., None] * a.sums).sum(1) / (weight * a.total).sum(1, keepdim=True)
    return {"y": y.view_as(a.y)}


# Gates


def logits_of(a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    parts = iter(a.logits.unflatten(-1, (-1, a.HEADS)).unbind(-2))
    absent = torch.zeros_like(a.logits[..., : a.HEADS])
    return next(parts), next(parts) if a.MOMENTUM else absent, next(parts) if a.FORGET else absent


def gates_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    of_theta, of_eta, of_alpha = logits_of(a)
    eta = a.ETA_MAX * of_eta.sigmoid() * a.MOMENTUM
    theta = a.THETA_MAX * of_theta.sigmoid() * (1 - eta)
    return {"theta": theta, "log_eta": eta.log(), "log_keep": (-of_alpha).sigmoid().log() * a.FORGET}


def gates_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    of_theta, of_eta, of_alpha = logits_of(a)
    eta = a.ETA_MAX * of_eta.sigmoid() * a.MOMENTUM
    theta = a.THETA_MAX * of_theta.sigmoid() * (1 - eta)
    grads = [a.dtheta * theta * (-of_theta).sigmoid()]
    if a.MOMENTUM:
        d_theta_of_eta = -eta * a.THETA_MAX * of_theta.sigmoid()
        grads.append((-of_eta).sigmoid() * (a.dlog_eta + a.dtheta * d_theta_of_eta))
    if a.FORGET:
        grads.append(-of_alpha.sigmoid() * a.dlog_keep)
    return {"dlogits": torch.cat(grads, -1)}


# Convolution


def shifted(x: Tensor, rows: int, offset: int) -> Tensor:
    """Rows offset .. offset + rows - 1 of x [B, N, F], zero outside of it."""
    before, after = max(-offset, 0), max(offset + rows - x.shape[1], 0)
    return F.pad(x, (0, 0, before, after))[:, offset + before : offset + before + rows]


def convolved(a: Arguments) -> tuple[list[Tensor], Tensor, Tensor]:
    """What each tap sees [B, T, width], the taps [K, width] and z."""
    own = slice(a.first, a.first + a.width)
    taps = a.w.flatten(1).mT[:, own]
    x = a.x if a.before is None else torch.cat([a.before.expand(len(a.x), -1, -1), a.x], 1)
    seen = [shifted(x[..., own], a.T, a.N - a.T - a.K + 1 + j) for j in range(a.K)]
    return seen, taps, sum(tap * x for tap, x in zip(taps, seen, strict=True))


def conv_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    _, _, z = convolved(a)
    out = silu_1(z)[0] if a.SILU else z
    if a.UNIT:
        heads = out.unflatten(-1, (-1, a.D))
        out = (a.LENGTH * heads * (mean(heads**2) + a.EPS).rsqrt()).flatten(2)
    return {"y": out}


def conv_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    seen, taps, z = convolved(a)
    out, slope = silu_1(z) if a.SILU else (z, torch.ones_like(z))
    grad = a.dy
    if a.UNIT:
        heads, g = (x.unflatten(-1, (-1, a.D)) for x in (out, grad))
        rms = (mean(heads**2) + a.EPS).rsqrt()
        grad = (a.LENGTH * rms * (g - heads * rms**2 * mean(g * heads))).flatten(2)
    grad = grad * slope
    own = slice(a.first, a.first + a.width)
    total = sum(tap * shifted(grad, a.N, a.T - a.N + a.K - 1 - j) for j, tap in enumerate(taps))
    of_taps = [in_blocks(shifted(grad * x, a.N, a.T - a.N), 1, a.length).flatten(0, 1) for x in seen]
    dx, dw = a.dx.clone(), a.dw.clone()
    dx[..., own] = total[:, a.P :]
    dw[..., own] = torch.stack([in_blocks(spans, 0, a.WALKS) for spans in of_taps], 1)
    if a.dbefore is None:
        return {"dx": dx, "dw": dw}
    dbefore = a.dbefore.clone()
    dbefore[..., own] = total[:, : a.P]
    return {"dx": dx, "dw": dw, "dbefore": dbefore}


# Gated norm


def answered(a: Arguments, x: Tensor) -> Tensor:
    """Rows of x that have a result, [rows, D]."""
    return x.view(-1, a.S, a.D)[:, a.P :].flatten(0, 1)


def gated_norm_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    x = answered(a, a.x)
    opened, _ = silu_1(a.gate.view_as(x))
    return {"y": (x * (mean(x**2) + a.EPS).rsqrt() * a.w * opened).view_as(a.y)}


def gated_norm_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    x = answered(a, a.x)
    opened, slope = silu_1(a.gate.view_as(x))
    rms = (mean(x**2) + a.EPS).rsqrt()
    unit, dy = x * rms, a.dy.view_as(x)
    d_unit = dy * a.w * opened

    def everywhere(rows: Tensor) -> Tensor:
        return F.pad(rows.view(-1, a.S - a.P, a.D), (0, 0, a.P, 0)).flatten(0, 1)

    again = {} if a.y is None else {"y": (unit * a.w * opened).view_as(a.y)}
    return again | {
        "dw": in_blocks(everywhere(dy * unit * opened), 0, a.BR),
        "dgate": (dy * unit * a.w * slope).view_as(a.gate),
        "dx": everywhere(rms * (d_unit - unit * mean(d_unit * unit))).view_as(a.x),
    }


# Reading a memory that stays as it is


def retrieved(a: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Queries by head [B, H, T, D], and x and slope of their hidden units."""
    q = a.q.transpose(1, 2)
    x, slope, _ = gelu_2(q @ a.M1.mT)
    return q, x, slope


def retrieve_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    q, x, _ = retrieved(a)
    z = x @ a.M2
    if a.scale is not None:
        z = standardise(z)[0] * a.scale[:, None] + a.shift[:, None]
    return {"y": (z + q if a.RES else z).transpose(1, 2)}


def retrieve_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    _, x, slope = retrieved(a)
    dy = a.dy.transpose(1, 2)
    dz, out = dy, {}
    if a.scale is not None:
        unit, rstd = standardise(x @ a.M2)
        dz = rstd * project(dy * a.scale[:, None], unit)
        slow = [in_blocks(part, 2, a.BT).transpose(1, 2) for part in (dy * unit, dy)]
        out = {"dslow": torch.stack(slow)}
    dq = ((dz @ a.M2.mT) * slope) @ a.M1
    return out | {"dz": dz.transpose(1, 2), "dq": (dq + dy if a.RES else dq).transpose(1, 2)}


def retrieve_weights_kernel(a: Arguments) -> dict[str, Tensor]:
    q, x, slope = retrieved(a)
    dz = a.dz.transpose(1, 2)
    return {"dM1": ((dz @ a.M2.mT) * slope).mT @ q, "dM2": x.mT @ dz}


# Attention


def rotary_kernel(a: Arguments) -> dict[str, Tensor]:
    first, second, rest = a.x.tensor_split((a.HALF, 2 * a.HALF), -1)
    cos, sin = a.cos[:, None], (-a.sin if a.BACK else a.sin)[:, None]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)
    return {"y": turned if a.v is None else torch.cat([turned, a.v], 2)}


def merge_kernel(a: Arguments) -> dict[str, Tensor]:
    lse = torch.logaddexp(a.lse, a.other_lse)
    shares = [(part - lse).exp().transpose(1, 2)[..., None] for part in (a.lse, a.other_lse)]
    y = shares[0] * a.y + shares[1] * a.other
    return {"y": y, "other": y, "lse": lse, "other_lse": lse}


def shared_scores(a: Arguments) -> Tensor:
    """Of all queries with the keys that all of them see, [B, H, T, M]."""
    return torch.einsum("bthd,mhd->bhtm", a.q, a.k[0]) * a.SCALE


def shared_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    s = shared_scores(a)
    lse = torch.logaddexp(s.logsumexp(-1), a.lse)
    y = torch.einsum("bhtm,mhd->bthd", (s - lse[..., None]).exp(), a.v[0])
    return {"y": y + (a.lse - lse).exp().transpose(1, 2)[..., None] * a.y, "lse": lse}


def shared_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    p = (shared_scores(a) - a.lse[..., None]).exp()
    dp = torch.einsum("bthd,mhd->bhtm", a.dy, a.v[0])
    ds = p * (dp - (a.dy * a.y).sum(-1).transpose(1, 2)[..., None]) * a.SCALE
    of_tokens = [torch.einsum("bhtm,bthd->btmhd", w, x).flatten(0, 1) for w, x in ((ds, a.q), (p, a.dy))]
    blocks = F.pad(torch.stack(of_tokens, 1), (0, 0) * 4 + (0, -a.n % a.BT)).unflatten(0, (-1, a.BT)).sum(1)
    programs = len(a.dpair)
    padded = F.pad(blocks, (0, 0) * 4 + (0, -len(blocks) % programs))
    dpair = padded.unflatten(0, (-1, programs)).sum(0)
    return {"dq": a.dq + torch.einsum("bhtm,mhd->bthd", ds, a.k[0]), "dpair": dpair}


# Products with a SiLU


def swiglu_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    gate, value = a.x.chunk(2, -1)
    return {"y": silu_1(gate)[0] * value}


def swiglu_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    gate, value = a.x.chunk(2, -1)
    opened, slope = silu_1(gate)
    return {"dx": torch.cat([a.dy * value * slope, a.dy * opened], -1), "y": opened * value}


def residual_norm_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    total = a.x if a.y is None else a.x + a.y
    h = total * (mean(total**2) + a.EPS).rsqrt() * a.w
    return {"h": h} | ({} if a.y is None else {"total": total})


def residual_norm_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    rstd = (mean(a.total**2) + a.EPS).rsqrt()
    unit = a.total * rstd
    grad = a.dh * a.w
    dw = (a.dh * unit).flatten(0, -2)
    rows = F.pad(dw, (0, 0, 0, -len(dw) % (a.BR * len(a.dw)))).view(-1, len(a.dw), a.BR, dw.shape[1])
    return {"dx": a.dtotal + rstd * (grad - unit * mean(grad * unit)), "dw": rows.sum((0, 2))}


def gate_fwd_kernel(a: Arguments) -> dict[str, Tensor]:
    unit_y, unit_m = (x * (mean(x**2) + a.EPS).rsqrt() for x in (a.y, a.m))
    return {"out": unit_y * a.w[0] * silu_1(unit_m * a.w[1])[0]}


def gate_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    rms_y, rms_m = ((mean(x**2) + a.EPS).rsqrt() for x in (a.y, a.m))
    unit_y, unit_m = a.y * rms_y, a.m * rms_m
    opened, slope = silu_1(unit_m * a.w[1])
    d_first, d_second = a.dout * opened, a.dout * unit_y * a.w[0] * slope
    d_unit_y, d_unit_m = d_first * a.w[0], d_second * a.w[1]
    of_weights = [in_blocks((d * unit).flatten(0, -2), 0, a.BR) for d, unit in ((d_first, unit_y), (d_second, unit_m))]
    return {
        "dw": torch.stack(of_weights, 1),
        "dy": rms_y * (d_unit_y - unit_y * mean(d_unit_y * unit_y)),
        "dm": rms_m * (d_unit_m - unit_m * mean(d_unit_m * unit_m)),
    }
