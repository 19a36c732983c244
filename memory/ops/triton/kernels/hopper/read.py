"""All tokens' reads in parallel: `read_fwd_kernel` of `mlp_forward`, for Hopper.

Hidden activations are token-major here, [C, BE], the other way round than in the scan: then they are the left factor of
all products that follow, which may stay in registers, coefficients scale their rows, and nothing goes through shared
memory but keys' activations and errors, in the place of a state that was used. What a program does not hide of its
loads (the next tile of hidden units is on its way as soon as this one is used) the others on the SM do.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.hopper.common import gelu_1, mm, mm0, only, opaque, standardise, sync


@gluon.jit
def fetch(saved, loaded, m1_s, m2_s, s1_s, s2_s, row, NB, more, BYTES: gl.constexpr):
    """Hidden units `row` and on of the state, if there are more."""
    mbarrier.expect(loaded, 4 * BYTES, pred=more)
    tma.async_copy_global_to_shared(saved, [row, 0], loaded, m1_s, pred=more)
    tma.async_copy_global_to_shared(saved, [NB + row, 0], loaded, m2_s, pred=more)
    tma.async_copy_global_to_shared(saved, [2 * NB + row, 0], loaded, s1_s, pred=more)
    tma.async_copy_global_to_shared(saved, [3 * NB + row, 0], loaded, s2_s, pred=more)


@gluon.jit(do_not_specialize=SIZES)
def read_kernel(
    q, k, err, PN, vec, saved, P1, P2, scale, shift, y, T, H, c0, n, NB,
    D: gl.constexpr, E: gl.constexpr, BE: gl.constexpr, C: gl.constexpr, NORM: gl.constexpr, RES: gl.constexpr,
    PRIOR: gl.constexpr, EPS: gl.constexpr,
):  # fmt: skip
    """grid (any,), 4 warps: program p takes chunks p, p + grid, .. of the NB / E of all heads, NB = B*H * n * E.

    saved: descriptor, tiles [BE, D] and BE = 64, of the states M1, M2, S1, S2 at each chunk's start, [4 * NB, D]. With
    `maxnreg=168` three programs share an SM; with a PRIOR two do, without it.
    """
    NW: gl.constexpr = gl.num_warps()
    BYTES: gl.constexpr = BE * D * 2
    bf: gl.constexpr = gl.bfloat16
    L_C: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [NW, 1], [16, 64, 16])  # all products: C = D = BE = 64
    L_A: gl.constexpr = gl.DotOperandLayout(0, L_C, 2)
    L_R: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [NW, 1], [1, 0])  # rows whole in eight lanes
    S: gl.constexpr = gl.NVMMASharedLayout.get_default_for([C, D], bf)

    out_s = gl.allocate_shared_memory(gl.float32, [C, D], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    both = out_s._reinterpret(bf, [2, C, D], S)
    q_s, qf_s = both.index(0), both.index(1)  # queries times beta and f, until the output is there
    k_b, err_b = gl.allocate_shared_memory(bf, [1, C, D], S), gl.allocate_shared_memory(bf, [1, C, D], S)
    k_s, err_s = k_b.index(0), err_b.index(0)
    pn_s = gl.allocate_shared_memory(bf, [C, C], S)
    m1_b, m2_b = gl.allocate_shared_memory(bf, [1, BE, D], S), gl.allocate_shared_memory(bf, [1, BE, D], S)
    s1_b, s2_b = gl.allocate_shared_memory(bf, [1, BE, D], S), gl.allocate_shared_memory(bf, [1, BE, D], S)
    m1_s, m2_s, s1_s, s2_s = m1_b.index(0), m2_b.index(0), s1_b.index(0), s2_b.index(0)
    if PRIOR:
        p1_s, p2_s = gl.allocate_shared_memory(bf, [BE, D], S), gl.allocate_shared_memory(bf, [BE, D], S)
        qp_s = gl.allocate_shared_memory(bf, [C, D], S)
    loaded = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(loaded, count=1)

    chunks, step = NB // E, gl.num_programs(0)
    p = gl.program_id(0)
    fetch(saved, loaded, m1_s, m2_s, s1_s, s2_s, p * E, NB, p < chunks, BYTES)
    phase = 0
    while p < chunks:
        i_bh, j = (p // n).to(gl.int64), p % n
        i_b, i_h = i_bh // H, i_bh % H
        x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
        c_d = (i_bh * n + j) * C * D
        # `opaque` here and below: addresses made afresh each time take no registers over the tiles
        o_r = gl.expand_dims(opaque(0) + gl.arange(0, C, gl.SliceLayout(1, L_R)), 1)
        o_d = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, L_R)), 0)
        inside = (o_r < T - (c0 + j) * C) & (o_d >= 0)
        sync()  # the chunk before is done with all of these
        async_copy.async_copy_global_to_shared(q_s, q + x_d + (o_r * (H * D) + o_d), mask=inside)
        async_copy.async_copy_global_to_shared(k_s, k + x_d + (o_r * (H * D) + o_d), mask=inside)
        async_copy.async_copy_global_to_shared(pn_s, PN + c_d + (o_r * C + o_d))
        async_copy.async_copy_global_to_shared(err_s, err + c_d + (o_r * D + o_d))
        async_copy.commit_group()
        at = vec + (i_bh * n + j) * 4 * C + (opaque(0) + gl.arange(0, C, gl.SliceLayout(1, L_C)))
        beta, f = gl.expand_dims(gl.load(at), 1), gl.expand_dims(gl.load(at + C), 1)
        async_copy.wait_group(0)
        fence_async_shared()
        attend = mm0(q_s, k_s.permute([1, 0]), L_C)
        b_q = q_s.load(L_C).to(gl.float32)
        attend = warpgroup_mma_wait(0, [attend])
        sync()
        q_s.store((b_q * beta).to(bf))
        qf_s.store((b_q * f).to(bf))
        if PRIOR:
            qp_s.store((b_q * (1.0 - beta)).to(bf))
        fence_async_shared()
        attend = gl.convert_layout((attend * pn_s.load(L_C).to(gl.float32)).to(bf), L_A)
        z2 = gl.zeros([C, D], gl.float32, L_C)
        for e in range(E // BE):
            if PRIOR:
                prior = i_h * E * D + e * BE * D + (o_r * D + o_d)
                p1_s.store(gl.load(P1 + prior).to(bf))
                p2_s.store(gl.load(P2 + prior).to(bf))
                fence_async_shared()
            m1_c, m2_c, s1_c, s2_c, k_c, err_c = only(m1_b), only(m2_b), only(s1_b), only(s2_b), only(k_b), only(err_b)
            q_c, qf_c = both.index(opaque(0)), both.index(opaque(1))
            mbarrier.wait(loaded, phase)
            x = mm0(k_c, m1_c.permute([1, 0]), L_C)
            e1 = mm0(err_c, m2_c.permute([1, 0]), L_C)
            x, slope = gelu_1(warpgroup_mma_wait(1, [x]))
            x = x.to(bf)
            e1 = (warpgroup_mma_wait(0, [e1]) * slope).to(bf)
            z = mm0(q_c, m1_c.permute([1, 0]), L_C)
            z = mm(qf_c, s1_c.permute([1, 0]), z)
            if PRIOR:
                z = mm(qp_s, p1_s.permute([1, 0]), z)
            z = warpgroup_mma_wait(0, [z])
            sync()  # all warps are done with m1 and s1
            m1_c.store(e1)
            s1_c.store(x)
            fence_async_shared()
            xq, _ = gelu_1(warpgroup_mma_wait(0, [mm(attend, m1_c, z)]))
            scores = mm0(gl.convert_layout(xq.to(bf), L_A), s1_c.permute([1, 0]), L_C)
            z2 = mm(gl.convert_layout((xq * beta).to(bf), L_A), m2_c, z2)
            z2 = mm(gl.convert_layout((xq * f).to(bf), L_A), s2_c, z2)
            if PRIOR:
                z2 = mm(gl.convert_layout((xq * (1.0 - beta)).to(bf), L_A), p2_s, z2)
            scores, z2 = warpgroup_mma_wait(0, [scores, z2])
            sync()
            following = gl.where(e + 1 < E // BE, p * E + (e + 1) * BE, (p + step) * E)
            fetch(saved, loaded, m1_s, m2_s, s1_s, s2_s, following, NB, following < NB, BYTES)
            # at once, as there are no registers to add up the scores of all tiles
            scores = (scores * pn_s.load(L_C).to(gl.float32)).to(bf)
            z2 = warpgroup_mma_wait(0, [mm(gl.convert_layout(scores, L_A), err_c, z2)])
            phase ^= 1
        o_r = gl.expand_dims(opaque(0) + gl.arange(0, C, gl.SliceLayout(1, L_R)), 1)
        token, inside = x_d + (o_r * (H * D) + o_d), (o_r < T - (c0 + j) * C) & (o_d >= 0)
        out_s.store(z2)  # over queries, which all warps were done with before the last `sync`
        out = out_s.load(L_R)
        if NORM:
            of_head = i_h * D + o_d
            unit, _ = standardise(out, EPS)
            out = unit * gl.load(scale + of_head) + gl.load(shift + of_head)
        if RES:
            out += gl.load(q + token, mask=inside, other=0.0).to(gl.float32)
        gl.store(y + token, out.to(bf), mask=inside)
        p += step
