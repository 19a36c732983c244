"""Gradients of keys and of the writes' coefficients for Hopper: `write_bwd_kernel` of `mlp_backward`.

It moves 217 KB a chunk (E = 128) for little arithmetic, so all there is to do is to keep loads on their way. What a
tile of hidden units needs comes in two groups, one per layer; as soon as a group is used it is loaded for the next
tile, which is the next chunk's first after this one's last. Two programs share an SM.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma_wait

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.hopper.common import mm, mm0, opaque, sync


@gluon.jit
def fetch(saved, dsaved, hidden, loaded, tiles, row, of_hidden, NB, more):
    """Hidden units `row` and on of one layer, if there are more: hidden activations or errors, dM, dS, M and S."""
    tma.async_copy_global_to_shared(hidden, [of_hidden, 0], loaded, tiles.index(0), pred=more)
    tma.async_copy_global_to_shared(dsaved, [row, 0], loaded, tiles.index(1), pred=more)
    tma.async_copy_global_to_shared(dsaved, [2 * NB + row, 0], loaded, tiles.index(2), pred=more)
    tma.async_copy_global_to_shared(saved, [row, 0], loaded, tiles.index(3), pred=more)
    tma.async_copy_global_to_shared(saved, [2 * NB + row, 0], loaded, tiles.index(4), pred=more)


@gluon.jit
def fetch_first(saved, dsaved, hidden, dz1, loaded, tiles, row, NB, more, BYTES: gl.constexpr):
    """The first layer, with the gradient of its result."""
    mbarrier.expect(loaded, 6 * BYTES, pred=more)
    fetch(saved, dsaved, hidden, loaded, tiles, row, 5 * NB + row, NB, more)
    tma.async_copy_global_to_shared(dz1, [row, 0], loaded, tiles.index(5), pred=more)


@gluon.jit
def fetch_second(saved, dsaved, hidden, loaded, tiles, row, NB, more, BYTES: gl.constexpr):
    """The second layer."""
    mbarrier.expect(loaded, 5 * BYTES, pred=more)
    fetch(saved, dsaved, hidden, loaded, tiles, NB + row, row, NB, more)


@gluon.jit
def inner(beta, f, m, dm_s, ds_s, m_s, s_s, P, PRIOR: gl.constexpr, layout: gl.constexpr):
    """beta, f, m with the rows of dM (M - P), dM S and dS S of a tile added to them, some rows after the others."""
    ROWS: gl.constexpr = beta.shape[0]
    BE: gl.constexpr = m_s.shape[0]
    D: gl.constexpr = m_s.shape[1]
    for at in gl.static_range(0, BE, ROWS):
        if at > 0:
            sync()  # or all rows' loads go ahead at once, which takes more registers than there are
        dm = dm_s.slice(at, ROWS, 0).load(layout).to(gl.float32)
        s = s_s.slice(at, ROWS, 0).load(layout).to(gl.float32)
        f += gl.sum(dm * s, 1)
        m += gl.sum(ds_s.slice(at, ROWS, 0).load(layout).to(gl.float32) * s, 1)
        w = m_s.slice(at, ROWS, 0).load(layout).to(gl.float32)
        if PRIOR:
            rows = gl.expand_dims(opaque(at) + gl.arange(0, ROWS, gl.SliceLayout(1, layout)), 1)
            w -= gl.load(P + rows * D + gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0))
        beta += gl.sum(dm * w, 1)
    return beta, f, m


@gluon.jit
def places(H, left, C: gl.constexpr, D: gl.constexpr, layout: gl.constexpr):
    """A chunk's places in [.., T, H, D] and in [C, D], and which of its tokens are among the `left` last ones.

    Made afresh each time: kept over the tiles they would take registers that there are not.
    """
    rows = gl.expand_dims(opaque(0) + gl.arange(0, C, gl.SliceLayout(1, layout)), 1)
    cols = gl.expand_dims(gl.arange(0, D, gl.SliceLayout(0, layout)), 0)
    return rows * (H * D) + cols, rows * D + cols, (rows < left) & (cols >= 0)


@gluon.jit
def add_three(a, b, c, x, y, z):
    return a + x, b + y, c + z


@gluon.jit(do_not_specialize=SIZES)
def writes_bwd_kernel(
    k, err, vec, saved, P1, P2, dsaved, hidden, dz1, dk_read, dv, dk, dvec, dm_last, T, H, c0, n, NB,
    D: gl.constexpr, E: gl.constexpr, BE: gl.constexpr, C: gl.constexpr, RES: gl.constexpr, PRIOR: gl.constexpr,
):  # fmt: skip
    """grid (any,), 4 warps: program p takes chunks p, p + grid, .. of the NB / E of all heads, NB = B*H * n * E.

    Descriptors, all with tiles [BE, 64] and BE = 64: saved and dsaved [4 * NB, D], the states M1, M2, S1, S2 at the
    start of each chunk and their gradients at its end; hidden [6 * NB, C], of which x (the first) and e1 (the last)
    are used; dz1 [NB, C]. dv: gradient of v. dk_read: keys' gradient from reads, [B*H, n, C, D].
    """
    bf: gl.constexpr = gl.bfloat16
    NW: gl.constexpr = gl.num_warps()
    BYTES: gl.constexpr = BE * D * 2
    L_C: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, NW // 4], [16, D // (NW // 4), 16])  # products [C, D]
    L_R: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [NW, 1], [1, 0])  # 16 bytes a thread, for global memory
    L_I: gl.constexpr = gl.BlockedLayout([1, 16], [8, 4], [NW, 1], [1, 0])  # a row in four lanes: few shuffles a sum
    S: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BE, D], bf)

    first_b = gl.allocate_shared_memory(bf, [6, BE, D], S)  # C = D = 64
    second_b = gl.allocate_shared_memory(bf, [5, BE, D], S)
    out_s = gl.allocate_shared_memory(gl.float32, [C, D], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    both = out_s._reinterpret(bf, [2, C, D], S)  # keys and errors, until dk is there
    k_s, err_s = both.index(0), both.index(1)
    first = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    second = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(first, count=1)
    mbarrier.init(second, count=1)

    chunks, step = NB // E, gl.num_programs(0)
    p = gl.program_id(0)
    fetch_first(saved, dsaved, hidden, dz1, first, first_b, p * E, NB, p < chunks, BYTES)
    fetch_second(saved, dsaved, hidden, second, second_b, p * E, NB, p < chunks, BYTES)
    phase = 0
    while p < chunks:
        i_bh, j = (p // n).to(gl.int64), p % n
        i_b, i_h = i_bh // H, i_bh % H
        x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
        c_d = (i_bh * n + j) * C * D
        at = (i_bh * n + j) * 4 * C
        token, row, inside = places(H, T - (c0 + j) * C, C, D, L_R)
        sync()  # dk of the chunk before lay where keys and errors go
        async_copy.async_copy_global_to_shared(k_s, k + x_d + token, mask=inside)
        async_copy.async_copy_global_to_shared(err_s, err + c_d + row)
        async_copy.commit_group()
        o_c = opaque(0) + gl.arange(0, C, gl.SliceLayout(1, L_C))
        pn = gl.expand_dims(gl.load(vec + at + 2 * C + o_c), 1)
        rn = gl.expand_dims(gl.load(vec + at + 3 * C + o_c), 1)
        b_dk = gl.zeros([C, D], gl.float32, L_C)
        d_pn = gl.zeros([C], gl.float32, gl.SliceLayout(1, L_C))
        d_beta = gl.zeros([BE // 2 if PRIOR else BE], gl.float32, gl.SliceLayout(1, L_I))
        d_rn, d_f, d_m = d_pn, d_beta, d_beta
        async_copy.wait_group(0)
        for e in range(E // BE):
            following = gl.where(e + 1 < E // BE, p * E + (e + 1) * BE, (p + step) * E)
            more = following < NB
            prior = i_h * E * D + e * BE * D
            mbarrier.wait(first, phase)
            # `opaque`: descriptors of tiles are not computed ahead and held in registers either
            e1_s, dm_s, ds_s = first_b.index(opaque(0)), first_b.index(opaque(1)), first_b.index(opaque(2))
            m_s, s_s, dz_s = first_b.index(opaque(3)), first_b.index(opaque(4)), first_b.index(opaque(5))
            of_pn = mm0(e1_s.permute([1, 0]), dm_s, L_C)
            of_rn = mm0(e1_s.permute([1, 0]), ds_s, L_C)
            b_dk = mm(dz_s.permute([1, 0]), m_s, b_dk)
            of_p = P1 + prior if PRIOR else P1
            d_beta, d_f, d_m = inner(d_beta, d_f, d_m, dm_s, ds_s, m_s, s_s, of_p, PRIOR, L_I)
            of_pn, of_rn, b_dk = warpgroup_mma_wait(0, [of_pn, of_rn, b_dk])
            sync()  # all warps are done with the group
            fetch_first(saved, dsaved, hidden, dz1, first, first_b, following, NB, more, BYTES)
            # no sums over the tiles: five of them would not fit in registers
            kf = both.index(opaque(0)).load(L_C).to(gl.float32)
            d_pn, d_rn = d_pn + gl.sum(kf * of_pn, 1), d_rn + gl.sum(kf * of_rn, 1)
            b_dk += pn * of_pn + rn * of_rn
            mbarrier.wait(second, phase)
            x_s, dm_s, ds_s = second_b.index(opaque(0)), second_b.index(opaque(1)), second_b.index(opaque(2))
            m_s, s_s = second_b.index(opaque(3)), second_b.index(opaque(4))
            of_pn = mm0(x_s.permute([1, 0]), dm_s, L_C)
            of_rn = mm0(x_s.permute([1, 0]), ds_s, L_C)
            of_p = P2 + prior if PRIOR else P2
            d_beta, d_f, d_m = inner(d_beta, d_f, d_m, dm_s, ds_s, m_s, s_s, of_p, PRIOR, L_I)
            of_pn, of_rn = warpgroup_mma_wait(0, [of_pn, of_rn])
            sync()
            fetch_second(saved, dsaved, hidden, second, second_b, following, NB, more, BYTES)
            ef = both.index(opaque(1)).load(L_C).to(gl.float32)
            d_pn, d_rn = d_pn + gl.sum(ef * of_pn, 1), d_rn + gl.sum(ef * of_rn, 1)
            phase ^= 1
        token, row, inside = places(H, T - (c0 + j) * C, C, D, L_R)
        o_c = opaque(0) + gl.arange(0, C, gl.SliceLayout(1, L_C))
        gl.store(dvec + at + 2 * C + o_c, d_pn)
        gl.store(dvec + at + 3 * C + o_c, d_rn)
        out_s.store(b_dk)
        out = out_s.load(L_R) + gl.load(dk_read + c_d + row).to(gl.float32)
        if RES:
            out -= gl.load(dv + x_d + token, mask=inside, other=0.0).to(gl.float32)
        gl.store(dk + x_d + token, out.to(bf), mask=inside)
        beta, f, m = gl.reduce((d_beta, d_f, d_m), 0, add_three)
        gl.store(dvec + at + C - 1, gl.load(dvec + at + C - 1) + beta)
        gl.store(dvec + at + 2 * C - 1, gl.load(dvec + at + 2 * C - 1) + f)
        gl.store(dm_last + i_bh * n + j, m)
        p += step
