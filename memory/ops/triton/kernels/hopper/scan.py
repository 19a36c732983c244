"""The scan over chunks forward: `state_fwd_kernel` of `mlp_forward`, for Hopper.

A program holds 128 hidden units of one head: weights in float32 registers, momentum in bfloat16 in shared memory, where
the products want it anyway. Everything a chunk needs is on its way two chunks before.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma, warpgroup_mma_wait

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.hopper.common import gelu_1, meet, mm, mm0, opaque, project, standardise, total


@gluon.jit(do_not_specialize=SIZES)
def scan_kernel(
    k, v, vec, m_last, scale, shift, M1, M2, S1, S2, M1_end, M2_end, S1_end, S2_end, A1, A2, P1, P2, saved, err,
    shared, arrived, R, T, H, c0, n, NB,
    D: gl.constexpr, E: gl.constexpr, BE: gl.constexpr, C: gl.constexpr, NORM: gl.constexpr, RES: gl.constexpr,
    PRIOR: gl.constexpr, EPS: gl.constexpr,
):  # fmt: skip
    """grid (E / BE * B*H,), BE / 16 warps: chunks c0 .. c0 + n - 1 of BE hidden units of one head.

    M, S, M_end, S_end, A, P, err: as in `state_fwd_kernel`. saved: descriptor, tiles [BE, D], of the states M1, M2, S1,
    S2 at the start of each chunk, [4 * NB, D] with NB = B*H * n * E. shared, arrived: where the programs of one head
    meet, see `memory.ops.triton.kernels.common.sum_over_tiles`.
    """
    NG: gl.constexpr = E // BE
    NW: gl.constexpr = gl.num_warps()
    bf: gl.constexpr = gl.bfloat16
    L_E: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [NW, 1], [16, D, 16])  # weights [BE, D]
    L_EC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [NW, 1], [16, C, 16])  # hidden activations [BE, C]
    L_C: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, NW // 4], [16, D // (NW // 4), 16])  # products [C, D]
    L_R: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [NW, 1], [1, 0])  # [C, D] with rows whole in eight lanes
    S_CD: gl.constexpr = gl.NVMMASharedLayout.get_default_for([C, D], bf)
    S_ED: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BE, D], bf)
    S_EC: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BE, C], bf)

    # programs start in the order of their tickets, so those of one head never wait for one that cannot start
    ticket = gl.program_id(0)
    if NG > 1:
        ticket = gl.atomic_add(arrived + gl.num_programs(0) // NG, 1)
    i_bh, i_e = (ticket // NG).to(gl.int64), ticket % NG
    i_b, i_h = i_bh // H, i_bh % H
    o_e = gl.expand_dims(i_e * BE + gl.arange(0, BE, gl.SliceLayout(1, L_E)), 1)
    tile = o_e * D + gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, L_E)), 0)
    o_c, o_d = gl.arange(0, C, gl.SliceLayout(1, L_R)), gl.arange(0, D, gl.SliceLayout(0, L_R))
    token = gl.expand_dims(o_c, 1) * (H * D) + gl.expand_dims(o_d, 0)
    row = gl.expand_dims(o_c, 1) * D + gl.expand_dims(o_d, 0)
    w, of_head = i_bh * E * D, i_h * E * D

    k_s = gl.allocate_shared_memory(bf, [3, C, D], S_CD)
    v_s = gl.allocate_shared_memory(bf, [3, C, D], S_CD)
    kp_s = gl.allocate_shared_memory(bf, [C, D], S_CD)  # keys and errors, scaled by what writes weigh
    kr_s = gl.allocate_shared_memory(bf, [C, D], S_CD)
    err_s = gl.allocate_shared_memory(bf, [C, D], S_CD)
    errp_s = gl.allocate_shared_memory(bf, [C, D], S_CD)
    errr_s = gl.allocate_shared_memory(bf, [C, D], S_CD)
    x_s = gl.allocate_shared_memory(bf, [BE, C], S_EC)
    e1_s = gl.allocate_shared_memory(bf, [BE, C], S_EC)
    slope_s = gl.allocate_shared_memory(bf, [BE, C], S_EC)
    m1_s = gl.allocate_shared_memory(bf, [BE, D], S_ED)
    m2_s = gl.allocate_shared_memory(bf, [BE, D], S_ED)
    s1_s = gl.allocate_shared_memory(bf, [BE, D], S_ED)
    s2_s = gl.allocate_shared_memory(bf, [BE, D], S_ED)
    z_s = gl.allocate_shared_memory(gl.float32, [C, D], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))

    before = i_bh % R * E * D
    m1, m2 = gl.load(M1 + before + tile), gl.load(M2 + before + tile)
    s1, s2 = gl.load(S1 + before + tile), gl.load(S2 + before + tile)
    s1_s.store(s1.to(bf))
    s2_s.store(s2.to(bf))
    if NORM:
        b_scale = gl.expand_dims(gl.load(scale + i_h * D + o_d), 0)
        b_shift = gl.expand_dims(gl.load(shift + i_h * D + o_d), 0)
    for ahead in gl.static_range(2):
        x_d = ((i_b * T + (c0 + ahead) * C) * H + i_h) * D
        inside = gl.expand_dims((c0 + ahead) * C + o_c < T, 1) & gl.expand_dims(o_d >= 0, 0)
        async_copy.async_copy_global_to_shared(k_s.index(ahead), k + x_d + token, mask=inside)
        async_copy.async_copy_global_to_shared(v_s.index(ahead), v + x_d + token, mask=inside)
        async_copy.commit_group()
    at = vec + i_bh * n * 4 * C
    beta_n, f_n, m_n = gl.load(at + C - 1), gl.load(at + 2 * C - 1), gl.load(m_last + i_bh * n)
    pn_n, rn_n = gl.load(at + 2 * C + o_c), gl.load(at + 3 * C + o_c)
    for i in range(n):
        j, following = opaque(i), opaque(gl.minimum(i + 1, n - 1))
        beta, f, m = beta_n, f_n, m_n
        pn, rn = gl.expand_dims(pn_n, 1), gl.expand_dims(rn_n, 1)
        at = vec + (i_bh * n + following) * 4 * C
        beta_n, f_n, m_n = gl.load(at + C - 1), gl.load(at + 2 * C - 1), gl.load(m_last + i_bh * n + following)
        pn_n, rn_n = gl.load(at + 2 * C + o_c), gl.load(at + 3 * C + o_c)
        if A1 is not None:
            at_last = (tile >= 0) & (i == n - 1)
            gl.store(A1 + w + tile, m1, mask=at_last)
            gl.store(A2 + w + tile, m2, mask=at_last)
        m1_s.store(m1.to(bf))
        m2_s.store(m2.to(bf))
        async_copy.wait_group(1)
        fence_async_shared()
        k_c, v_c = k_s.index(i % 3), v_s.index(i % 3)
        z1 = mm0(m1_s, k_c.permute([1, 0]), L_EC)
        at_w = ((i_bh * n + j) * E + i_e * BE).to(gl.int32)
        tma.async_copy_shared_to_global(saved, [at_w, 0], m1_s)
        tma.async_copy_shared_to_global(saved, [NB + at_w, 0], m2_s)
        tma.async_copy_shared_to_global(saved, [2 * NB + at_w, 0], s1_s)
        tma.async_copy_shared_to_global(saved, [3 * NB + at_w, 0], s2_s)
        x_d = ((i_b * T + (c0 + j + 2) * C) * H + i_h) * D
        inside = gl.expand_dims((c0 + j + 2) * C + o_c < T, 1) & gl.expand_dims(o_d >= 0, 0)
        async_copy.async_copy_global_to_shared(k_s.index((i + 2) % 3), k + x_d + token, mask=inside)
        async_copy.async_copy_global_to_shared(v_s.index((i + 2) % 3), v + x_d + token, mask=inside)
        async_copy.commit_group()
        b_k, wanted = k_c.load(L_R).to(gl.float32), v_c.load(L_R).to(gl.float32)
        kp_s.store((b_k * pn).to(bf))
        kr_s.store((b_k * rn).to(bf))
        if RES:
            wanted -= b_k
        x, slope = gelu_1(warpgroup_mma_wait(0, [z1]))
        x_s.store(x.to(bf))
        slope_s.store(slope.to(bf))
        fence_async_shared()
        z_s.store(warpgroup_mma_wait(0, [mm0(x_s.permute([1, 0]), m2_s, L_C)]))
        z2 = z_s.load(L_R)
        if NG > 1:
            place = shared + (i_bh * 2 + j % 2) * NG * C * D + row
            gl.store(place + i_e * C * D, z2)
            meet(arrived + i_bh, (j + 1) * NG)
            z2 = total(place, C * D, NG)
        if NORM:
            unit, rstd = standardise(z2, EPS)
            g = b_scale * (unit * b_scale + b_shift - wanted)
            b_err = project(g, unit) * rstd
        else:
            b_err = z2 - wanted
        rounded = b_err.to(bf)
        b_err = rounded.to(gl.float32)
        err_s.store(rounded)
        errp_s.store((b_err * pn).to(bf))
        errr_s.store((b_err * rn).to(bf))
        fence_async_shared()
        e1 = mm0(m2_s, err_s.permute([1, 0]), L_EC)
        if i_e == 0:
            gl.store(err + (i_bh * n + j) * C * D + row, rounded)
        s2 = s2_s.load(L_E).to(gl.float32)
        m2 = beta * m2 + f * s2
        if PRIOR:
            m2 += (1.0 - beta) * gl.load(P2 + of_head + tile)
        e1 = warpgroup_mma_wait(0, [e1])
        m2 = mm(x_s, errp_s, m2)
        s2 = mm(x_s, errr_s, m * s2)
        e1_s.store((e1 * slope_s.load(L_EC).to(gl.float32)).to(bf))
        fence_async_shared()
        s1 = s1_s.load(L_E).to(gl.float32)
        m1 = beta * m1 + f * s1
        if PRIOR:
            m1 += (1.0 - beta) * gl.load(P1 + of_head + tile)
        m1 = mm(e1_s, kp_s, m1)
        s1 = mm(e1_s, kr_s, m * s1)
        m1, s1, m2, s2 = warpgroup_mma_wait(0, [m1, s1, m2, s2])
        tma.store_wait(0)
        s1_s.store(s1.to(bf))
        s2_s.store(s2.to(bf))
    async_copy.wait_group(0)
    if M1_end is not None:
        gl.store(M1_end + w + tile, m1)
        gl.store(M2_end + w + tile, m2)
        gl.store(S1_end + w + tile, s1_s.load(L_E).to(gl.float32))
        gl.store(S2_end + w + tile, s2_s.load(L_E).to(gl.float32))
    tma.store_wait(0)
