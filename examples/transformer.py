"""The memory beside attention in a GPT of one's own, with nanoGPT's training loop: `python -m examples.transformer`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory import MemoryConfig, NeuralMemory


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(3))
        self.attention = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.memory = NeuralMemory(dim, MemoryConfig(heads=2))
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, attn_mask=mask, is_causal=True, need_weights=False)[0]
        x = x + self.memory(self.norms[1](x))[0]  # causal; its second output is the state, to go on with later
        return x + self.mlp(self.norms[2](x))


torch.manual_seed(0)
text = torch.tensor(list(b"The memory learns at test time what it will be asked. " * 40))
model = nn.Sequential(nn.Embedding(256, 32), Block(32), Block(32), nn.RMSNorm(32), nn.Linear(32, 256))
# nanoGPT lets all of two dimensions decay. Here the matrices of linear and convolution layers alone do: not the
# memory's first weights (init.0, init.1), its scale and shift, norms, biases and embeddings.
decay = {layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d)}
groups = [{"params": list(decay)}, {"params": [p for p in model.parameters() if p not in decay], "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.1)
for step in range(20):
    rows = torch.stack([text[i : i + 65] for i in torch.randint(len(text) - 65, (8,)).tolist()])
    loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.3f}")
