"""A classifier of DNA learns the same on any number of devices."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from domains.genomics.norm import VectorNorm
from tests.processes import ROOT, trained_alike


def test_on_one_device_the_norm_is_batch_normalisation() -> None:
    """Bit by bit: outputs, gradients and all that a checkpoint holds."""
    ours, theirs = VectorNorm(6).train(), nn.BatchNorm1d(6).train()
    theirs.load_state_dict(ours.state_dict())
    for rows in (5, 2, 9):
        x = 3 + torch.randn(rows, 6)
        inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
        outputs = ours(inputs[0]), theirs(inputs[1])
        assert torch.equal(*outputs)
        for output in outputs:
            output.square().sum().backward()
        assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_number_of_devices_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of 5 to 30 bases in batches that two and three devices cannot share evenly, with batch statistics.

    In float64, as batch normalisation undoes whatever scale `backbone.norm` gives a feature: in float32 the gradient of
    that scale is rounding, of which Adam makes steps of some length on any number of devices.
    """
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("ACGT"), random.integers(5, 30))) for _ in range(52)]
    table = pd.DataFrame({"sequence": texts, "label": random.choice(["a", "b", "c"], 52), "split": "train"})
    table.loc[37:, "split"] = "val"  # which is tested, too
    table.to_csv("mine.csv", index=False)
    options = [
        *("--config", str(ROOT / "conf/genomics_sample.yaml"), "--data.source=auto", "--data.train=mine.csv"),
        *("--data.floors=false", "--data.batch_size=11", "--trainer.max_epochs=2", "--trainer.sync_batchnorm=true"),
        *("--model.backbone.dim=16", "--model.backbone.dropout=0", "--model.head.dropout=0", "--model.head.bins=2"),
        "--trainer.precision=64-true",
    ]
    three = trained_alike(options, Path("runs/genomics_sample"))
    # the checkpoint of one device is as good as what all have validated
    validated = {name.replace("val/", "test/"): value for name, value in three.fitted.items()}
    assert three.tested == pytest.approx({name: validated[name] for name in three.tested}, rel=1e-6)
