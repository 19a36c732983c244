"""Floating-point operations that one layer's recurrence needs, a multiply-add as two."""


def per_token(depth: int, width: int, hidden: int, chunk: int) -> tuple[int, int]:
    """Operations per token and head, gates' coefficients included.

    Args:
        depth: layers of the memory.
        width: head width d.
        hidden: hidden units h; no effect at depth 1.
        chunk: tokens C that share a gradient anchor.

    Returns:
        forward: 10 d^2 + 4Cd + 2C^2 at depth 1, 22 dh + 4C(d + h) + 2C^2 at depth 2; and forward with backward, the
        chunks' states and activations computed again in it.
    """
    sizes = [width] + [hidden] * (depth - 1) + [width]
    layers = [d_in * d_out for d_in, d_out in zip(sizes, sizes[1:], strict=False)]
    all_layers, later, earlier = sum(layers), sum(layers[1:]), sum(layers[:-1])
    ends = sum(sizes[:-1]) + sum(sizes[1:])  # inputs and outputs of all layers
    gradient = 2 * all_layers + 2 * later
    core = gradient + 8 * all_layers + 2 * chunk * ends  # 4 each to read W and S and to write them
    forward = core + 2 * chunk**2
    states = gradient + 4 * all_layers
    activations = gradient + 4 * earlier + 2 * chunk * (ends - width)
    return forward, forward + 2 * core + 6 * chunk**2 + states + activations


def attention(batch: int, time: int, heads: int, width: int) -> tuple[float, float]:
    """Operations of causal attention over whole sequences: forward, and forward with a backward that recomputes."""
    forward = 2 * batch * heads * time**2 * width
    return forward, 3.5 * forward
