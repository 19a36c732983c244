"""What is picked and drawn after a test."""

import torch

from domains.timeseries.drawing import error_figure, picks


def test_best_median_and_worst_are_picked() -> None:
    errors = torch.tensor([3.0, 1.0, torch.nan, 5.0, 4.0, 2.0])[:, None] * torch.ones(4)
    errors[0, 0] = torch.nan  # one step unknown: the others count
    assert picks(errors) == {"best": 1, "median": 0, "worst": 3}
    assert picks(torch.full((2, 4), torch.nan)) == {}


def test_the_error_is_drawn_by_step() -> None:
    errors = torch.rand(50, 7)
    errors[0] = torch.nan
    figure = error_figure(errors)
    torch.testing.assert_close(torch.tensor(figure.axes[0].lines[0].get_ydata()), errors[1:].mean(0))
