"""The reads' gradient as in `reads_backward`, for 256 hidden units: one program an SM, which holds all of them.

Tiles are whole, [E, ..], so that sums over hidden units are single products and nothing is passed over twice. Eight
warps share products of hidden units by rows and those of tokens, [C, ..], by rows and columns.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.hopper.common import mm, mm0, opaque, standardise, sync, written
from memory.ops.triton.kernels.hopper.reads import causal, copy_tokens, of_keys, of_queries, prior_tile, tokens


@gluon.jit
def half(tile_s, b: gl.constexpr):
    """128 of the 256 rows of a tile."""
    S: gl.constexpr = gl.NVMMASharedLayout.get_default_for([128, 64], gl.bfloat16)
    return tile_s._reinterpret(gl.bfloat16, [2, 128, 64], S).index(b)


@gluon.jit
def again(a, b, c, d, x, q, k, err, w, r, t, lost):
    """The places again, for the next step: descriptors made from the old ones would be held in registers until then."""
    z = opaque(0)
    return (
        a.index(z), b.index(z), c.index(z), d.index(z), x.index(z), q.index(z), k.index(z), err.index(z), w.index(z),
        r.index(z), t.index(z), t.index(z + 1), lost.index(z),
    )  # fmt: skip


@gluon.jit
def fetch(source, at, arrived, tile_s):
    """A tile of what is stored in blocks of 128 rows."""
    for b in gl.static_range(2):
        tma.async_copy_global_to_shared(source, [at + b * 128, 0], arrived, half(tile_s, b))


@gluon.jit
def hidden_inputs(
    m1_s, s1_s, m2_s, p1_s, k_s, err_s, beta_s, f_s, lost_s, b: gl.constexpr, L: gl.constexpr, PRIOR: gl.constexpr
):  # fmt: skip
    """Of 128 hidden units: inputs of keys, the errors behind them, inputs of queries but for attention; under way."""
    z = mm0(half(m1_s, b), k_s.permute([1, 0]), L)
    h = mm0(half(m2_s, b), err_s.permute([1, 0]), L)
    zq = mm0(half(m1_s, b), beta_s.permute([1, 0]), L)
    zq = mm(half(s1_s, b), f_s.permute([1, 0]), zq)
    if PRIOR:
        zq = mm(half(p1_s, b), lost_s.permute([1, 0]), zq)
    return z, h, zq


@gluon.jit
def add_both(a, b, c, d):
    return a + c, b + d


@gluon.jit
def sums(x, y, axis: gl.constexpr):
    """Sums of two tensors, whose warps meet once for both."""
    return gl.reduce((x, y), axis, add_both)


@gluon.jit(do_not_specialize=SIZES)
def reads_bwd_wide_kernel(
    q, k, dy, err, PN, vec, saved, P1, P2, scale, hidden, small, dq, dvec, dscale, dshift, T, H, c0, n,
    D: gl.constexpr, E: gl.constexpr, C: gl.constexpr, NORM: gl.constexpr, RES: gl.constexpr,
    PRIOR: gl.constexpr, EPS: gl.constexpr,
):  # fmt: skip
    """grid (n, B*H), 8 warps, C = D = 64, E = 256: as `reads_bwd_kernel`, but `hidden` is in tiles of [128, C]."""
    gl.static_assert(E == 256)
    SIZE: gl.constexpr = E * D * 2  # bytes of a tile
    bf: gl.constexpr = gl.bfloat16
    L: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, 64, 16])  # hidden units
    L_C: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, 32, 16])  # tokens
    L_R: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [8, 1], [1, 0])  # tokens: 16 bytes a thread
    S_CD: gl.constexpr = gl.NVMMASharedLayout.get_default_for([C, D], bf)
    S_ED: gl.constexpr = gl.NVMMASharedLayout.get_default_for([E, D], bf)

    j, i_bh = gl.program_id(0), gl.program_id(1).to(gl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    chunk = i_bh * n + j
    NB = gl.num_programs(0) * gl.num_programs(1) * E
    NS = gl.num_programs(0) * gl.num_programs(1) * C
    at_e, at_c = (chunk * E).to(gl.int32), (chunk * C).to(gl.int32)
    t = (c0 + j) * C
    x_d = ((i_b * T + t) * H + i_h) * D
    prior = i_h * E * D
    o_r, r_d = gl.arange(0, C, gl.SliceLayout(1, L_R)), gl.arange(0, D, gl.SliceLayout(0, L_R))
    row = gl.expand_dims(o_r, 1) * D + gl.expand_dims(r_d, 0)
    o, o_d = gl.arange(0, C, gl.SliceLayout(1, L_C)), gl.arange(0, D, gl.SliceLayout(0, L_C))

    # what each place holds, one after the other
    a_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # M1; e1; slope at the queries'; P1
    b_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # S1; slope; xq; P2; M1
    c_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # M2; curve; M2; S1; gradients of k and q
    d_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # S2; e1
    x_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # P1; x; dzq1
    q_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # q
    k_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # k; dy and then dzq2; k again
    err_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # errors; d_scores; dy again
    w_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # PN
    r_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # attend; mixed; d_err; gradient of PN
    t_p = gl.allocate_shared_memory(bf, [2, C, D], S_CD)  # q times beta, f; P2; dzq2 times beta, f; gradient of attend
    lost_p = r_p
    if PRIOR:
        lost_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # q, later dzq2, times 1 - beta
    first = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    late = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    more = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(first, count=1)
    mbarrier.init(late, count=1)
    mbarrier.init(more, count=1)
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s, r_s, t_0, t_1, lost_s = again(
        a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p, r_p, t_p, lost_p
    )

    mbarrier.expect(first, 3 * SIZE)
    fetch(saved, at_e, first, a_s)
    fetch(saved, NB + at_e, first, c_s)
    fetch(saved, 2 * NB + at_e, first, b_s)
    copy_tokens(q_s, q, x_d, t, T, H)
    copy_tokens(k_s, k, x_d, t, T, H)
    async_copy.async_copy_global_to_shared(err_s, err + chunk * C * D + row)
    async_copy.async_copy_global_to_shared(w_s, PN + chunk * C * C + row)
    async_copy.commit_group()
    mbarrier.expect(late, SIZE)
    fetch(saved, 3 * NB + at_e, late, d_s)
    at = chunk * 4 * C
    beta_r, f_r = gl.expand_dims(gl.load(vec + at + o_r), 1), gl.expand_dims(gl.load(vec + at + C + o_r), 1)
    beta, f = gl.expand_dims(gl.load(vec + at + o), 1), gl.expand_dims(gl.load(vec + at + C + o), 1)
    if PRIOR:
        prior_tile(P1 + prior, half(x_s, 0))
        prior_tile(P1 + prior + 128 * D, half(x_s, 1))
    async_copy.wait_group(0)

    # the hidden layer
    b_q = q_s.load(L_R).to(gl.float32)
    t_0.store((b_q * beta_r).to(bf))
    t_1.store((b_q * f_r).to(bf))
    if PRIOR:
        lost_s.store((b_q * (1.0 - beta_r)).to(bf))
    fence_async_shared()
    sync()
    raw = mm0(q_s, k_s.permute([1, 0]), L_C)
    mbarrier.wait(first, 0)
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s, r_s, t_0, t_1, lost_s = again(
        a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p, r_p, t_p, lost_p
    )
    z, h, zq = hidden_inputs(a_s, b_s, c_s, x_s, k_s, err_s, t_0, t_1, lost_s, 0, L, PRIOR)
    for b in gl.static_range(2):
        a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s, r_s, t_0, t_1, lost_s = again(
            a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p, r_p, t_p, lost_p
        )
        at_b = at_e + b * 128
        if b == 0:
            raw, z, h = warpgroup_mma_wait(3 if PRIOR else 2, [raw, z, h])
            r_s.store((raw * w_s.load(L_C).to(gl.float32)).to(bf))
        else:
            z, h = warpgroup_mma_wait(3 if PRIOR else 2, [z, h])
        x, e1, slope, curve = gl.map_elementwise(of_keys, z, h)
        zq = warpgroup_mma_wait(0, [zq])
        sync()  # all warps' products are done with what these replace
        half(a_s, b).store(e1)
        half(b_s, b).store(slope)
        half(c_s, b).store(curve)
        half(x_s, b).store(x)
        fence_async_shared()
        full = mm(half(a_s, b), r_s.permute([1, 0]), zq)
        if b == 0:  # the other half's run beside GELU for the queries
            z, h, zq = hidden_inputs(a_s, b_s, c_s, x_s, k_s, err_s, t_0, t_1, lost_s, 1, L, PRIOR)
            tma.async_copy_shared_to_global(small, [at_c, 0], r_s)
        tma.async_copy_shared_to_global(hidden, [5 * NB + at_b, 0], half(a_s, b))
        tma.async_copy_shared_to_global(hidden, [3 * NB + at_b, 0], half(b_s, b))
        tma.async_copy_shared_to_global(hidden, [4 * NB + at_b, 0], half(c_s, b))
        tma.async_copy_shared_to_global(hidden, [at_b, 0], half(x_s, b))
        if b == 0:
            tma.store_wait(2)  # e1 and the slope give their places to those at the queries
        else:
            tma.store_wait(1)  # and the curvature its own to M2
            mbarrier.expect(more, SIZE)
            fetch(saved, NB + at_e, more, c_s)
        full = warpgroup_mma_wait(0 if b == 1 else 5 if PRIOR else 4, [full])
        xq, slope = gl.map_elementwise(of_queries, full)
        sync()
        half(b_s, b).store(xq)
        half(a_s, b).store(slope)
        fence_async_shared()
        if b == 1:
            copy_tokens(k_s, dy, x_d, t, T, H)
            async_copy.commit_group()
        tma.async_copy_shared_to_global(hidden, [NB + at_b, 0], half(b_s, b))

    # the output layer
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s, r_s, t_0, t_1, lost_s = again(
        a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p, r_p, t_p, lost_p
    )
    scores = mm0(b_s.permute([1, 0]), x_s, L_C)
    mbarrier.wait(late, 0)
    z_s = mm0(b_s.permute([1, 0]), d_s, L_C)
    if PRIOR:
        scores, z_s = warpgroup_mma_wait(0, [scores, z_s])
        pair = t_p._reinterpret(bf, [1, 128, 64], gl.NVMMASharedLayout.get_default_for([128, 64], bf))
        pair = pair.index(0)
        for b in gl.static_range(2):
            prior_tile(P2 + prior + b * 128 * D, pair)
            fence_async_shared()
            if b == 0:
                z_p = mm0(half(b_s, b).permute([1, 0]), pair, L_C)
            else:
                z_p = mm(half(b_s, b).permute([1, 0]), pair, z_p)
            z_p = warpgroup_mma_wait(0, [z_p])
            sync()
    mbarrier.wait(more, 0)
    z_m = mm0(b_s.permute([1, 0]), c_s, L_C)
    if NORM:
        b_scale = gl.expand_dims(gl.load(scale + i_h * D + o_d), 0)
    tma.store_wait(0)
    if PRIOR:
        z_m = warpgroup_mma_wait(0, [z_m])
        z_m -= z_p
    else:
        scores, z_s, z_m = warpgroup_mma_wait(0, [scores, z_s, z_m])
    r_s.store((scores * w_s.load(L_C).to(gl.float32)).to(bf))
    async_copy.wait_group(0)
    fence_async_shared()
    sync()  # xq gives its place to the prior or to M1
    if PRIOR:
        prior_tile(P2 + prior, half(b_s, 0))
        prior_tile(P2 + prior + 128 * D, half(b_s, 1))
    else:
        mbarrier.expect(late, SIZE)
        fetch(saved, at_e, late, b_s)
    if NORM:
        z2 = beta * z_m + f * z_s
        if PRIOR:
            z2 += z_p
        z2 = mm(r_s, err_s, z2)
        z2 = warpgroup_mma_wait(0, [z2])
        unit, rstd = standardise(z2, EPS)
        b_dy = k_s.load(L_C).to(gl.float32)
        dz = b_dy * b_scale
        mean, along = sums(dz, dz * unit, 1)
        dz = (dz - gl.expand_dims(mean, 1) * (1.0 / D) - unit * (gl.expand_dims(along, 1) * (1.0 / D))) * rstd
    else:
        dz = k_s.load(L_C).to(gl.float32)
    of_beta, of_f = sums(dz * z_m, dz * z_s, 1)
    k_s.store(dz.to(bf))
    t_0.store((dz * beta).to(bf))
    t_1.store((dz * f).to(bf))
    if PRIOR:
        lost_s.store((dz * (1.0 - beta)).to(bf))
    fence_async_shared()
    sync()

    # back to the hidden layer
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s, r_s, t_0, t_1, lost_s = again(
        a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p, r_p, t_p, lost_p
    )
    d_mixed = mm0(k_s, err_s.permute([1, 0]), L_C)
    d_err = mm0(r_s.permute([1, 0]), k_s, L_C)
    g_0, g_1 = mm0(half(c_s, 0), t_0.permute([1, 0]), L), mm0(half(c_s, 1), t_0.permute([1, 0]), L)
    g_0, g_1 = mm(half(d_s, 0), t_1.permute([1, 0]), g_0), mm(half(d_s, 1), t_1.permute([1, 0]), g_1)
    if PRIOR:
        g_0, g_1 = mm(half(b_s, 0), lost_s.permute([1, 0]), g_0), mm(half(b_s, 1), lost_s.permute([1, 0]), g_1)
    tma.async_copy_shared_to_global(small, [2 * NS + at_c, 0], k_s)
    if NORM:
        of_scale, of_shift = sums(b_dy * unit, b_dy, 0)
        gl.store(dscale + chunk * D + o_d, of_scale)
        gl.store(dshift + chunk * D + o_d, of_shift)
    d_mixed, d_err, g_0, g_1 = warpgroup_mma_wait(0, [d_mixed, d_err, g_0, g_1])
    d_mixed = causal(d_mixed)
    d_weight = d_mixed * scores
    d_mixed = (d_mixed * w_s.load(L_C).to(gl.float32)).to(bf)
    sync()
    err_s.store(d_mixed)
    r_s.store(d_err.to(bf))
    fence_async_shared()
    g_0 = mm(half(x_s, 0), err_s.permute([1, 0]), g_0)
    g_1 = mm(half(x_s, 1), err_s.permute([1, 0]), g_1)
    tma.async_copy_shared_to_global(small, [NS + at_c, 0], err_s)
    tma.async_copy_shared_to_global(small, [3 * NS + at_c, 0], r_s)
    tma.store_wait(0)
    g_0, g_1 = warpgroup_mma_wait(0, [g_0, g_1])
    written(3)  # e1, which went out before dzq2, d_scores and d_err
    mbarrier.expect(more, 2 * SIZE)
    fetch(hidden, 5 * NB + at_e, more, d_s)
    fetch(saved, 2 * NB + at_e, more, c_s)
    if PRIOR:
        mbarrier.expect(late, SIZE)
        fetch(saved, at_e, late, b_s)
    half(x_s, 0).store((g_0 * half(a_s, 0).load(L).to(gl.float32)).to(bf))
    half(x_s, 1).store((g_1 * half(a_s, 1).load(L).to(gl.float32)).to(bf))
    if PRIOR:
        prior_tile(P1 + prior, half(a_s, 0))
        prior_tile(P1 + prior + 128 * D, half(a_s, 1))
    fence_async_shared()
    sync()
    copy_tokens(k_s, k, x_d, t, T, H)
    if RES:
        copy_tokens(err_s, dy, x_d, t, T, H)
    async_copy.commit_group()
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s, r_s, t_0, t_1, lost_s = again(
        a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p, r_p, t_p, lost_p
    )
    tma.async_copy_shared_to_global(hidden, [2 * NB + at_e, 0], half(x_s, 0))
    tma.async_copy_shared_to_global(hidden, [2 * NB + at_e + 128, 0], half(x_s, 1))
    mbarrier.wait(late, 1)
    y_m = mm0(x_s.permute([1, 0]), b_s, L_C)
    if PRIOR:
        y_p = mm0(x_s.permute([1, 0]), a_s, L_C)
    mbarrier.wait(more, 1)
    d_attend, y_s = mm0(x_s.permute([1, 0]), d_s, L_C), mm0(x_s.permute([1, 0]), c_s, L_C)
    async_copy.wait_group(0)
    fence_async_shared()
    raw = mm0(q_s, k_s.permute([1, 0]), L_C)
    y_m, d_attend, y_s, raw = warpgroup_mma_wait(0, [y_m, d_attend, y_s, raw])
    if PRIOR:
        y_p = warpgroup_mma_wait(0, [y_p])
        y_m -= y_p
    sync()
    d_attend = causal(d_attend)
    r_s.store((d_weight + d_attend * raw).to(bf))
    t_0.store((d_attend * w_s.load(L_C).to(gl.float32)).to(bf))
    fence_async_shared()
    b_dq = beta * y_m + f * y_s
    if PRIOR:
        b_dq += y_p
    b_dq = mm(t_0, k_s, b_dq)
    dk = mm0(t_0.permute([1, 0]), q_s, L_C)
    tma.async_copy_shared_to_global(small, [5 * NS + at_c, 0], r_s)
    b_q = q_s.load(L_C).to(gl.float32)
    at_beta, at_f = sums(b_q * y_m, b_q * y_s, 1)
    gl.store(dvec + at + o, of_beta + at_beta)
    gl.store(dvec + at + C + o, of_f + at_f)
    b_dq, dk = warpgroup_mma_wait(0, [b_dq, dk])
    if RES:
        b_dq += err_s.load(L_C).to(gl.float32)
    out_s = c_s._reinterpret(bf, [4, C, D], S_CD)
    out_s.index(0).store(dk.to(bf))
    out_s.index(1).store(b_dq.to(bf))
    fence_async_shared()
    tma.async_copy_shared_to_global(small, [4 * NS + at_c, 0], out_s.index(0))
    place, inside = tokens(dq, x_d, t, T, H)
    gl.store(place, out_s.index(1).load(L_R), mask=inside)
    tma.store_wait(0)
