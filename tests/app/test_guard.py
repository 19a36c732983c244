"""Steps without finite numbers: skipped, counted, and in the end a reason to stop."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from toy import NormedHead, ToyData

from app.errors import UserError
from app.guard import SkipNonFinite, gradient_norm
from app.module import TitansModule, read_checkpoint
from app.trainer import TitansTrainer
from memory import BackboneConfig, MemoryConfig, TitansBackbone
from tests.app.test_callbacks import curves

CONFIG = BackboneConfig(dim=8, heads=2, layers=1, memory=MemoryConfig(heads=2, chunk=4))


class Look(Callback):
    """Everything that a step may change, after each step."""

    def __init__(self) -> None:
        self.states: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        momenta = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        self.states.append([value.clone() for value in [*module.parameters(), *module.buffers(), *momenta]])


def trained(folder: Path, epochs: int = 1, **toy: object) -> tuple[Look, SkipNonFinite, TitansTrainer]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    look, guard = Look(), SkipNonFinite()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = TitansTrainer(
        accelerator="cpu", default_root_dir=folder, callbacks=[guard, look], max_epochs=epochs,
        enable_checkpointing=False, gradient_clip_val=1.0, max_skipped=3, limit_val_batches=0, **quiet,
    )  # fmt: skip
    trainer.fit(TitansModule(NormedHead(8, 3), CONFIG), datamodule=ToyData(samples=80, **toy))
    return look, guard, trainer


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.parametrize("spoilt", ["nan", "inf"])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, spoilt: str) -> None:
    look, guard, trainer = trained(tmp_path, spoilt=spoilt, spoil=[1, 2, 4])
    changed = [
        any(not torch.equal(before, after) for before, after in zip(*pair, strict=True))
        for pair in zip(look.states, look.states[1:], strict=False)
    ]
    assert changed == [False, False, True, False]
    assert all(value.isfinite().all() for value in look.states[-1])
    assert guard.state_dict() == {"row": 1, "total": 3, "first": 4}

    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    before = path.read_bytes()
    trainer.lightning_module.head.out.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="x.ckpt: not written"):
        trainer.save_checkpoint(path)
    assert path.read_bytes() == before


def test_many_in_a_row_stop_the_training(run: Callable, refused: Callable) -> None:
    fit = ("fit", "--config", "toy.yaml", "--data.samples=80", "--trainer.max_skipped=3", "--data.spoil=[2,3,4,5]")
    line = refused(*fit)
    assert "3 training steps in a row had no finite loss or gradient, since step 2; the last of them read" in line
    assert "batch 4 of epoch 0 (loss nan; memory norms: layer0/weight_norm " in line
    kept = read_checkpoint("runs/toy/version_0/checkpoints/last.ckpt")["state_dict"].values()
    assert all(value.isfinite().all() for value in kept if isinstance(value, torch.Tensor))

    run(*fit, "--data.spoil=[1,2]", "--trainer.max_epochs=1")
    scalars, _ = curves(Path("runs/toy/version_1"))
    assert [*scalars["train/skipped"].values()] == [0, 1, 2, 2, 2]


def test_a_spike_between_two_points_of_the_curve_is_seen(run: Callable) -> None:
    fit = ("fit", "--config", "toy.yaml", "--data.samples=80", "--trainer.max_epochs=1")
    run(*fit)
    run(*fit, "--trainer.log_every_n_steps=5")
    (each, _), (last, _) = (curves(Path(f"runs/toy/version_{n}")) for n in (0, 1))
    assert last["train/loss_max"][4] == max(each["train/loss"].values()) > last["train/loss"][4]


def test_what_is_carried_to_the_next_pieces_is_finite() -> None:
    state = TitansBackbone(CONFIG).begin().detach()
    whole = [t.clone() for t in state.tensors()]
    state.blocks[0][0].fast.weights[0][0, 0] = torch.inf
    module = SimpleNamespace(carried=[state.map(torch.clone), state], device=torch.device("cpu"))
    SkipNonFinite().on_train_batch_end(SimpleNamespace(max_skipped=3, global_step=1), module, {}, None, 0)
    for before, after in zip(whole, module.carried[-1].tensors(), strict=True):
        assert after.isfinite().all() and (torch.equal(before, after) or after[0, 0].eq(0).all())


def test_gradients_are_clipped_by_the_norm_that_the_guard_has_measured() -> None:
    module = TitansModule(NormedHead(8, 3), CONFIG)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    theirs = [parameter.detach().clone() for parameter in module.parameters()]
    for copy, parameter in zip(theirs, module.parameters(), strict=True):
        copy.grad = parameter.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.1)
    module.gradient_norm = gradient_norm(module)
    assert module.gradient_norm == norm
    module.configure_gradient_clipping(None, 0.1)
    assert all(
        torch.equal(parameter.grad, copy.grad) for parameter, copy in zip(module.parameters(), theirs, strict=True)
    )
    module.gradient_norm = torch.tensor(0.2)  # no norm is taken here: as it is told, gradients are too long by half
    module.configure_gradient_clipping(None, 0.1)
    torch.testing.assert_close([p.grad for p in module.parameters()], [copy.grad / 2 for copy in theirs])
