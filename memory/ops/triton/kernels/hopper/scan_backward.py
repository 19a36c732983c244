"""The scan's backward: `state_bwd_kernel` of `mlp_backward`, for Hopper.

A program holds the gradients of 128 hidden units' weights in float32 registers, that of momentum in bfloat16 in shared
memory. Buffers serve one purpose after another, which their names list: shared memory is full.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.hopper.common import (
    add,
    column,
    meet,
    mm,
    mm0,
    only,
    opaque,
    row_mean,
    standardise,
    sync,
    total,
)


@gluon.jit
def turn(buffer, i):
    """One of the tiles that swap purposes at every chunk; see `only`."""
    return buffer.index(opaque(i))


@gluon.jit
def fetch_first(hidden, loaded, dzq_s, slope_s, curve_s, row, NB, more):
    """What takes places that are free once a chunk has the gradient of its hidden inputs."""
    BYTES: gl.constexpr = curve_s.shape[0] * curve_s.shape[1] * 2
    mbarrier.expect(loaded, 3 * BYTES, pred=more)
    tma.async_copy_global_to_shared(hidden, [2 * NB + row, 0], loaded, dzq_s, pred=more)
    tma.async_copy_global_to_shared(hidden, [3 * NB + row, 0], loaded, slope_s, pred=more)
    tma.async_copy_global_to_shared(hidden, [4 * NB + row, 0], loaded, curve_s, pred=more)


@gluon.jit
def fetch_second(hidden, loaded, x_s, xq_s, row, NB, more):
    """What takes those that are free once it has the gradient of its second layer."""
    BYTES: gl.constexpr = x_s.shape[0] * x_s.shape[1] * 2
    mbarrier.expect(loaded, 2 * BYTES, pred=more)
    tma.async_copy_global_to_shared(hidden, [row, 0], loaded, x_s, pred=more)
    tma.async_copy_global_to_shared(hidden, [NB + row, 0], loaded, xq_s, pred=more)


@gluon.jit
def fetch_last(saved, loaded, m2_s, row, NB, more):
    """What a chunk's first products do not take."""
    mbarrier.expect(loaded, m2_s.shape[0] * m2_s.shape[1] * 2, pred=more)
    tma.async_copy_global_to_shared(saved, [NB + row, 0], loaded, m2_s, pred=more)


@gluon.jit(do_not_specialize=SIZES)
def scan_bwd_kernel(
    q, k, v, err, vec, m_last, scale, shift, saved, hidden, dzq2_i, d_scores_i, attend_i, d_err_i,
    dM1_start, dM2_start, dS1_start, dS2_start, dM1, dM2, dS1, dS2, dA1, dA2, dsaved, dz1_o, dv, dscale, dshift,
    shared, arrived, T, H, c0, n, NB,
    D: gl.constexpr, E: gl.constexpr, BE: gl.constexpr, C: gl.constexpr, NORM: gl.constexpr, RES: gl.constexpr,
    EPS: gl.constexpr,
):  # fmt: skip
    """grid (E / BE * B*H,), BE / 16 warps: chunks c0 + n - 1 .. c0 of BE hidden units of one head.

    dM_start, dS_start, dM, dS, dA: as in `state_bwd_kernel`. saved, dsaved: descriptors of the states before and of
    their gradients behind each chunk, [4 * NB, D] with NB = B*H * n * E; hidden: of x, xq, dzq1, slope, curve and one
    not for here, [6 * NB, C]; dz1_o: of the gradient of the keys' hidden inputs, [NB, C]. attend_i, d_scores_i:
    [B*H, n, C, C]. d_err_i: the reads' part, [B*H, n, C, D]. dscale, dshift: added to, [B*H, 4 * warps, D], where
    4 * warps is C / 2. shared: [B*H, 2, 2, NG, C, D].
    """
    NG: gl.constexpr = E // BE
    NW: gl.constexpr = gl.num_warps()
    HALF: gl.constexpr = C // 2
    bf: gl.constexpr = gl.bfloat16
    L_E: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [NW, 1], [16, D, 16])  # weights [BE, D]
    L_EC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [NW, 1], [16, C, 16])  # hidden activations [BE, C]
    L_C: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, NW // 4], [16, D // (NW // 4), 16])  # products [C, D]
    L_R: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [NW, 1], [1, 0])  # [C, D] with rows whole in eight lanes
    L_V: gl.constexpr = gl.BlockedLayout([1], [32], [NW], [0])
    S_CD: gl.constexpr = gl.NVMMASharedLayout.get_default_for([C, D], bf)
    S_ED: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BE, D], bf)
    S_EC: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BE, C], bf)
    S_V: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])

    ticket = gl.program_id(0)
    if NG > 1:  # as in the scan forward
        ticket = gl.atomic_add(arrived + gl.num_programs(0) // NG, 1)
    i_bh, i_e = (ticket // NG).to(gl.int64), ticket % NG
    i_b, i_h = i_bh // H, i_bh % H
    o_e = gl.expand_dims(i_e * BE + gl.arange(0, BE, gl.SliceLayout(1, L_E)), 1)
    tile = o_e * D + gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, L_E)), 0)
    o_c, o_d = gl.arange(0, C, gl.SliceLayout(1, L_R)), gl.arange(0, D, gl.SliceLayout(0, L_R))
    o_half = gl.arange(0, HALF, gl.SliceLayout(1, L_R))
    o_v = gl.arange(0, C, L_V)
    token = gl.expand_dims(o_c, 1) * (H * D) + gl.expand_dims(o_d, 0)
    row = gl.expand_dims(o_c, 1) * D + gl.expand_dims(o_d, 0)
    w, slow = i_bh * E * D, i_bh * 4 * NW * D

    # what products take is [1, ..], for `only`
    dm1_s = gl.allocate_shared_memory(bf, [1, BE, D], S_ED)
    dm2_s = gl.allocate_shared_memory(bf, [1, BE, D], S_ED)
    ds1_s = gl.allocate_shared_memory(bf, [1, BE, D], S_ED)
    ds2_s = gl.allocate_shared_memory(bf, [1, BE, D], S_ED)
    dzq_m2_s = gl.allocate_shared_memory(bf, [2, BE, D], S_ED)  # C = D
    x_s = gl.allocate_shared_memory(bf, [1, BE, C], S_EC)
    xq_s = gl.allocate_shared_memory(bf, [1, BE, C], S_EC)
    slope_s = gl.allocate_shared_memory(bf, [BE, C], S_EC)
    curve_bend_s = gl.allocate_shared_memory(bf, [BE, C], S_EC)
    dh_dz1_s = gl.allocate_shared_memory(bf, [1, BE, C], S_EC)
    k_scores_s = gl.allocate_shared_memory(bf, [2, C, D], S_CD)
    err_s = gl.allocate_shared_memory(bf, [1, C, D], S_CD)
    attend_dz2_s = gl.allocate_shared_memory(bf, [1, C, D], S_CD)
    # scaled keys, the MLP's output, its gradient, scaled errors, dzq2 and queries
    float_s = gl.allocate_shared_memory(gl.float32, [C, D], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    pair = float_s._reinterpret(bf, [2, C, D], S_CD)
    a_s, b_s = pair.index(0), pair.index(1)
    loss_s = dm1_s._reinterpret(bf, [2, C, D], S_CD)  # values and the reads' gradient of errors, once dm1 has gone out
    vec_s = gl.allocate_shared_memory(gl.float32, [4, C], S_V)  # beta, f, pn, rn
    first = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    second = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    last = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(first, count=1)
    mbarrier.init(second, count=1)
    mbarrier.init(last, count=1)
    if NORM:
        scale_s = gl.allocate_shared_memory(gl.float32, [D], S_V)
        shift_s = gl.allocate_shared_memory(gl.float32, [D], S_V)
        scale_s.store(gl.load(scale + i_h * D + o_d))
        shift_s.store(gl.load(shift + i_h * D + o_d))

    if dM1 is not None:
        dm1, dm2 = gl.load(dM1 + w + tile), gl.load(dM2 + w + tile)
        ds1_s.index(0).store(gl.load(dS1 + w + tile).to(bf))
        ds2_s.index(0).store(gl.load(dS2 + w + tile).to(bf))
    else:
        dm1, dm2 = gl.zeros([BE, D], gl.float32, L_E), gl.zeros([BE, D], gl.float32, L_E)
        ds1_s.index(0).store(gl.zeros([BE, D], bf, L_E))
        ds2_s.index(0).store(gl.zeros([BE, D], bf, L_E))
    x_d = ((i_b * T + (c0 + n - 1) * C) * H + i_h) * D
    c_d = (i_bh * n + n - 1) * C * D
    at_w = ((i_bh * n + n - 1) * E + i_e * BE).to(gl.int32)
    inside = gl.expand_dims((c0 + n - 1) * C + o_c < T, 1) & gl.expand_dims(o_d >= 0, 0)
    fetch_first(hidden, first, dzq_m2_s.index(0), slope_s, curve_bend_s, at_w, NB, True)
    fetch_second(hidden, second, x_s.index(0), xq_s.index(0), at_w, NB, True)
    fetch_last(saved, last, dzq_m2_s.index(1), at_w, NB, True)
    async_copy.async_copy_global_to_shared(k_scores_s.index(0), k + x_d + token, mask=inside)
    async_copy.async_copy_global_to_shared(err_s.index(0), err + c_d + row)
    async_copy.async_copy_global_to_shared(attend_dz2_s.index(0), attend_i + c_d + row)
    for i in gl.static_range(4):
        async_copy.async_copy_global_to_shared(vec_s.index(i), vec + ((i_bh * n + n - 1) * 4 + i) * C + o_v)
    async_copy.commit_group()
    async_copy.async_copy_global_to_shared(k_scores_s.index(1), d_scores_i + c_d + row)
    async_copy.commit_group()

    for back in range(n):
        j = opaque(n - 1 - back)
        own, other = back & 1, (back + 1) & 1  # where dzq and k lie, and where m2 and the scores do
        x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
        c_d = (i_bh * n + j) * C * D
        inside = gl.expand_dims((c0 + j) * C + o_c < T, 1) & gl.expand_dims(o_d >= 0, 0)
        at_w = ((i_bh * n + j) * E + i_e * BE).to(gl.int32)
        at = vec + (i_bh * n + j) * 4 * C
        beta, f, m = gl.load(at + C - 1), gl.load(at + 2 * C - 1), gl.load(m_last + i_bh * n + j)
        # the hidden errors' gradient, from the reads and from what the chunk wrote
        dm1_s.index(0).store(dm1.to(bf))
        dm2_s.index(0).store(dm2.to(bf))
        async_copy.wait_group(1)  # all but the scores
        pn, rn = column(vec_s, 2, L_R), column(vec_s, 3, L_R)
        b_k = turn(k_scores_s, own).load(L_R).to(gl.float32)
        a_s.store((b_k * pn).to(bf))
        b_s.store((b_k * rn).to(bf))
        fence_async_shared()
        mbarrier.wait(first, own)
        mbarrier.wait(second, own)
        g = mm0(only(dm1_s), pair.index(opaque(0)).permute([1, 0]), L_EC)
        g = mm(only(ds1_s), pair.index(opaque(1)).permute([1, 0]), g)
        g = mm(turn(dzq_m2_s, own), only(attend_dz2_s), g)
        of_m = mm0(only(x_s).permute([1, 0]), only(dm2_s), L_C)
        of_s = mm0(only(x_s).permute([1, 0]), only(ds2_s), L_C)
        tma.async_copy_shared_to_global(dsaved, [at_w, 0], dm1_s.index(0))
        tma.async_copy_shared_to_global(dsaved, [NB + at_w, 0], dm2_s.index(0))
        tma.async_copy_shared_to_global(dsaved, [2 * NB + at_w, 0], ds1_s.index(0))
        tma.async_copy_shared_to_global(dsaved, [3 * NB + at_w, 0], ds2_s.index(0))
        g, of_m, of_s = warpgroup_mma_wait(0, [g, of_m, of_s])
        tma.store_wait(3)  # for dm1, whose place they take
        async_copy.async_copy_global_to_shared(loss_s.index(0), v + x_d + token, mask=inside)
        async_copy.async_copy_global_to_shared(loss_s.index(1), d_err_i + c_d + row)
        async_copy.commit_group()
        part = of_m * column(vec_s, 2, L_C) + of_s * column(vec_s, 3, L_C)
        curve_bend_s.store((g * curve_bend_s.load(L_EC).to(gl.float32)).to(bf))
        dh_dz1_s.index(0).store((g * slope_s.load(L_EC).to(gl.float32)).to(bf))
        fence_async_shared()
        # the errors' gradient at the MLP's output, beside that output once more
        mbarrier.wait(last, own)
        z2 = mm0(only(x_s).permute([1, 0]), turn(dzq_m2_s, other), L_C)
        part = mm(only(dh_dz1_s).permute([1, 0]), turn(dzq_m2_s, other), part)
        z2 = warpgroup_mma_wait(1, [z2])
        float_s.store(z2)
        if NG > 1:
            place = shared + (i_bh * 2 + back % 2) * 2 * NG * C * D
            gl.store(place + i_e * C * D + row, float_s.load(L_R))
        else:
            z_0, z_1 = float_s.slice(0, HALF, 0).load(L_R), float_s.slice(HALF, HALF, 0).load(L_R)
        part = warpgroup_mma_wait(0, [part])
        float_s.store(part)
        if NG > 1:
            gl.store(place + (NG + i_e) * C * D + row, float_s.load(L_R))
            meet(arrived + i_bh, (back + 1) * NG)
        async_copy.wait_group(0)
        # through the inner loss, one half of the tokens after the other: registers are short here
        for half in gl.static_range(2):
            sync()
            here = half * HALF + o_half
            half_row = gl.expand_dims(here, 1) * D + gl.expand_dims(o_d, 0)
            half_token = gl.expand_dims(here, 1) * (H * D) + gl.expand_dims(o_d, 0)
            half_inside = gl.expand_dims((c0 + j) * C + here < T, 1) & gl.expand_dims(o_d >= 0, 0)
            wanted = loss_s.index(0).slice(half * HALF, HALF, 0).load(L_R).to(gl.float32)
            d_err = loss_s.index(1).slice(half * HALF, HALF, 0).load(L_R).to(gl.float32)
            if NG > 1:
                z = total(place + half_row, C * D, NG)
                d_err += total(place + NG * C * D + half_row, C * D, NG)
            else:
                z = z_0 if half == 0 else z_1
                d_err += float_s.slice(half * HALF, HALF, 0).load(L_R)
            if RES:
                wanted -= turn(k_scores_s, own).slice(half * HALF, HALF, 0).load(L_R).to(gl.float32)
            if NORM:
                unit, rstd = standardise(z, EPS)
                b_scale = gl.expand_dims(scale_s.load(gl.SliceLayout(0, L_R)), 0)
                b_shift = gl.expand_dims(shift_s.load(gl.SliceLayout(0, L_R)), 0)
                miss = unit * b_scale + b_shift - wanted
                inner = b_scale * miss
                along = row_mean(inner * unit)
                du = d_err * rstd
                along_u, mean_u = row_mean(du * unit), row_mean(du)
                d_rstd = row_mean(du * inner) - mean_u * row_mean(inner) - along * along_u  # times rstd
                d_inner = du - mean_u - unit * along_u
                d_wanted = -b_scale * d_inner
                d_unit = -b_scale * d_wanted - along * du - inner * along_u
                dz2 = (d_unit - row_mean(d_unit) - unit * (row_mean(d_unit * unit) + d_rstd)) * rstd
                of_scale, of_shift = miss * d_inner - unit * d_wanted, -d_wanted
                if half == 0:
                    sum_scale, sum_shift = of_scale, of_shift
                elif i_e == 0:
                    add(dscale + slow, sum_scale + of_scale)
                    add(dshift + slow, sum_shift + of_shift)
            else:
                dz2, d_wanted = d_err, -d_err
            attend_dz2_s.index(0).slice(half * HALF, HALF, 0).store(dz2.to(bf))
            if i_e == 0:
                gl.store(dv + x_d + half_token, d_wanted.to(bf), mask=half_inside)
        # through the hidden layer
        pn, rn = column(vec_s, 2, L_R), column(vec_s, 3, L_R)
        b_err = err_s.index(0).load(L_R).to(gl.float32)
        a_s.store((b_err * pn).to(bf))
        b_s.store((b_err * rn).to(bf))
        fence_async_shared()
        h = mm0(only(dm2_s), pair.index(opaque(0)).permute([1, 0]), L_EC)
        h = mm(only(ds2_s), pair.index(opaque(1)).permute([1, 0]), h)
        h = mm(only(xq_s), turn(k_scores_s, other), h)
        h = mm(turn(dzq_m2_s, other), only(attend_dz2_s).permute([1, 0]), h)
        b_q = gl.load(q + x_d + token, mask=inside, other=0.0).to(gl.float32)
        dzq2 = gl.load(dzq2_i + c_d + row).to(gl.float32)
        beta_t, f_t = column(vec_s, 0, L_R), column(vec_s, 1, L_R)
        h = warpgroup_mma_wait(0, [h])
        dz1 = (h * slope_s.load(L_EC).to(gl.float32) + curve_bend_s.load(L_EC).to(gl.float32)).to(bf)
        # the state one chunk back: what it handed on, what reads saw of it, and what the inner gradient took from it
        a_s.store((dzq2 * beta_t).to(bf))
        b_s.store((dzq2 * f_t).to(bf))
        fence_async_shared()
        ds2 = mm(only(xq_s), pair.index(opaque(1)), f * dm2 + m * only(ds2_s).load(L_E).to(gl.float32))
        dm2 = mm(only(xq_s), pair.index(opaque(0)), beta * dm2)
        dm2 = mm(only(dh_dz1_s), only(err_s), dm2)
        dm2 = mm(only(x_s), only(attend_dz2_s), dm2)
        # what is free again takes the chunk before
        more = back + 1 < n
        jn = opaque(gl.maximum(j - 1, 0))
        x_n = ((i_b * T + (c0 + jn) * C) * H + i_h) * D
        c_n = (i_bh * n + jn) * C * D
        at_n = ((i_bh * n + jn) * E + i_e * BE).to(gl.int32)
        fetch_first(hidden, first, turn(dzq_m2_s, other), slope_s, curve_bend_s, at_n, NB, more)
        before = gl.expand_dims((c0 + jn) * C + o_c < T, 1) & gl.expand_dims(o_d >= 0, 0)
        async_copy.async_copy_global_to_shared(turn(k_scores_s, other), k + x_n + token, mask=before)
        dm2, ds2 = warpgroup_mma_wait(0, [dm2, ds2])
        sync()  # the compiler sees the barriers of what was fetched before the wait and adds none
        fetch_second(hidden, second, x_s.index(0), xq_s.index(0), at_n, NB, more)
        async_copy.async_copy_global_to_shared(err_s.index(0), err + c_n + row)
        async_copy.async_copy_global_to_shared(attend_dz2_s.index(0), attend_i + c_n + row)
        beta_t, f_t = column(vec_s, 0, L_R), column(vec_s, 1, L_R)
        a_s.store((b_q * beta_t).to(bf))
        b_s.store((b_q * f_t).to(bf))
        dh_dz1_s.index(0).store(dz1)
        fence_async_shared()
        ds1 = mm(turn(dzq_m2_s, own), pair.index(opaque(1)), f * dm1 + m * only(ds1_s).load(L_E).to(gl.float32))
        dm1 = mm(turn(dzq_m2_s, own), pair.index(opaque(0)), beta * dm1)
        dm1 = mm(only(dh_dz1_s), turn(k_scores_s, own), dm1)
        tma.async_copy_shared_to_global(dz1_o, [at_w, 0], dh_dz1_s.index(0))
        for i in gl.static_range(4):
            async_copy.async_copy_global_to_shared(vec_s.index(i), vec + ((i_bh * n + jn) * 4 + i) * C + o_v)
        async_copy.commit_group()
        tma.store_wait(0)
        ds2_s.index(0).store(ds2.to(bf))
        dm1, ds1 = warpgroup_mma_wait(0, [dm1, ds1])
        ds1_s.index(0).store(ds1.to(bf))
        sync()  # all warps are done with dzq and k
        fetch_last(saved, last, turn(dzq_m2_s, own), at_n, NB, more)
        async_copy.async_copy_global_to_shared(turn(k_scores_s, own), d_scores_i + c_n + row)
        async_copy.commit_group()
        if dA1 is not None:
            at_last = (tile >= 0) & (back == 0)
            dm1 += gl.load(dA1 + w + tile, mask=at_last, other=0.0)
            dm2 += gl.load(dA2 + w + tile, mask=at_last, other=0.0)
    async_copy.wait_group(0)
    if dM1_start is not None:
        gl.store(dM1_start + w + tile, dm1)
        gl.store(dM2_start + w + tile, dm2)
    if dS1_start is not None:
        gl.store(dS1_start + w + tile, ds1_s.index(0).load(L_E).to(gl.float32))
        gl.store(dS2_start + w + tile, ds2_s.index(0).load(L_E).to(gl.float32))
    tma.store_wait(0)
