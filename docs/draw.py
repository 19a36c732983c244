"""Draw the pictures of docs/concepts.md: `python -m docs.draw`, some seconds on a CPU, seed 0, untrained memories."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from app.pictures import save_figure
from memory import BackboneConfig, MemoryConfig, NeuralMemory, TitansBackbone

FOLDER = Path(__file__).parent / "pictures"
TOKENS = 48
SIZE = 12  # of a segment, of a window, and of the chunks in the picture of chunks


def surprise() -> Figure:
    """Surprise of 16 tokens, of the same ones again, and of 16 new ones."""
    memory = NeuralMemory(32, MemoryConfig(heads=2, chunk=1, conv=0))
    known, new = torch.randn(2, 8, 16, 32)
    found = memory.surprise(torch.cat([known, known, new], 1)).mean((0, 2))
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axis = figure.subplots()
    for start, label in enumerate(("for the first time", "the same again", "new ones")):
        places = range(16 * start, 16 * start + 16)
        axis.bar(places, found[16 * start : 16 * start + 16], label=label)
    axis.set(xlabel="token", ylabel="surprise")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def remembered() -> Figure:
    """Surprise at every token, asked of the memory behind every later one."""
    memory = NeuralMemory(32, MemoryConfig(heads=2, chunk=1, conv=0))
    x = torch.randn(8, TOKENS, 32)
    states = [memory.initial_state(8)]
    with torch.no_grad():
        for token in x.split(1, 1):
            states.append(memory(token, states[-1])[1])
    asked = torch.full((TOKENS, TOKENS + 1), torch.nan)
    for row, token in enumerate(x.split(1, 1)):
        for column in range(TOKENS + 1):
            state = replace(states[row], fast=states[column].fast)
            asked[row, column] = memory.surprise(token, state).mean()
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(asked / asked[:, :1], cmap="viridis", vmin=0, vmax=1.2)
    axis.set(xlabel="tokens read when it is asked", ylabel="token that is asked for")
    figure.colorbar(picture, ax=axis, label="surprise, 1 before anything is read")
    return figure


def chunks() -> Figure:
    """Which values decide what each token writes, by where its gradient is taken."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    kinds = {
        "chunk 12": MemoryConfig(heads=1, depth=1, chunk=12, norm=False, conv=0),
        "chunk 4": MemoryConfig(heads=1, depth=1, chunk=4, norm=False, conv=0),
        "errors: exact": MemoryConfig(heads=1, depth=1, norm=False, conv=0, errors="exact"),
    }
    for axis, (title, config) in zip(figure.subplots(1, 3), kinds.items(), strict=True):
        memory = NeuralMemory(8, replace(config, momentum=False, forgetting=False))
        _grid(axis, title, sensitivity(lambda x, memory=memory: _writes(memory, x), torch.randn(TOKENS, 8)))
    return figure


def _writes(memory: NeuralMemory, x: Tensor) -> Tensor:
    """What each token of x [T, dim] adds to a memory of one layer, [T, numbers]."""
    state = memory.initial_state(1)
    weights = [state.fast.weights[0]]
    for token in x[None].split(1, 1):
        _, state = memory(token, state)
        weights.append(state.fast.weights[0])
    return torch.cat(weights).flatten(1).diff(dim=0)


def sights() -> Figure:
    """Which tokens the answer of each token depends on, in every variant of one block."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    variants = ("attention", "swa", "lmm", "mac", "mag", "mal")
    for axis, variant in zip(figure.subplots(2, 3).flat, variants, strict=True):
        memory = MemoryConfig(heads=2, chunk=4, conv=2)
        config = BackboneConfig(variant, 16, 1, heads=2, window=SIZE, segment=SIZE, memory=memory)
        model = TitansBackbone(config)
        _grid(axis, variant, sensitivity(lambda x, model=model: model(x[None])[0][0], torch.randn(TOKENS, 16)))
    return figure


def sensitivity(answer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """How much a random sum of each row of an answer changes with each row of x, [T, T]."""
    x.requires_grad_()
    rows = answer(x)
    sums = (rows * torch.randn_like(rows)).sum(1)
    return torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0].norm(dim=1) for one in sums])


def _grid(axis, title: str, found: Tensor) -> None:
    """Logarithm of how strong each of [T, T] is; white where there is exactly nothing."""
    axis.imshow((found / found.max()).log10().where(found > 0, torch.nan).detach(), cmap="viridis", vmin=-4, vmax=0)
    axis.set(title=title, xlabel="changed token", ylabel="token that feels it")
    axis.set(xticks=range(0, TOKENS, SIZE), yticks=range(0, TOKENS, SIZE))


def main() -> None:
    for draw in (surprise, remembered, chunks, sights):
        torch.manual_seed(0)
        path = FOLDER / f"concept_{draw.__name__}.png"
        save_figure(path, draw())
        print(path.relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
