"""The head alone: shapes, scaling, what travels in a checkpoint, and the table of a forecast."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.reader import Content
from domains.timeseries.rolling import roll
from domains.timeseries.series import Series
from domains.timeseries.windows import Batch
from memory import BackboneConfig, MemoryConfig, TitansBackbone

Write = Callable[[Series], Path]


def first_batch(data: TimeSeriesData) -> tuple:
    return next(iter(data.test_dataloader()))


@pytest.mark.parametrize(("patch", "stride", "tokens"), [(1, 1, 24), (16, 8, 3), (8, 8, 3), (5, 5, 5), (24, 24, 1)])
@pytest.mark.parametrize("instance_norm", [True, False])
def test_tokens_and_forecast_have_their_shapes(
    data: TimeSeriesData, patch: int, stride: int, tokens: int, instance_norm: bool
) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, patch=patch, stride=stride, instance_norm=instance_norm)
    head.fit_to(data)
    batch = first_batch(data)
    hidden, mask = head.embed(batch)
    assert hidden.shape == (len(batch[0]) * 3, tokens, 8) and mask is None
    assert head.readout(hidden, batch).shape == batch[1].shape


def test_patches_cover_every_row(data: TimeSeriesData) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, patch=7, stride=5)
    batch = first_batch(data)
    past = batch.past.clone().requires_grad_()
    head.embed(batch._replace(past=past))[0].square().sum().backward()
    assert (past.grad != 0).all()


@pytest.mark.parametrize(("patch", "stride"), [(2, 3), (25, 1), (1, 0)])
def test_patches_with_holes_are_refused(patch: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride <= patch <= look_back"):
        ForecastHead(8, 3, 12, look_back=24, patch=patch, stride=stride)


def test_variables_do_not_mix(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = first_batch(data)
    changed = batch.past.clone()
    changed[:, :, 1] += 5 * torch.randn_like(changed[:, :, 1])
    batches = batch, batch._replace(past=changed)
    forecasts = [head.readout(head.embed(each)[0], each) for each in batches]
    assert torch.equal(forecasts[0][..., [0, 2]], forecasts[1][..., [0, 2]])
    assert not torch.equal(forecasts[0][..., 1], forecasts[1][..., 1])


def test_instance_norm_moves_the_forecast_with_the_window(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = first_batch(data)
    moved = batch._replace(past=3 * batch.past + 7)
    one, other = (head.restored(head.readout(head.embed(each)[0], each), each) for each in (batch, moved))
    torch.testing.assert_close(other, 3 * one + 7, rtol=1e-3, atol=1e-2)


def test_constant_windows_and_variables_stay_finite(write: Write, series: Series) -> None:
    series.values[:, 1] = 0.1
    data = TimeSeriesData(file=str(write(series)), look_back=24, horizon=12)
    data.setup()
    head = ForecastHead(8, 3, 12, look_back=24)
    head.fit_to(data)
    assert head.std[1] == 1
    batch = first_batch(data)
    tokens, _ = head.embed(batch)
    loss = head.loss(head.readout(tokens, batch), batch)
    loss.backward()
    assert loss.isfinite() and head.into.weight.grad.isfinite().all()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_no_metric(csv: Path, head: ForecastHead, batch_size: int) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=batch_size)
    data.setup()
    metrics, errors = head.metrics(), []
    with torch.no_grad():
        for batch in data.test_dataloader():
            output = head.readout(head.embed(batch)[0], batch)
            head.update(metrics, output, batch)
        everything = data.windows["test"][torch.arange(69)]
        errors = head.readout(head.embed(everything)[0], everything) - (everything.target - head.mean) / head.std
    score = metrics.compute()
    assert score["mse"].item() == pytest.approx(errors.square().mean().item(), rel=1e-5)
    assert score["mae"].item() == pytest.approx(errors.abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_a_perfect_forecast_costs_nothing(data: TimeSeriesData, loss: str) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, loss=loss)
    head.fit_to(data)
    batch = first_batch(data)
    truth = (batch[1] - head.mean) / head.std
    assert head.loss(truth, batch) == 0 and head.loss(truth + 1, batch) > 0


def test_a_checkpoint_alone_is_enough(tmp_path: Path, data: TimeSeriesData, head: ForecastHead) -> None:
    torch.save(head.state_dict(), tmp_path / "head.pt")
    loaded = ForecastHead(dim=16, input_size=3, output_size=12, look_back=24)
    loaded.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    assert (loaded.columns, loaded.freq) == (data.series.columns, "h")
    batch = first_batch(data)
    pd.testing.assert_frame_equal(
        head.table(head.readout(head.embed(batch)[0], batch), batch),
        loaded.table(loaded.readout(loaded.embed(batch)[0], batch), batch),
    )


def test_other_columns_than_the_checkpoints_are_refused(write: Write, series: Series, head: ForecastHead) -> None:
    head.check(TimeSeriesData(file=str(write(series)), look_back=24, horizon=12))
    for columns, message in (
        (["series_0", "load", "series_2"], r"missing \['series_1'\], unknown \['load'\]"),
        (["series_1", "series_0", "series_2"], "order is"),
    ):
        other = Series(series.values, columns, series.stamps, "h")
        data = TimeSeriesData(file=str(write(other)), look_back=24, horizon=12)
        data.setup()
        with pytest.raises(ValueError, match=message):
            head.check(data)


def test_another_frequency_than_the_checkpoints_is_refused(write: Write, series: Series, head: ForecastHead) -> None:
    daily = Series(series.values, series.columns, 24 * series.stamps, "D")
    data = TimeSeriesData(file=str(write(daily)), look_back=24, horizon=12)
    data.setup()
    with pytest.raises(ValueError, match="rows come every 'D', the checkpoint's every 'h'; resample"):
        head.check(data)


def test_a_table_row_holds_its_own_truth(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = first_batch(data)
    truth = (batch[1] - head.mean) / head.std
    table = head.table(truth, batch)
    assert len(table) == batch[1].numel()
    np.testing.assert_allclose(table.prediction, table.truth, rtol=1e-4, atol=1e-4)
    source = pd.DataFrame(data.series.values, data.series.stamps.astype("datetime64[ns]"), data.series.columns)
    for row in table.sample(20, random_state=0).itertuples():
        assert row.truth == source.loc[row.stamp, row.series]
        assert row.stamp - row.origin == pd.Timedelta(hours=row.step)


def test_the_future_begins_where_the_file_ends(csv: Path, head: ForecastHead) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, predict="future")
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    table = head.table(head.readout(head.embed(batch)[0], batch), batch)
    end = pd.Timestamp(data.series.stamps[-1])
    assert (table.origin == end).all() and table.truth.isna().all() and table.prediction.notna().all()
    assert list(table.stamp[:12]) == list(pd.date_range(end, periods=13, freq="h")[1:])
    np.testing.assert_array_equal(batch[0][0], data.series.values[-24:])


def test_future_stamps_follow_the_calendar(write: Write, series: Series) -> None:
    stamps = pd.date_range("1990-01-31", periods=400, freq="ME").as_unit("ns").asi8
    monthly = Series(series.values, series.columns, stamps, "ME")
    path = write(monthly)
    data = TimeSeriesData(file=str(path), look_back=24, horizon=12, predict="future")
    data.setup("fit")
    head = ForecastHead(8, 3, 12, look_back=24)
    head.fit_to(data)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    table = head.table(head.readout(head.embed(batch)[0], batch), batch)
    assert list(table.stamp[:3]) == list(pd.to_datetime(["2023-05-31", "2023-06-30", "2023-07-31"]))


def test_the_picture_shows_three_variables(data: TimeSeriesData, head: ForecastHead) -> None:
    batch = first_batch(data)
    head.growth.fill_(0.5)
    (figure,) = head.pictures(head.readout(head.embed(batch)[0], batch).detach(), batch).values()
    assert [axis.get_ylabel() for axis in figure.axes] == data.series.columns
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "90 %"
    figure.canvas.draw()


@pytest.mark.parametrize("channel_mixing", ["einfft", "swiglu", "none"])
def test_a_tiny_forecaster_learns_its_windows_by_heart(data: TimeSeriesData, channel_mixing: str) -> None:
    torch.manual_seed(0)
    head = ForecastHead(16, 3, 12, look_back=24, patch=4, stride=4, channel_mixing=channel_mixing)
    head.fit_to(data)
    backbone = TitansBackbone(
        BackboneConfig(dim=16, layers=1, heads=2, memory=MemoryConfig(heads=2)), head.feed_forward
    )
    batch = data.windows["train"][torch.arange(0, 40, 10)]
    parameters = [*head.parameters(), *backbone.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(80):
        loss = head.loss(head.readout(backbone(head.embed(batch)[0])[0], batch), batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    assert loss < 0.02


def test_past_the_trained_horizon_forecasts_are_fed_back(csv: Path, data: TimeSeriesData) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, cycle=24)
    head.fit_to(data)
    head.growth.zero_()
    head.cycle.course.data.normal_()
    head.eval()

    def model(batch: tuple) -> torch.Tensor:
        return head.readout(head.embed(batch)[0], batch)

    longer = TimeSeriesData(file=str(csv), look_back=24, horizon=12, predict="future", predict_rows=30)
    longer.setup("predict")
    with pytest.warns(
        UserWarning, match="trained to forecast 12 rows: those from 13 to 30 are forecast from forecasts"
    ):
        head.check(longer)
    (batch,) = longer.predict_dataloader()
    with torch.no_grad():
        table = head.predict(model, batch)
        nearest = batch._replace(target=batch.target[:, :12])
        first = head.table(model(nearest), nearest)
    assert len(table) == 3 * 30 and table.prediction.notna().all()
    trained = table[table.step <= 12].reset_index(drop=True)
    pd.testing.assert_frame_equal(trained.drop(columns="rolled"), first)
    later = table[table.step > 12]
    assert later.rolled.all() and not trained.rolled.any()
    assert later[["lower_90", "upper_90"]].isna().all(axis=None)
    # as if the file had ended with its own first forecast
    values = trained.prediction.to_numpy().reshape(3, 12).T
    stamps = data.series.stamps[-1] + 3_600_000_000_000 * np.arange(1, 13)
    longest = Series(
        np.concatenate([data.series.values, values]),
        data.series.columns,
        np.concatenate([data.series.stamps, stamps]),
        "h",
    )
    after = TimeSeriesData(file=str(csv), look_back=24, horizon=12, predict="future")
    after.content = Content([longest], False, [])
    after.setup("predict")
    with torch.no_grad():
        second = head.predict(model, next(iter(after.predict_dataloader())))
    expected = table[(table.step > 12) & (table.step <= 24)].prediction
    np.testing.assert_allclose(second.prediction, expected, rtol=1e-4, atol=1e-3)


def test_quantiles_past_the_trained_horizon_are_those_of_sample_paths(data: TimeSeriesData) -> None:
    """A head whose quantiles are those of a step to the left and right makes a random walk of blocks."""
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    head = ForecastHead(8, 3, 12, look_back=24, quantiles=levels, intervals=())
    head.fit_to(data)
    steps = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)

    def model(batch: Batch) -> torch.Tensor:
        last = head.scaled(batch.past[:, -1:], batch)
        return (last.expand(-1, 12, -1)[..., None] + steps).expand(-1, -1, -1, 5)

    batch = data.windows["test"][torch.arange(2)]
    longer = batch._replace(target=batch.target.new_full((2, 60, 3), torch.nan))
    output = roll(head, model, longer) - head.scaled(batch.past[:, -1:], batch)[..., None]
    assert output.shape == (2, 60, 3, 5) and torch.equal(
        output, roll(head, model, longer) - head.scaled(batch.past[:, -1:], batch)[..., None]
    )
    blocks = output[:, ::12].mean((0, 2))  # [blocks, levels], alike in all windows and series
    assert (output.diff(dim=-1) >= 0).all() and blocks[:, 2].abs().max() < 0.2
    spread = blocks[:, 4] - blocks[:, 0]
    assert spread[0] == 4 and (spread.diff() > 0).all()
    # the sum of n steps spreads as the root of n
    assert spread[4] / spread[1] == pytest.approx((5 / 2) ** 0.5, rel=0.15)


def test_what_cannot_be_negative_is_not_forecast_so(write: Write, series: Series) -> None:
    series.values[:] = np.maximum(series.values - 10, 0)
    data = TimeSeriesData(file=str(write(series)), look_back=24, horizon=12)
    data.setup()
    head = ForecastHead(8, 3, 12, look_back=24, quantiles=(0.05, 0.5, 0.95), non_negative=True)
    head.fit_to(data)
    head.growth.fill_(3)
    head.eval()
    batch = first_batch(data)
    table = head.predict(lambda batch: head.readout(head.embed(batch)[0], batch), batch)
    assert (table[["prediction", "q0.05", "lower_90"]] >= 0).all(axis=None) and (table["lower_90"] == 0).any()
    assert (table.lower_90 <= table.prediction).all() and (table.prediction <= table.upper_90).all()
    assert head.train().readout(head.embed(batch)[0], batch).min() < head._zero(batch).min()  # gradients reach all
    series.values[3, 1] = -1
    data = TimeSeriesData(file=str(write(series)), look_back=24, horizon=12)
    data.setup()
    with pytest.raises(ValueError, match="head.non_negative is true, but 'series_1' holds -1; drop the key"):
        head.fit_to(data)


def test_calendar_marks_roll_forward_with_the_forecast(csv: Path) -> None:
    """Two rolls see the marks of their own rows: moving the origin by the horizon gives the second the same."""
    options = {"file": str(csv), "look_back": 24, "horizon": 12, "marks": ["hour"], "predict": "test"}
    data = TimeSeriesData(**options)
    data.setup()
    head = ForecastHead(8, 3, 12, look_back=24, future_size=data.future_size)
    head.fit_to(data)
    torch.nn.init.normal_(head.covariates.ahead.weight)
    seen = []

    def model(batch: tuple) -> torch.Tensor:
        seen.append(batch.covariates.future)
        return head.readout(head.embed(batch)[0], batch)

    data.predicted = 20
    data.setup("predict")
    batch = data.windows["test"][torch.tensor([0])]
    assert len(head.predict(model, batch)) == 3 * 20
    later = data.windows["test"][torch.tensor([12])].covariates.future
    torch.testing.assert_close(seen[0], batch.covariates.future[:, :36])
    torch.testing.assert_close(seen[1][:, :32], later[:, :32])  # what follows is past the 20th row


def test_a_shorter_horizon_is_cut(data: TimeSeriesData, head: ForecastHead) -> None:
    def forecasts() -> pd.DataFrame:
        batch = data.windows["test"][torch.arange(4)]
        return head.predict(lambda batch: head.readout(head.embed(batch)[0], batch), batch)

    whole = forecasts()
    data.predicted = 5
    data.setup("predict")
    shorter = forecasts()
    assert len(shorter) == 4 * 3 * 5 and "rolled" not in shorter
    pd.testing.assert_frame_equal(shorter, whole[whole.step <= 5].reset_index(drop=True))
    with pytest.raises(ValueError, match="data.predict_rows is 0; it must be from 1"):
        TimeSeriesData(predict_rows=0)
