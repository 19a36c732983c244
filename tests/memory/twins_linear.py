"""A twin in PyTorch for each Triton kernel of the linear memory, from DERIVATION.md; see `twins`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.memory.twins import (
    Arguments,
    end_of_chunk,
    error,
    error_bwd,
    mean,
    output,
    project,
    standardise,
    there,
    through_error,
    wanted,
)

# Errors at the chunk's start


def linear_scan_kernel(a: Arguments) -> dict[str, Tensor]:
    m, s = a.M, a.S
    out = {name: [] for name in ("Mc", "Sc", "err", "unit", "stat")}
    for j in range(a.n):
        k, beta, f = a.k[:, j], a.beta[:, j, -1:], a.f[:, j, -1:]
        scale, shift = (None if p is None else p[:, 0] for p in (a.scale, a.shift))
        z = k @ m
        err = error(z, wanted(a)[:, j], scale, shift)
        unit, rstd = standardise(z)
        miss = unit if scale is None else unit * scale + shift - wanted(a)[:, j]
        along = mean(unit * miss * (1 if scale is None else scale))
        for name, value in zip(out, (m, s, err, unit, torch.stack([rstd, along], 1)[..., 0]), strict=True):
            out[name].append(value)
        m = beta * m + f * s + (1 - beta) * a.P[:, 0] + k.mT @ (a.pn[:, j] * err)
        s = a.m_last[:, j, None, None] * s + k.mT @ (a.rn[:, j] * err)
    out = {name: torch.stack(values, 1) for name, values in out.items()}
    return there(a, out | {"A": out["Mc"][:, -1], "M_end": m, "S_end": s})


def linear_z(a: Arguments) -> Tensor:
    """What queries read: z of every token."""
    attend = (a.q @ a.k.mT) * a.PN
    return a.beta * a.q @ a.Mc + a.f * a.q @ a.Sc + (1 - a.beta) * a.q @ a.P + attend @ a.err


def linear_read_kernel(a: Arguments) -> dict[str, Tensor]:
    return {"y": output(linear_z(a), a)}


def linear_read_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    out, dz = {}, a.dy
    if a.scale is not None:
        unit, rstd = standardise(linear_z(a))
        out = {"dscale": (a.dy * unit).sum(-2), "dshift": a.dy.sum(-2)}
        dz = rstd * project(a.dy * a.scale, unit)
    raw = a.q @ a.k.mT
    d_attend = (dz @ a.err.mT).tril()
    d_raw = d_attend * a.PN
    dq = a.beta * dz @ a.Mc.mT + a.f * dz @ a.Sc.mT + (1 - a.beta) * dz @ a.P.mT + d_raw @ a.k
    if a.PRIOR:
        out["dz_p"] = (1 - a.beta) * dz
    of_m, of_s = a.beta * dz, a.f * dz
    if a.dz_m is None:
        out |= {"dMr": a.q.mT @ of_m, "dSr": a.q.mT @ of_s}
    else:
        out |= {"dz_m": of_m, "dz_s": of_s}
    return out | {
        "d_beta": (dz * (a.q @ (a.Mc - a.P))).sum(-1, keepdim=True),
        "d_f": (dz * (a.q @ a.Sc)).sum(-1, keepdim=True),
        "dPN": d_attend * raw,
        "dq": dq + a.dy if a.RES else dq,
        "dk": d_raw.mT @ a.q,
        "d_err": (raw * a.PN).mT @ dz,
    }


def linear_scan_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    dm, ds, da = (d.expand(len(a.k), -1, -1) for d in (a.dM, a.dS, a.dA))
    out = {"dMc": [None] * a.n, "dSc": [None] * a.n}
    for j in reversed(range(a.n)):
        k, q = a.k[:, j], a.q[:, j]
        out["dMc"][j], out["dSc"][j] = dm, ds
        d_err = a.d_err[:, j] + a.pn[:, j] * (k @ dm) + a.rn[:, j] * (k @ ds)
        dz = d_err
        if a.scale is not None:
            rstd, along = a.stat[:, j, :, :, None].unbind(1)
            dz, _ = through_error(d_err, a.unit[:, j], a.err[:, j], rstd, along, a.scale[:, 0])
        ds = a.f[:, j, -1:] * dm + a.m_last[:, j, None, None] * ds + q.mT @ a.dz_s[:, j]
        dm = a.beta[:, j, -1:] * dm + q.mT @ a.dz_m[:, j] + k.mT @ dz
        if j == a.n - 1:
            dm = dm + da
    out = {name: torch.stack(values, 1) for name, values in out.items()}
    return there(a, out | {"dM_start": dm, "dS_start": ds})


def linear_write_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    z = a.k @ a.Mc
    err = error(z, wanted(a), a.scale, a.shift)
    d_err = a.d_err + a.pn * (a.k @ a.dMc) + a.rn * (a.k @ a.dSc)
    dz, d_miss, g_scale, g_shift = error_bwd(d_err, z, wanted(a), a.scale, a.shift)
    out = {} if a.scale is None else {"dscale": a.dscale + g_scale.sum(-2), "dshift": a.dshift + g_shift.sum(-2)}
    dk = a.dk + (a.pn * err) @ a.dMc.mT + (a.rn * err) @ a.dSc.mT + dz @ a.Mc.mT
    return out | {
        **end_of_chunk(a, [(a.dMc, a.dSc, a.Mc, a.Sc, a.P)]),
        "d_pn": (err * (a.k @ a.dMc)).sum(-1, keepdim=True),
        "d_rn": (err * (a.k @ a.dSc)).sum(-1, keepdim=True),
        "dv": -d_miss,
        "dk": dk + d_miss if a.RES else dk,
    }


def linear_prior_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    return {"dP": a.dP + ((1 - a.beta[:, :, -1:]) * a.dMc + a.q.mT @ a.dz_p).sum(1)}


# Exact errors


def before(column: Tensor, first: float) -> Tensor:
    """A coefficient of each token as it is behind the token before: [.., C, 1]."""
    return F.pad(column[..., :-1, :], (0, 0, 1, 0), value=first)


def behind(column: Tensor) -> Tensor:
    """The transpose of `before`: what the token after left goes to the token itself."""
    return F.pad(column[..., 1:, :], (0, 0, 0, 1))


def delta_solve_kernel(a: Arguments) -> dict[str, Tensor]:
    system = torch.eye(a.C, dtype=torch.float64) - F.pad(a.PN[..., :-1, :], (0, 0, 1, 0)) * (a.k @ a.k.mT)
    return {"inv": system.inverse()}


def spans_of(a: Arguments) -> list[range]:
    """The chunks of each span."""
    return [range(start, min(start + a.span, a.n)) for start in range(0, a.n, a.span)]


def delta_scan_kernel(a: Arguments) -> dict[str, Tensor]:
    beta, f = before(a.beta, 1.0), before(a.f, 0.0)
    out = {name: [] for name in ("Mc", "Sc", "err")}

    def walked(m: Tensor, s: Tensor, own: float, chunks: range) -> tuple[Tensor, Tensor]:
        for j in chunks:
            k, beta_j, f_j, prior = a.k[:, j], beta[:, j], f[:, j], own * a.P[:, 0]
            z = beta_j * (k @ m) + f_j * (k @ s) + (1 - beta_j) * (k @ prior)
            err = a.inv[:, j] @ (z - own * wanted(a)[:, j])
            for name, value in zip(out, (m, s, err), strict=True):
                out[name].append(value)
            kept, entered = a.beta[:, j, -1:], a.f[:, j, -1:]
            m = kept * m + entered * s + (1 - kept) * prior + k.mT @ (a.pn[:, j] * err)
            s = a.m_last[:, j, None, None] * s + k.mT @ (a.rn[:, j] * err)
        return m, s

    spans = spans_of(a)
    if a.M is None:
        identity = torch.eye(a.D, dtype=torch.float64).expand(len(a.k), -1, -1)
        ends = [[walked(m, 0 * m, own, span)[0] for span in spans] for m, own in ((0 * identity, 1), (identity, 0))]
        return {"M_end": torch.stack([torch.stack(of, 1).flatten(0, 1) for of in ends])}
    starts = a.M.unflatten(0, (-1, len(spans)))
    ends = [walked(starts[:, i], a.S, 1, span) for i, span in enumerate(spans)]
    found = {name: torch.stack(values, 1) for name, values in out.items()}
    return there(a, found | {"M_end": torch.stack([m for m, _ in ends], 1).flatten(0, 1), "S_end": ends[-1][1]})


def delta_carry_kernel(a: Arguments) -> dict[str, Tensor]:
    forward = a.U_back is None
    through = a.U if forward else a.U_back.mT
    m = torch.zeros_like(a.Z[:, 0]) if a.M is None else a.M.expand(len(a.Z), -1, -1)
    starts: list[Tensor] = [m] * a.spans
    for i in range(a.spans) if forward else reversed(range(a.spans)):
        starts[i] = m
        m = through[:, i] @ m + a.Z[:, i]
    return there(a, {"starts": torch.stack(starts, 1), "M_end": m})


def delta_scan_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    beta, f = before(a.beta, 1.0), before(a.f, 0.0)
    out = {name: [None] * a.n for name in ("dMc", "dSc", "d_b")}
    spans = spans_of(a)
    behind = a.dM.expand(len(a.k) * len(spans), -1, -1).unflatten(0, (-1, len(spans)))
    starts = []
    ds = a.dS.expand(len(a.k), -1, -1)
    for i, span in enumerate(spans):
        dm = behind[:, i]
        for j in reversed(span):
            k = a.k[:, j]
            d_err = a.d_err[:, j] + a.pn[:, j] * (k @ dm) + a.rn[:, j] * (k @ ds)
            db = a.inv[:, j].mT @ d_err
            for name, value in zip(out, (dm, ds, db), strict=True):
                out[name][j] = value
            of_s = a.f[:, j, -1:] * dm + a.m_last[:, j, None, None] * ds
            ds = of_s + a.dSr[:, j] + k.mT @ (f[:, j] * db)
            dm = a.beta[:, j, -1:] * dm + a.dMr[:, j] + k.mT @ (beta[:, j] * db)
        starts.append(dm)
    found = {name: torch.stack(values, 1) for name, values in out.items()} if a.dMc is not None else {}
    return there(a, found | {"dM_start": torch.stack(starts, 1).flatten(0, 1), "dS_start": ds})


def delta_write_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    beta, f, weight = before(a.beta, 1.0), before(a.f, 0.0), F.pad(a.PN[..., :-1, :], (0, 0, 1, 0))
    db = a.d_b
    d_system = (db @ a.err.mT).tril(-1)
    d_raw = d_system * weight
    dk = a.dk + (a.pn * a.err) @ a.dMc.mT + (a.rn * a.err) @ a.dSc.mT
    dk = dk + beta * db @ a.Mc.mT + f * db @ a.Sc.mT + (1 - beta) * db @ a.P.mT + (d_raw + d_raw.mT) @ a.k
    out = end_of_chunk(a, [(a.dMc, a.dSc, a.Mc, a.Sc, a.P)])
    out["d_beta"] = out["d_beta"] + behind((db * (a.k @ (a.Mc - a.P))).sum(-1, keepdim=True))
    out["d_f"] = out["d_f"] + behind((db * (a.k @ a.Sc)).sum(-1, keepdim=True))
    if a.PRIOR:
        out["dz_k"] = (1 - beta) * db
    return out | {
        "d_pn": (a.err * (a.k @ a.dMc)).sum(-1, keepdim=True),
        "d_rn": (a.err * (a.k @ a.dSc)).sum(-1, keepdim=True),
        "dPN": a.dPN + F.pad((d_system * (a.k @ a.k.mT))[..., 1:, :], (0, 0, 0, 1)),
        "dv": -db,
        "dk": dk + db if a.RES else dk,
    }


def delta_prior_bwd_kernel(a: Arguments) -> dict[str, Tensor]:
    return {"dP": a.dP + (a.k.mT @ a.dz_k).sum(1)}
