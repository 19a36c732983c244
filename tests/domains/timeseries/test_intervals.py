"""Quantiles, what they cost, and intervals that hold what they promise."""

from pathlib import Path

import pytest
import torch

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries import intervals as intervals_module
from domains.timeseries.intervals import Conformal, crps, percent, pinball

LEVELS = (0.05, 0.5, 0.95)


def quantile_head(data: TimeSeriesData, **options) -> ForecastHead:
    head = ForecastHead(8, 3, 12, look_back=24, quantiles=LEVELS, **options)
    head.fit_to(data)
    return head.eval()


def answer(head: ForecastHead, batch: tuple) -> torch.Tensor:
    with torch.no_grad():
        return head.readout(head.embed(batch)[0], batch)


def test_pinball_is_least_at_the_quantile() -> None:
    truth, levels = torch.randn(20_000), torch.tensor([0.1, 0.5, 0.9])
    guesses = torch.linspace(-2, 2, 81)
    loss = torch.stack([pinball(g.expand(20_000, 3), truth, levels).mean(0) for g in guesses])
    torch.testing.assert_close(guesses[loss.argmin(0)], torch.tensor([-1.2816, 0.0, 1.2816]), atol=0.1, rtol=0)
    torch.testing.assert_close(2 * pinball(truth[:, None] + 3, truth, torch.tensor([0.5]))[0], torch.tensor([3.0]))


def test_dense_quantiles_give_the_known_crps_of_a_normal_forecast() -> None:
    levels = (torch.arange(999) + 0.5) / 999
    score = crps(torch.distributions.Normal(0, 1).icdf(levels), torch.tensor(0.0), levels)
    assert score.item() == pytest.approx((2**0.5 - 1) / torch.pi**0.5, abs=1e-3)  # Gneiting and Raftery 2007, eq. 21


def test_crps_does_not_depend_on_where_the_levels_crowd() -> None:
    truth = torch.distributions.Normal(0, 1).icdf((torch.arange(999) + 0.5) / 999)
    crowded = torch.cat([torch.linspace(0.01, 0.1, 19), torch.linspace(0.15, 0.95, 17)])
    score = crps(torch.distributions.Normal(0, 1).icdf(crowded).expand(999, -1), truth, crowded).mean()
    assert score.item() == pytest.approx(1 / torch.pi**0.5, rel=0.01)  # mean CRPS of the true normal distribution
    assert crps(torch.tensor([3.0]), torch.tensor(1.0), torch.tensor([0.5])).item() == 2


@pytest.mark.parametrize("options", [{}, {"quantiles": LEVELS}])
def test_a_batch_without_any_known_truth_teaches_nothing(data: TimeSeriesData, options: dict) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, **options)
    head.fit_to(data)
    past, truth, origins = data.windows["train"][torch.arange(4)]
    for y, costs in (
        (torch.full_like(truth, torch.nan), False),
        (truth.index_fill(2, torch.tensor(1), torch.nan), True),
    ):
        batch = past, y, origins
        head.zero_grad()
        loss = head.loss(head.readout(head.embed(batch)[0], batch), batch)
        loss.backward()
        assert bool(loss > 0) is costs and head.out.weight.grad.isfinite().all()


def test_nobody_calibrated_is_not_nothing_covered(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = data.windows["test"][torch.arange(5)]
    metrics = head.test_metrics()
    head.update(metrics, answer(head, batch), batch)
    assert metrics.compute()["coverage_90"].isnan()


def test_conformal_growth_is_the_order_statistic_of_each_step_and_variable() -> None:
    conformal = Conformal((0.5, 0.9))
    truth = torch.randn(99, 4, 2) * torch.tensor([1.0, 5.0])
    zero = torch.zeros(99, 4, 2, 2)
    for part in (slice(0, 30), slice(30, 99)):
        conformal.update(zero[part], zero[part], truth[part])
    ordered = truth.abs().sort(0).values
    torch.testing.assert_close(conformal.compute(), torch.stack([ordered[49], ordered[89]], -1))  # 100 level - 1


def test_exchangeable_windows_are_covered_as_promised() -> None:
    conformal = Conformal((0.8,))
    covered = []
    for _ in range(40):
        truth = torch.randn(400, 3, 1).exp()  # skewed
        conformal.reset()
        conformal.update(torch.zeros(200, 3, 1, 1), torch.full((200, 3, 1, 1), 0.5), truth[:200])
        grown = conformal.compute()[..., 0]
        covered.append(((truth[200:] >= -grown) & (truth[200:] <= 0.5 + grown)).float().mean())
    assert torch.stack(covered).mean().item() == pytest.approx(0.8, abs=0.01)


def test_too_few_windows_take_the_largest_score() -> None:
    conformal = Conformal((0.99,))
    conformal.update(torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1, 1), torch.tensor([1.0, -7.0, 2.0])[:, None, None])
    assert conformal.compute().item() == 7


def test_a_truth_that_nobody_knows_counts_for_nothing() -> None:
    known, holed = Conformal((0.8,)), Conformal((0.8,))
    truth = torch.randn(40, 2, 1)
    with_holes = torch.cat([truth, torch.full((10, 2, 1), torch.nan)])[torch.randperm(50)]
    for conformal, y in ((known, truth), (holed, with_holes)):
        conformal.update(torch.zeros(len(y), 2, 1, 1), torch.zeros(len(y), 2, 1, 1), y)
    assert torch.equal(known.compute(), holed.compute())


def test_a_long_part_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals_module, "KEPT", 100)
    conformal = Conformal((0.9,))
    for start in range(0, 1000, 7):
        truth = torch.arange(start, min(start + 7, 1000.0))[:, None, None]
        conformal.update(torch.zeros(len(truth), 1, 1, 1), torch.zeros(len(truth), 1, 1, 1), truth)
    kept = torch.cat(conformal.scores).flatten()
    assert conformal.every == 16 and torch.equal(kept, torch.arange(0, 1000, 16.0))


def test_shapes_order_and_median(data: TimeSeriesData) -> None:
    head = quantile_head(data)
    batch = data.windows["test"][torch.arange(5)]
    output = answer(head, batch)
    assert output.shape == (5, 12, 3, 3) and (output.diff(dim=-1) >= 0).all()
    assert torch.equal(head.point(output), output[..., 1])
    metrics = head.metrics()
    head.update(metrics, output, batch)
    torch.testing.assert_close(metrics.compute()["mae"], (output[..., 1] - head.scaled(batch[1])).abs().mean())


def test_without_quantiles_an_interval_surrounds_the_point(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = data.windows["val"][torch.arange(20)]
    output = answer(head, batch)
    assert head.interval(output)[0].isnan().all()  # nothing calibrated it yet
    head.collect(output, batch)
    head.calibrate()
    head.growth += 1e-5  # the window that sets a bound lies on it, give or take a rounding
    lower, upper = head.interval(output)
    torch.testing.assert_close(upper[..., 0] - output, output - lower[..., 0])
    inside = (lower[..., 0] <= head.scaled(batch[1])) & (head.scaled(batch[1]) <= upper[..., 0])
    assert (inside.sum(0) == 19).all()  # ceil(21 * 0.9) of 20, at every step and variable


def test_calibration_repairs_quantiles_that_are_wrong(data: TimeSeriesData) -> None:
    head = quantile_head(data)
    batch = data.windows["val"][torch.arange(29)]
    output = answer(head, batch)  # untrained
    head.collect(output, batch)
    head.calibrate()
    head.growth += 1e-5
    metrics = head.test_metrics()
    head.update(metrics, output, batch)
    score = metrics.compute()
    assert score["coverage_90"].item() == pytest.approx(27 / 29, abs=1e-5)
    assert score["crps"].item() == pytest.approx(crps(output, head.scaled(batch[1]), head.levels).mean().item())
    table = head.table(output, batch)
    assert {"q0.05", "q0.5", "q0.95", "lower_90", "upper_90"} <= set(table)
    inside = (table.lower_90 <= table.truth) & (table.truth <= table.upper_90)
    assert inside.mean() == pytest.approx(score["coverage_90"].item(), abs=2e-3)  # units differ, and so do roundings
    assert (table["q0.5"] == table.prediction).all()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_no_test_metric_and_no_interval(csv: Path, data: TimeSeriesData, batch_size: int) -> None:
    head = quantile_head(data)
    parts = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=batch_size)
    parts.setup()
    scores = []
    for source in (data, parts):
        for batch in source.val_dataloader():
            head.collect(answer(head, batch), batch)
        head.calibrate()
        metrics = head.test_metrics()
        for batch in source.test_dataloader():
            head.update(metrics, answer(head, batch), batch)
        scores.append(metrics.compute())
    for name, value in scores[0].items():
        assert scores[1][name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_widths_travel_in_the_checkpoint(data: TimeSeriesData) -> None:
    head, loaded = quantile_head(data), quantile_head(data)
    batch = data.windows["val"][torch.arange(20)]
    head.collect(answer(head, batch), batch)
    head.calibrate()
    loaded.load_state_dict(head.state_dict())
    assert torch.equal(loaded.growth, head.growth) and head.growth.isfinite().all()


def test_quantiles_are_learned(data: TimeSeriesData) -> None:
    head = quantile_head(data).train()
    batch = data.windows["train"][torch.arange(200)]
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        loss = head.loss(head.readout(head.embed(batch)[0], batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = answer(head.eval(), batch)
    below = (head.scaled(batch[1])[..., None] <= output).float().mean((0, 1, 2))
    torch.testing.assert_close(below, torch.tensor(LEVELS), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantiles": (0.1, 0.9)}, "head.quantiles needs 0.5"),
        ({"quantiles": (0.5, 0.1)}, "head.quantiles must rise between 0 and 1"),
        ({"quantiles": (0.5, 0.5)}, "head.quantiles must rise"),
        ({"intervals": (90.0,)}, "head.intervals must rise between 0 and 1"),
    ],
)
def test_levels_that_make_no_sense_are_refused(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ForecastHead(8, 3, 12, look_back=24, **options)


def test_names_of_levels() -> None:
    assert [percent(level) for level in (0.9, 0.975, 0.29)] == ["90", "97.5", "29"]
