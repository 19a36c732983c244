"""Quantiles, what they cost, and intervals that hold what they promise."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries import intervals as intervals_module
from domains.timeseries.intervals import Conformal, Coverage, Tracker, crps, fewest, percent, pinball

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
    whole = data.windows["train"][torch.arange(4)]
    for y, costs in (
        (torch.full_like(whole.target, torch.nan), False),
        (whole.target.index_fill(2, torch.tensor(1), torch.nan), True),
    ):
        batch = whole._replace(target=y)
        head.zero_grad()
        loss = head.loss(head.readout(head.embed(batch)[0], batch), batch)
        loss.backward()
        assert bool(loss > 0) is costs and head.out.weight.grad.isfinite().all()


def test_nobody_calibrated_is_not_nothing_covered(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = data.windows["test"][torch.arange(5)]
    metrics = head.metrics("test")
    head.update(metrics, answer(head, batch), batch)
    assert metrics.compute()["coverage_90"].isnan()


def calibrated(scores: torch.Tensor, levels: tuple, series: torch.Tensor | None = None, count: int = 0) -> torch.Tensor:
    conformal = Conformal(levels)
    conformal.update(scores, series)
    return conformal.compute(count or scores.shape[2])


def test_many_windows_give_each_step_and_variable_its_order_statistic() -> None:
    conformal = Conformal((0.5, 0.9))
    scores = (torch.randn(99, 4, 2) * torch.tensor([1.0, 5.0])).abs()[..., None].expand(-1, -1, -1, 2)
    for part in (slice(0, 30), slice(30, 99)):
        conformal.update(scores[part])
    ordered = scores[..., 0].sort(0).values
    torch.testing.assert_close(conformal.compute(2), torch.stack([ordered[49], ordered[89]], -1))  # 100 level - 1


def test_exchangeable_windows_are_covered_as_promised() -> None:
    covered = []
    for _ in range(40):
        scores = torch.randn(400, 3, 1, 1).exp()  # skewed
        covered.append((scores[200:] <= calibrated(scores[:200], (0.8,))).float().mean())
    assert torch.stack(covered).mean().item() == pytest.approx(0.8, abs=0.01)


def test_few_windows_are_pooled_over_series_then_over_steps_and_too_few_give_none() -> None:
    scores = torch.arange(1.0, 241).reshape(20, 3, 4, 1)
    by_step = scores.transpose(1, 2).flatten(0, 1)[..., 0].sort(0).values  # [80, 3]: 80 >= 5 * 10
    torch.testing.assert_close(calibrated(scores, (0.9,))[..., 0], by_step[72][:, None].expand(3, 4))
    everything = scores[:4].flatten().sort().values  # 16 in each step, 48 in all
    torch.testing.assert_close(calibrated(scores[:4], (0.9,)), everything[44].expand(3, 4, 1))
    assert fewest(0.9) == 10 and fewest(0.95) == 20 and fewest(0.5) == 2
    assert calibrated(scores[:3, :, :1], (0.9,)).isnan().all()  # nine scores


def test_a_series_of_a_panel_stands_on_its_own_where_it_can() -> None:
    series = torch.tensor([0] * 60 + [1] * 5 + [2] * 60)[torch.randperm(125)]
    scores = torch.rand(125, 2, 1, 1) * torch.tensor([1.0, 1.0, 9.0])[series][:, None, None, None]
    growth = calibrated(scores, (0.9,), series, 3)
    for own in (0, 2):
        expected = scores[series == own].sort(0).values[54, :, 0]  # ceil(61 * 0.9) - 1
        torch.testing.assert_close(growth[:, own], expected)
    torch.testing.assert_close(growth[:, 1], scores.sort(0).values[113, :, 0])


def test_a_truth_that_nobody_knows_counts_for_nothing() -> None:
    scores = torch.rand(60, 2, 1, 1)
    with_holes = torch.cat([scores, torch.full((10, 2, 1, 1), torch.nan)])[torch.randperm(70)]
    assert torch.equal(calibrated(scores, (0.8,)), calibrated(with_holes, (0.8,)))


def test_a_long_part_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals_module, "LARGEST", 100)
    conformal = Conformal((0.9,))
    for start in range(0, 1000, 7):
        conformal.update(torch.arange(start, min(start + 7, 1000.0))[:, None, None, None])
    kept = torch.cat(conformal.scores).flatten()
    assert conformal.every == 16 and torch.equal(kept, torch.arange(0, 1000, 16.0))


def test_a_tracker_judges_a_step_when_its_truth_is_known_and_not_before() -> None:
    for every in (1, 2):
        tracker, growth = Tracker(torch.ones(4, 1, 1), (0.9,), every), []
        for i in range(6):
            tracker.push(torch.full((4, 1, 1), 2.0 if i == 0 else torch.nan))  # only the first window is known, outside
            growth.append(tracker.growth[:, 0, 0].clone())
        wider = math.exp(0.9 * min(1.5 * every / 4, 0.5))
        for i, each in enumerate(growth, 1):  # at window i, `every` * i rows later
            known = torch.arange(1, 5) <= every * i
            torch.testing.assert_close(each, torch.where(known, wider, 1.0))


@pytest.mark.parametrize("change", [0.2, 5.0])
def test_intervals_follow_a_series_that_changes(change: float) -> None:
    """Errors five times smaller or larger than in validation, after which the intervals hold what they promise."""
    metric, growth = Coverage((0.8,)), calibrated(torch.randn(300, 3, 2, 1).abs(), (0.8,))
    scores = change * torch.randn(3000, 3, 2, 1).abs()
    metric.update(scores, torch.ones_like(scores), torch.arange(3000), None, growth)
    found = metric.compute()
    assert found["coverage_80"].item() == pytest.approx(0.8, abs=0.02)
    assert found["coverage_80_by_step"].shape == (3,) and found["coverage_80_by_series"].shape == (2,)
    torch.testing.assert_close(found["coverage_80_by_series"], torch.full((2,), 0.8), atol=0.02, rtol=0)


def test_the_order_in_which_windows_of_a_panel_come_changes_nothing() -> None:
    growth, scores = torch.rand(2, 3, 1) + 1, 2 * torch.rand(90, 2, 1, 1)
    series, origins = torch.arange(90) % 3, torch.arange(90)
    found = []
    for order in (torch.arange(90), torch.randperm(90)):
        metric = Coverage((0.8,))
        metric.update(scores[order], scores[order] + 1, origins[order], series[order], growth)
        found.append(metric.compute())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_shapes_order_and_median(data: TimeSeriesData) -> None:
    head = quantile_head(data)
    batch = data.windows["test"][torch.arange(5)]
    output = answer(head, batch)
    assert output.shape == (5, 12, 3, 3) and (output.diff(dim=-1) >= 0).all()
    assert torch.equal(head.point(output), output[..., 1])
    metrics = head.metrics()
    head.update(metrics, output, batch)
    missed = (output[..., 1] - head.scaled(batch.target, batch)).abs().mean()
    torch.testing.assert_close(metrics.compute()["mae"].double(), missed)


def test_without_quantiles_an_interval_surrounds_the_point(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = data.windows["train"][torch.arange(99)]
    output = answer(head, batch)
    assert head.interval(output, batch)[0].isnan().all()  # nothing calibrated it yet
    head.collect(output, batch)
    head.calibrate()
    head.growth *= 1 + 1e-6  # the window that sets a bound lies on it, give or take a rounding
    lower, upper = head.interval(output, batch)
    torch.testing.assert_close(upper[..., 0] - output, output - lower[..., 0])
    truth = head.scaled(batch.target, batch)
    inside = (lower[..., 0] <= truth) & (truth <= upper[..., 0])
    assert (inside.sum(0) == 90).all()  # ceil(100 * 0.9) of 99, at every step and variable


def test_calibration_repairs_quantiles_that_are_wrong(data: TimeSeriesData) -> None:
    head = quantile_head(data)
    batch = data.windows["train"][torch.arange(99)]
    output = answer(head, batch)  # untrained
    head.collect(output, batch)
    head.calibrate()
    head.growth *= 1 + 1e-6
    lower, upper = head.interval(output, batch)
    truth = head.scaled(batch.target, batch)[..., None]
    assert (((lower <= truth) & (truth <= upper)).sum(0) == 90).all()
    metrics = head.metrics("test")
    head.update(metrics, output, batch)
    score = metrics.compute()
    assert score["crps"].item() == pytest.approx(crps(output, truth[..., 0], head.levels).mean().item())
    table = head.table(output, batch)
    assert {"q0.05", "q0.5", "q0.95", "lower_90", "upper_90"} <= set(table)
    inside = (table.lower_90 <= table.truth) & (table.truth <= table.upper_90)
    assert inside.mean() == pytest.approx(90 / 99) and (table["q0.5"] == table.prediction).all()


@pytest.mark.parametrize("quantiles", [(), LEVELS])
def test_lower_is_below_the_point_and_upper_above_whatever_was_calibrated(tmp_path: Path, quantiles: tuple) -> None:
    """A noisy train part, a smooth validation and a quiet test: what was too wide may not turn inside out."""
    random, hours = np.random.default_rng(0), np.arange(600)
    noise = np.select([hours < 420, hours < 480], [8.0, 0.1], 0.3) * random.normal(size=600)
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=600, freq="h")})
    table.assign(y=50 + 5 * np.sin(hours / 4) * (hours < 480) + noise).to_csv(tmp_path / "quiet.csv", index=False)
    data = TimeSeriesData(file=str(tmp_path / "quiet.csv"), look_back=24, horizon=6, batch_size=64)
    data.setup()
    head = ForecastHead(8, 1, 6, look_back=24, quantiles=quantiles)
    head.fit_to(data)
    head.eval()
    for batch in data.val_dataloader():
        head.collect(answer(head, batch), batch)
    head.calibrate()
    data.predict = "test"
    head.check(data)
    tables = pd.concat([head.predict(lambda batch: answer(head, batch), batch) for batch in data.predict_dataloader()])
    assert (tables.lower_90 <= tables.prediction).all() and (tables.prediction <= tables.upper_90).all()
    width = tables.upper_90 - tables.lower_90
    assert (width > 0).all() and width.tail(60).mean() < 0.5 * width.head(60).mean()  # it has seen how quiet it is


def test_an_interval_of_a_higher_level_holds_one_of_a_lower(data: TimeSeriesData) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, intervals=(0.5, 0.9))
    head.fit_to(data)
    head.growth[..., 0], head.growth[..., 1] = 2.0, torch.linspace(1, 3, 12)[:, None]
    batch = data.windows["test"][torch.arange(5)]
    lower, upper = head.interval(answer(head, batch), batch)
    assert (lower[..., 1] <= lower[..., 0]).all() and (upper[..., 0] <= upper[..., 1]).all()
    assert ((upper[:, -1, :, 1] - lower[:, -1, :, 1]) > 1.4 * (upper[:, -1, :, 0] - lower[:, -1, :, 0])).all()


def test_predictions_and_test_have_the_same_intervals(data: TimeSeriesData, head: ForecastHead) -> None:
    for batch in data.val_dataloader():
        head.collect(answer(head, batch), batch)
    head.calibrate()
    metrics = head.metrics("test")
    head.check(data)
    tables = []
    for batch in data.test_dataloader():
        head.update(metrics, answer(head, batch), batch)
        tables.append(head.predict(lambda batch: answer(head, batch), batch))
    table = pd.concat(tables)
    inside = table.truth.between(table.lower_90, table.upper_90)
    score = metrics.compute()
    assert score["coverage_90"].item() == pytest.approx(inside.mean(), abs=1e-5)
    by_step = inside.groupby(table.step).mean().to_numpy()
    np.testing.assert_allclose(score["coverage_90_by_step"], by_step, atol=1e-5)
    details = head.details({name: value for name, value in score.items() if value.ndim})
    assert details["coverage_90_by_series"].keys() == set(data.columns)


def test_a_forecast_of_the_future_has_learned_from_the_rows_since_validation(csv: Path, data: TimeSeriesData) -> None:
    head = ForecastHead(16, 3, 12, look_back=24)
    head.fit_to(data)
    head.growth.fill_(1.0)
    data.predict = "future"
    data.setup("predict")
    head.check(data)
    (batch,) = data.predict_dataloader()
    table = head.predict(lambda batch: answer(head, batch), batch)
    stays = head.table(answer(head, batch), batch)
    known = [batch for batch in data.recent_batches()]
    assert sum(len(batch.past) for batch in known) == 69
    tracker = Tracker(head.growth, (0.9,))
    for batch in known:
        for score in head.scores(answer(head, batch), batch).float():
            tracker.push(score)
    wider = ((table.upper_90 - table.lower_90) / (stays.upper_90 - stays.lower_90)).to_numpy().reshape(3, 12)
    np.testing.assert_allclose(wider, tracker.growth[..., 0].T, rtol=1e-4)


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
        metrics = head.metrics("test")
        for batch in source.test_dataloader():
            head.update(metrics, answer(head, batch), batch)
        scores.append(metrics.compute())
    for name, value in scores[0].items():
        torch.testing.assert_close(scores[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


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
    below = (head.scaled(batch.target, batch)[..., None] <= output).float().mean((0, 1, 2))
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
