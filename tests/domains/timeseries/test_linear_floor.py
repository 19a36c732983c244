"""A closed-form linear forecaster on real sets: if its score is the known one, so are data, split and metric.

On Weather it tells whether the cells of -9999 are kept: without them the score is 0.256.
"""

from pathlib import Path

import pytest
import torch

from app.door import main
from app.module import read_checkpoint
from data_prep.timeseries import local_file
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.baselines import baselines
from domains.timeseries.linear import RIDGES, linear_map, ridge_map
from domains.timeseries.products import Products, products
from domains.timeseries.start import own_maps
from domains.timeseries.windows import Rows, Windows

LAST = Path("runs", "ruined", "version_0", "checkpoints", "last.ckpt")
CONFIG = str(Path(__file__).parents[3] / "conf" / "timeseries_ett.yaml")


@pytest.mark.parametrize(
    ("name", "mse", "mae", "naive", "seasonal"),
    [("ETTh1", 0.3832, 0.3915, 1.294, 0.512), ("Weather", 0.1957, 0.2346, 0.259, 0.317)],
)
def test_simple_forecasts_score_as_known(name: str, mse: float, mae: float, naive: float, seasonal: float) -> None:
    if local_file(name) is None:
        pytest.skip(f"scores on the published {name}, not ours to commit: python -m data_prep timeseries")
    data = TimeSeriesData(name, look_back=96, horizon=96, batch_size=512, source="file")
    data.setup()
    scores = baselines(data)
    assert scores["linear"]["mse"] == pytest.approx(mse, abs=1e-3)
    assert scores["linear"]["mae"] == pytest.approx(mae, abs=1e-3)
    assert scores["naive"]["mse"] == pytest.approx(naive, abs=1e-3)
    assert scores["seasonal naive"]["mse"] == pytest.approx(seasonal, abs=1e-3)


def test_batch_size_changes_no_baseline(csv: Path) -> None:
    scores = []
    for batch_size in (1, 64):
        data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=batch_size)
        data.setup()
        scores.append(baselines(data))
    for name, metrics in scores[0].items():
        assert scores[1][name] == pytest.approx(metrics, rel=1e-5)
    assert set(scores[0]) == {"naive", "seasonal naive", "linear"}


@pytest.mark.parametrize("instance_norm", [True, False])
def test_a_forecaster_can_start_from_the_floor(csv: Path, instance_norm: bool) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=64)
    data.setup()
    head = ForecastHead(8, 3, 12, look_back=24, instance_norm=instance_norm, intervals=(), linear=True)
    head.fit_to(data)
    metrics, again = head.metrics(), ForecastHead(8, 3, 12, look_back=24, intervals=(), linear=True)
    for batch in data.test_dataloader():
        tokens, _ = head.embed(batch)
        head.update(metrics, head.readout(tokens, batch), batch)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(baselines(data)["linear"], rel=1e-4)
    head.loss(head.readout(tokens, batch), batch).backward()
    assert (head.out.weight.grad != 0).any() and "linear" not in dict(head.named_parameters())
    again.load_state_dict(head.state_dict(), strict=False)
    assert torch.equal(again.linear, head.linear)


def test_training_never_makes_the_linear_map_worse(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate of 30 ruins the model: what is kept is the map that it started from, with its intervals."""
    monkeypatch.chdir(tmp_path)
    options = f"--config {CONFIG} --data.file {csv} --data.look_back 24 --data.horizon 12 --data.batch_size 64"
    options += " --trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"
    options += " --trainer.log_every_n_steps 1 --model.head.cycle 0 --model.head.own_maps false --model.optim.lr 30"
    options += " --trainer.max_epochs 2 --trainer.logger.name ruined"
    fitted = main(["fit", *options.split()])
    best = fitted.trainer.checkpoint_callback
    assert fitted.trainer.callback_metrics["val/mse"] > 2 * best.best_model_score
    assert read_checkpoint(best.best_model_path)["global_step"] == 0
    tested = main(["test", *options.split()])
    metrics = tested.trainer.callback_metrics
    floor = baselines(tested.datamodule)["linear"]
    assert {name: metrics[f"test/{name}"].item() for name in floor} == pytest.approx(floor, rel=1e-4)
    assert tested.model.head.growth.isfinite().all() and 0.7 < metrics["test/coverage_90"] < 1
    # a training that goes on from there knows its best, too
    last = main(["fit", *options.split(), "--ckpt", str(LAST), "--trainer.max_epochs", "3"])
    assert last.trainer.checkpoint_callback.best_model_score == best.best_model_score


def test_the_ridge_is_chosen_on_validation() -> None:
    """Look-backs of noise want a large ridge, those that tell the next value a small one."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(260, 1, generator=generator, dtype=torch.float64)
    for values, larger in (((0.3 * torch.arange(260.0, dtype=torch.float64)[:, None]).sin(), False), (noise, True)):
        rows = Rows(values, values, torch.arange(260), torch.zeros(260, 0), torch.zeros(260, 0), torch.arange(260))
        train, validation = (Windows(rows, torch.arange(*part), 40, 4) for part in ((0, 120), (160, 210)))
        mean, std = torch.zeros(1), torch.ones(1)
        chosen = linear_map(train, validation, mean, std)
        smallest = linear_map(train, train, mean, std)  # the train part itself wants the smallest
        assert (chosen.norm() < 0.9 * smallest.norm()) == larger


def test_a_penalty_that_solves_nothing_is_passed_over() -> None:
    """Where all look-backs are multiples of one, and a ridge of 1e-18 of them is lost in rounding."""
    only = torch.arange(1.0, 31.0, dtype=torch.float64)[:, None] / 7
    sums = Products(only @ only.mT, only, torch.tensor(1.0, dtype=torch.float64))
    weight, error, chosen = ridge_map(sums, sums, [(0.0, 1e-18), (0.0, 1e-3)])
    assert chosen == (0.0, 1e-3) and weight.isfinite().all() and error < 0.01
    assert not ridge_map(sums, sums, [(0.0, 1e-18)])[0].any()


def test_a_long_look_back_does_not_lose_to_a_short_one() -> None:
    """Rows that say nothing are far back: held closer to zero than the near ones, they cost less."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 1, generator=random, dtype=torch.float64)
    values = torch.zeros(400, 1, dtype=torch.float64)
    for row in range(2, 400):
        values[row] = 1.2 * values[row - 1] - 0.5 * values[row - 2] + noise[row]
    rows = Rows(values, values, torch.arange(400), torch.zeros(400, 0), torch.zeros(400, 0), torch.arange(400))
    sums = [
        products(Windows(rows, torch.arange(*part), 60, 4), torch.zeros(1), torch.ones(1))
        for part in ((0, 150), (150, 336))
    ]
    even, near = (ridge_map(*sums, [(decay, ridge) for ridge in RIDGES])[1] for decay in (0.0, 2.0))
    weight, error, (decay, _) = ridge_map(*sums)
    assert near < 0.97 * even and decay == 2 and error == near
    assert weight[:30].abs().mean() < 0.1 * weight[-2:].abs().mean()


def test_quantiles_begin_with_the_errors_of_the_map(csv: Path) -> None:
    """Before its first step the model is the map with quantiles that hold as many train truths as they say."""
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=64)
    data.setup()
    levels = (0.1, 0.5, 0.9)
    head = ForecastHead(8, 3, 12, look_back=24, quantiles=levels, intervals=(), linear=True)
    assert head.monitor == "crps" and set(head.metrics()) == {"mse", "mae", "crps"}
    head.fit_to(data)
    head.eval()
    batch = data.windows["train"][torch.arange(len(data.windows["train"]))]
    output = head.readout(head.embed(batch)[0], batch)
    below = (head.scaled(batch.target, batch)[..., None] < output).double().mean((0, 2))  # [H, Q]
    torch.testing.assert_close(below, torch.tensor(levels).double().expand(12, 3), atol=0.01, rtol=0)


def test_a_variable_may_have_a_map_of_its_own() -> None:
    """One goes on as it is, one turns around; a third turns around in validation only, and keeps none."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(600, 3, generator=random, dtype=torch.float64)
    values = torch.zeros(600, 3, dtype=torch.float64)
    for row in range(1, 600):
        values[row] = torch.tensor([0.9, -0.9, 0.9 if row < 400 else -0.9]) * values[row - 1] + noise[row]
    rows = Rows(values, values, torch.arange(600), torch.zeros(600, 0), torch.zeros(600, 0), torch.arange(600))
    train, validation = (Windows(rows, torch.arange(*part), 8, 2) for part in ((0, 380), (400, 590)))
    head = ForecastHead(8, 3, 2, look_back=8, intervals=(), linear=True, own_maps=True)
    head.linear.copy_(linear_map(train, validation, torch.zeros(3), torch.ones(3)))
    head.eval()

    def errors(windows: Windows) -> torch.Tensor:
        batch = windows[torch.arange(len(windows))]
        return (head.readout(head.embed(batch)[0], batch) - batch.target).square().mean((0, 1)).detach()

    before = errors(train), errors(validation)
    head.own.copy_(own_maps(head, train, validation))
    after = errors(train), errors(validation)
    assert (after[0][:2] < before[0][:2]).all() and (after[1][:2] < 0.95 * before[1][:2]).any()
    assert (after[1] <= before[1] + 1e-6).all()
    assert head.own[:2].flatten(1).any(1).all() and not head.own[2].any()
    with pytest.raises(ValueError, match="own_maps needs head.linear"):
        ForecastHead(8, 3, 2, look_back=8, own_maps=True)
