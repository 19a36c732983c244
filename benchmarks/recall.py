"""Which memory learns to recall: 8 key-value pairs in 48 tokens, `python -m benchmarks.recall`.

A sequence shows 8 pairs of symbols, then asks for each key's value once, between blanks. Two blocks of width 64, memory
only, one head, 500 steps of 64 sequences. The grid is what the defaults of `MemoryConfig` were chosen by.
"""

import argparse
from dataclasses import replace
from statistics import mean

import torch
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.nn import functional as F

from app.versions import device_name
from benchmarks.rows import Row, spread, write
from memory import BackboneConfig, MemoryConfig, TitansBackbone

PAIRS, TIME, KEYS, BLANK = 8, 48, 64, 128  # keys are symbols 0..63, values 64..127
STEPS, BATCH, LR = 500, 64, 3e-3


def grid() -> dict[str, MemoryConfig]:
    """Every memory that is tried, by where it differs from the default."""
    base = MemoryConfig(heads=1)
    return {
        "default": base,
        "theta_max 1": replace(base, theta_max=1.0),
        "theta_max 3": replace(base, theta_max=3.0),
        "theta_max 30": replace(base, theta_max=30.0),
        "keys of length sqrt(d)": replace(base, key_norm="sqrt"),
        "keys of length sqrt(d), theta_max 3": replace(base, key_norm="sqrt", theta_max=3.0),
        "no momentum": replace(base, momentum=False),
        "no forgetting": replace(base, forgetting=False),
        "forgetting to zero": replace(base, forget_to="zero"),
        "no residual": replace(base, residual=False),
        "no convolution": replace(base, conv=0),
        "a matrix": replace(base, depth=1),
        "a matrix, plain": replace(base, depth=1, norm=False, residual=False, theta_max=1.0),
    }


def sequences(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbols [count, TIME] and, where a key is asked for, its value; -100 elsewhere."""
    keys = torch.rand(count, KEYS, generator=generator).argsort(1)[:, :PAIRS]
    values = torch.randint(KEYS, 2 * KEYS, (count, PAIRS), generator=generator)
    symbols, answers = torch.full((count, TIME), BLANK), torch.full((count, TIME), -100)
    symbols[:, : 2 * PAIRS] = torch.stack([keys, values], 2).flatten(1)
    asked = torch.rand(count, TIME - 2 * PAIRS, generator=generator).argsort(1)[:, :PAIRS] + 2 * PAIRS
    return symbols.scatter(1, asked, keys), answers.scatter(1, asked, values)


class Recaller(nn.Module):
    """A symbol model around the backbone."""

    def __init__(self, memory: MemoryConfig) -> None:
        super().__init__()
        config = BackboneConfig(variant="lmm", dim=64, layers=2, heads=1, persistent=4, memory=memory)
        self.embed = nn.Embedding(BLANK + 1, config.dim)
        self.backbone = TitansBackbone(config)
        self.out = nn.Linear(config.dim, BLANK + 1, bias=False)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits [B, T, symbols] of symbols [B, T]."""
        return self.out(self.backbone(self.embed(symbols))[0])


def accuracy(job: tuple[MemoryConfig, int, str]) -> float:
    """Share of values that a model trained from one seed recalls, on 512 fresh sequences."""
    memory, seed, device = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Recaller(memory).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, (i + 1) / 50) * (1 - 0.9 * i / STEPS))
    for _ in range(STEPS):
        symbols, answers = (x.to(device) for x in sequences(BATCH, generator))
        loss = F.cross_entropy(model(symbols).flatten(0, 1), answers.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    symbols, answers = (x.to(device) for x in sequences(512, generator))
    with torch.no_grad():
        right = model(symbols).argmax(-1) == answers
    return right[answers != -100].float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... of every memory (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    given = parser.parse_args()
    tried, seeds = grid(), list(range(given.seeds))
    jobs = [(memory, seed, given.device) for memory in tried.values() for seed in seeds]
    rows = []
    with get_context("spawn").Pool(given.workers) as pool:
        results = pool.imap(accuracy, jobs)
        for name in tried:
            values = [next(results) for _ in seeds]
            rows.append(
                Row(
                    metric=f"recall of 8 pairs in 48 tokens, {name}",
                    value=mean(values),
                    spread=spread(values),
                    unit="accuracy",
                    must="",
                    aim=">= 0.99" if name == "default" else "",
                    seeds=seeds,
                    device=device_name(torch.device(given.device)),
                    command=f"python -m benchmarks.recall --seeds {given.seeds} --device {given.device}",
                )
            )
            print(f"{values} {name}", flush=True)
            write("recall", rows)


if __name__ == "__main__":
    main()
