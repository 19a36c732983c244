"""The reads' gradient for Hopper: `read_again_kernel` and `read_bwd_kernel` of `mlp_backward` in one.

Programs are short and many, so two share an SM and hide each other's latency: four warps each, 113 KB of shared memory.
That holds five tiles of 128 hidden units and four of the tokens; a tile takes the place of one that is done, and what
is needed again at the end comes once more, from L2. All products are 64 x 64, in one layout whose rows lie in four
lanes, so that LayerNorm and the coefficients need no shared memory.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.hopper.common import mm, mm0, opaque, project, standardise, sync, written
from memory.ops.triton.kernels.hopper.reads import causal, copy_tokens, of_keys, of_queries, prior_tile, tokens


@gluon.jit
def block(tile_s, b: gl.constexpr):
    """64 of the 128 rows of a tile."""
    S: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, 64], gl.bfloat16)
    return tile_s._reinterpret(gl.bfloat16, [2, 64, 64], S).index(b)


@gluon.jit
def same(a, b, c, d, x, q, k, err, w):
    """The places again, for the next step: descriptors made from the old ones would be held in registers until then."""
    z = opaque(0)
    return a.index(z), b.index(z), c.index(z), d.index(z), x.index(z), q.index(z), k.index(z), err.index(z), w.index(z)


@gluon.jit
def fetch(hidden, at, arrived, tile_s):
    """A tile of what was stored in blocks."""
    for b in gl.static_range(2):
        tma.async_copy_global_to_shared(hidden, [at + b * 64, 0], arrived, block(tile_s, b))


@gluon.jit
def store_sum(place, x, free_s):
    """Sum of the rows of x [64, 64], whose every warp holds 16; `gl.sum` would need shared memory of its own."""
    L: gl.constexpr = gl.BlockedLayout([4, 2], [1, 32], [1, 4], [1, 0])
    parts_s = free_s._reinterpret(gl.float32, [32, 64], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])).slice(0, 4, 0)
    parts_s.store(gl.sum(gl.reshape(x, [4, 16, 64]), 1))
    gl.store(place + gl.arange(0, 64, gl.SliceLayout(0, L)), gl.sum(parts_s.load(L), 0))


@gluon.jit(do_not_specialize=SIZES)
def reads_bwd_kernel(
    q, k, dy, err, PN, vec, saved, P1, P2, scale, hidden, small, dq, dvec, dscale, dshift, T, H, c0, n,
    D: gl.constexpr, E: gl.constexpr, C: gl.constexpr, NORM: gl.constexpr, RES: gl.constexpr,
    PRIOR: gl.constexpr, EPS: gl.constexpr,
):  # fmt: skip
    """grid (n, B*H), 4 warps, C = D = 64, E = 128: the gradient of one chunk's reads.

    saved: descriptor, tiles [128, D] of [4 * B*H * n * E, D]: M1, M2, S1, S2 at the chunks' starts.
    hidden: descriptor, tiles [64, C] of [6 * B*H * n * E, C], written: the keys' activations x, the queries' xq, the
    gradient of the queries' hidden inputs, GELU's slope at the keys', its curvature times the error behind it, and e1.
    small: descriptor, tiles [C, D] of [6 * B*H * n * C, D], written: attend, the gradient of the output layer's
    scores, that of its result, the errors' gradient, the keys' and PN's, as far as reads use them.
    dvec: rows 0 and 1 of [B*H, n, 4, C]; dscale, dshift: [B*H, n, D] float32.
    """
    gl.static_assert(E == 128)
    SIZE: gl.constexpr = E * D * 2  # bytes of a tile
    bf: gl.constexpr = gl.bfloat16
    L: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    L_R: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])  # 16 bytes a thread, to and from memory
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
    r_c, r_d = gl.arange(0, C, gl.SliceLayout(1, L_R)), gl.arange(0, D, gl.SliceLayout(0, L_R))
    row = gl.expand_dims(r_c, 1) * D + gl.expand_dims(r_d, 0)
    o, o_d = gl.arange(0, C, gl.SliceLayout(1, L)), gl.arange(0, D, gl.SliceLayout(0, L))

    # what each place holds, one after the other
    # M1; e1; slope at the queries'; e1 again; gradients of PN and attend
    a_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)
    b_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # S1; slope; S2; S1 again
    c_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # M2; curve; M2, later M1, again; gradients of k and q
    # q times beta and f, attend; xq; mixed; dzq2 times beta and f; d_err; P1
    d_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)
    x_p = gl.allocate_shared_memory(bf, [1, E, D], S_ED)  # P1; x; dzq1
    q_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # q, with PRIOR also half of P2
    k_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # k; dy and then dzq2; k again
    err_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # errors; d_scores; dy again
    w_p = gl.allocate_shared_memory(bf, [1, C, D], S_CD)  # PN
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
    sums_s = gl.allocate_shared_memory(gl.float32, [2, C], gl.SwizzledSharedLayout(1, 1, 1, [0]))  # of beta and f
    first = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    again = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(first, count=1)
    mbarrier.init(again, count=1)

    mbarrier.expect(first, 3 * SIZE)
    tma.async_copy_global_to_shared(saved, [at_e, 0], first, a_s)
    tma.async_copy_global_to_shared(saved, [2 * NB + at_e, 0], first, b_s)
    tma.async_copy_global_to_shared(saved, [NB + at_e, 0], first, c_s)
    copy_tokens(q_s, q, x_d, t, T, H)
    copy_tokens(k_s, k, x_d, t, T, H)
    async_copy.async_copy_global_to_shared(err_s, err + chunk * C * D + row)
    async_copy.async_copy_global_to_shared(w_s, PN + chunk * C * C + row)
    async_copy.commit_group()
    at = chunk * 4 * C + o
    beta, f = gl.expand_dims(gl.load(vec + at), 1), gl.expand_dims(gl.load(vec + at + C), 1)
    async_copy.wait_group(0)

    # the hidden layer
    b_q = q_s.load(L).to(gl.float32)
    block(d_s, 0).store((b_q * beta).to(bf))
    block(d_s, 1).store((b_q * f).to(bf))
    if PRIOR:
        prior_tile(P1 + i_h * E * D, block(x_s, 0))
        prior_tile(P1 + (i_h * E + 64) * D, block(x_s, 1))
    fence_async_shared()
    raw = mm0(q_s, k_s.permute([1, 0]), L)
    q_b, q_f = block(d_s, 0).permute([1, 0]), block(d_s, 1).permute([1, 0])
    mbarrier.wait(first, 0)
    if PRIOR:  # (1 - beta) P1 q as P1 q - P1 (beta q)
        z_0, z_1 = mm0(block(x_s, 0), q_b, L), mm0(block(x_s, 1), q_b, L)
        z_0, z_1 = warpgroup_mma_wait(0, [z_0, z_1])
        z_0 = mm(block(x_s, 0), q_s.permute([1, 0]), -z_0)
        z_1 = mm(block(x_s, 1), q_s.permute([1, 0]), -z_1)
        z_0, z_1 = mm(block(a_s, 0), q_b, z_0), mm(block(a_s, 1), q_b, z_1)
    else:
        z_0, z_1 = mm0(block(a_s, 0), q_b, L), mm0(block(a_s, 1), q_b, L)
    z_0, z_1 = mm(block(b_s, 0), q_f, z_0), mm(block(b_s, 1), q_f, z_1)
    for b in gl.static_range(2):
        a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
        at_b = at_e + b * 64
        z = mm0(block(a_s, b), k_s.permute([1, 0]), L)
        h = mm0(block(c_s, b), err_s.permute([1, 0]), L)
        if b == 0:
            raw, z, h, z_0, z_1 = warpgroup_mma_wait(0, [raw, z, h, z_0, z_1])
            block(d_s, 1).store((raw * w_s.load(L).to(gl.float32)).to(bf))
        else:
            z, h = warpgroup_mma_wait(0, [z, h])
        x, e1, slope, curve = gl.map_elementwise(of_keys, z, h)
        block(x_s, b).store(x)
        block(a_s, b).store(e1)
        block(b_s, b).store(slope)
        block(c_s, b).store(curve)
        fence_async_shared()
        zq = mm(block(a_s, b), block(d_s, 1).permute([1, 0]), z_0 if b == 0 else z_1)
        if b == 0:
            tma.async_copy_shared_to_global(small, [at_c, 0], block(d_s, 1))
        tma.async_copy_shared_to_global(hidden, [5 * NB + at_b, 0], block(a_s, b))
        tma.async_copy_shared_to_global(hidden, [3 * NB + at_b, 0], block(b_s, b))
        tma.async_copy_shared_to_global(hidden, [4 * NB + at_b, 0], block(c_s, b))
        tma.async_copy_shared_to_global(hidden, [at_b, 0], block(x_s, b))
        if b == 1:
            copy_tokens(k_s, dy, x_d, t, T, H)
            async_copy.commit_group()
            tma.store_wait(1)  # all but x
            mbarrier.expect(again, 2 * SIZE)
            tma.async_copy_global_to_shared(saved, [NB + at_e, 0], again, c_s)
            tma.async_copy_global_to_shared(saved, [3 * NB + at_e, 0], again, b_s)
        else:
            tma.store_wait(3)  # e1 gives its place to the slope
        xq, slope = gl.map_elementwise(of_queries, warpgroup_mma_wait(0, [zq]))
        sync()  # all warps have read what these replace: the compiler sees a barrier before the wait and adds none
        block(d_s, b).store(xq)
        block(a_s, b).store(slope)
        fence_async_shared()
        tma.async_copy_shared_to_global(hidden, [NB + at_b, 0], block(d_s, b))

    # the output layer
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
    xq = d_s.permute([1, 0])
    if PRIOR:
        for b in gl.static_range(2):
            prior_tile(P2 + (i_h * E + b * 64) * D, q_s)
            fence_async_shared()
            if b == 0:  # noqa: SIM108 (one expression would name what is not there yet)
                z_p = mm0(block(d_s, b).permute([1, 0]), q_s, L)
            else:
                z_p = mm(block(d_s, b).permute([1, 0]), q_s, z_p)
            z_p = warpgroup_mma_wait(0, [z_p])
    mbarrier.wait(again, 0)
    scores, z_m, z_s = mm0(xq, x_s, L), mm0(xq, c_s, L), mm0(xq, b_s, L)
    scores, z_m, z_s = warpgroup_mma_wait(0, [scores, z_m, z_s])
    if PRIOR:
        z_m -= z_p
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
    tma.store_wait(0)
    block(d_s, 0).store((scores * w_s.load(L).to(gl.float32)).to(bf))
    fence_async_shared()
    async_copy.wait_group(0)
    if NORM:
        z2 = beta * z_m + f * z_s
        if PRIOR:
            z2 += z_p
        z2 = mm(block(d_s, 0), err_s, z2)
        b_scale = gl.expand_dims(gl.load(scale + i_h * D + o_d), 0)
        z2 = warpgroup_mma_wait(0, [z2])
        unit, rstd = standardise(z2, EPS)
        dz = k_s.load(L).to(gl.float32)
        store_sum(dscale + chunk * D, dz * unit, block(d_s, 1))
        store_sum(dshift + chunk * D, dz, block(d_s, 1))
        dz = project(dz * b_scale, unit) * rstd
    else:
        dz = k_s.load(L).to(gl.float32)
    sums_s.index(0).store(gl.sum(dz * z_m, 1))
    sums_s.index(1).store(gl.sum(dz * z_s, 1))
    k_s.store(dz.to(bf))
    fence_async_shared()
    d_mixed = mm0(k_s, err_s.permute([1, 0]), L)
    d_err = mm0(block(d_s, 0).permute([1, 0]), k_s, L)
    tma.async_copy_shared_to_global(small, [2 * NS + at_c, 0], k_s)
    dz = k_s.load(L).to(gl.float32)
    block(d_s, 1).store((dz * f).to(bf))
    d_mixed, d_err = warpgroup_mma_wait(0, [d_mixed, d_err])
    block(d_s, 0).store((dz * beta).to(bf))
    d_mixed = causal(d_mixed)
    d_weight = d_mixed * scores
    err_s.store((d_mixed * w_s.load(L).to(gl.float32)).to(bf))
    fence_async_shared()
    tma.async_copy_shared_to_global(small, [NS + at_c, 0], err_s)

    # back to the hidden layer
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
    dz_b, dz_f = block(d_s, 0).permute([1, 0]), block(d_s, 1).permute([1, 0])
    if PRIOR:
        prior_tile(P2 + i_h * E * D, q_s)
        fence_async_shared()
        g_0 = warpgroup_mma_wait(0, [mm0(q_s, dz_b, L)])
        g_0 = mm(q_s, k_s.permute([1, 0]), -g_0)
        g_0 = warpgroup_mma_wait(0, [g_0])
        prior_tile(P2 + (i_h * E + 64) * D, q_s)
        fence_async_shared()
        g_1 = warpgroup_mma_wait(0, [mm0(q_s, dz_b, L)])
        g_1 = mm(q_s, k_s.permute([1, 0]), -g_1)
        g_0, g_1 = mm(block(c_s, 0), dz_b, g_0), mm(block(c_s, 1), dz_b, g_1)
    else:
        g_0, g_1 = mm0(block(c_s, 0), dz_b, L), mm0(block(c_s, 1), dz_b, L)
    g_0, g_1 = mm(block(b_s, 0), dz_f, g_0), mm(block(b_s, 1), dz_f, g_1)
    g_0 = mm(block(x_s, 0), err_s.permute([1, 0]), g_0)
    g_1 = mm(block(x_s, 1), err_s.permute([1, 0]), g_1)
    g_0, g_1 = warpgroup_mma_wait(0, [g_0, g_1])
    mbarrier.expect(again, 3 * SIZE)
    tma.async_copy_global_to_shared(saved, [at_e, 0], again, c_s)
    tma.async_copy_global_to_shared(saved, [2 * NB + at_e, 0], again, b_s)
    written(2)  # e1, which went out before dzq2 and d_scores
    tma.store_wait(0)
    copy_tokens(k_s, k, x_d, t, T, H)
    if PRIOR:
        copy_tokens(q_s, q, x_d, t, T, H)
    if RES:
        copy_tokens(err_s, dy, x_d, t, T, H)
    async_copy.commit_group()
    block(x_s, 0).store((g_0 * block(a_s, 0).load(L).to(gl.float32)).to(bf))
    block(x_s, 1).store((g_1 * block(a_s, 1).load(L).to(gl.float32)).to(bf))
    block(d_s, 0).store(d_err.to(bf))
    fence_async_shared()
    tma.async_copy_shared_to_global(small, [3 * NS + at_c, 0], block(d_s, 0))
    tma.async_copy_shared_to_global(hidden, [2 * NB + at_e, 0], block(x_s, 0))
    tma.async_copy_shared_to_global(hidden, [2 * NB + at_e + 64, 0], block(x_s, 1))
    fetch(hidden, 5 * NB + at_e, again, a_s)
    if PRIOR:
        tma.store_wait(0)
        prior_tile(P1 + i_h * E * D, block(d_s, 0))
        prior_tile(P1 + (i_h * E + 64) * D, block(d_s, 1))
        fence_async_shared()
    mbarrier.wait(again, 1)
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
    dzq = x_s.permute([1, 0])
    d_attend = mm0(dzq, a_s, L)
    if PRIOR:
        y_p = mm0(dzq, d_s, L)
    y_m, y_s = mm0(dzq, c_s, L), mm0(dzq, b_s, L)
    async_copy.wait_group(0)
    fence_async_shared()
    raw = mm0(q_s, k_s.permute([1, 0]), L)
    raw = warpgroup_mma_wait(0, [raw])
    d_attend, y_m, y_s = warpgroup_mma_wait(0, [d_attend, y_m, y_s])
    if PRIOR:
        y_p = warpgroup_mma_wait(0, [y_p])
    a_s, b_s, c_s, d_s, x_s, q_s, k_s, err_s, w_s = same(a_p, b_p, c_p, d_p, x_p, q_p, k_p, err_p, w_p)
    sync()
    d_attend = causal(d_attend)
    block(a_s, 0).store((d_weight + d_attend * raw).to(bf))
    block(a_s, 1).store((d_attend * w_s.load(L).to(gl.float32)).to(bf))
    fence_async_shared()
    if PRIOR:
        y_m -= y_p
    b_dq = beta * y_m + f * y_s
    if PRIOR:
        b_dq += y_p
    b_dq = mm(block(a_s, 1), k_s, b_dq)
    dk = mm0(block(a_s, 1).permute([1, 0]), q_s, L)
    tma.async_copy_shared_to_global(small, [5 * NS + at_c, 0], block(a_s, 0))
    b_q = q_s.load(L).to(gl.float32)
    gl.store(dvec + at, sums_s.index(0).load(o.type.layout) + gl.sum(b_q * y_m, 1))
    gl.store(dvec + at + C, sums_s.index(1).load(o.type.layout) + gl.sum(b_q * y_s, 1))
    b_dq, dk = warpgroup_mma_wait(0, [b_dq, dk])
    if RES:
        b_dq += err_s.load(L).to(gl.float32)
    block(c_s, 0).store(dk.to(bf))
    block(c_s, 1).store(b_dq.to(bf))
    fence_async_shared()
    tma.async_copy_shared_to_global(small, [4 * NS + at_c, 0], block(c_s, 0))
    place, inside = tokens(dq, x_d, t, T, H)
    gl.store(place, block(c_s, 1).load(L_R), mask=inside)
    tma.store_wait(0)
