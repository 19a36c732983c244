"""Pictures of a test of forecasts: from best to worst, and the error by step."""

from typing import Any

import torch
from lightning import Trainer
from matplotlib.figure import Figure
from torch import Tensor

from app.callbacks import Pictures
from app.module import TitansModule
from domains.timeseries.windows import Batch


class DrawErrors(Pictures):
    """The best, the median and the worst forecast of a test, and the error by step over all of them."""

    def on_test_start(self, trainer: Trainer, module: TitansModule) -> None:
        self.errors: list[Tensor] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        module: TitansModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.errors.append(module.head.errors(outputs, batch))

    def on_test_epoch_end(self, trainer: Trainer, module: TitansModule) -> None:
        if not trainer.is_global_zero:
            return
        errors = torch.cat(self.errors)
        figures = {"error_by_step": error_figure(errors)}
        with trainer.precision_plugin.forward_context():
            for name, index in picks(errors).items():
                sample = trainer.test_dataloaders.dataset[torch.tensor([index])]
                sample = trainer.strategy.batch_to_device(sample)
                drawn = module.head.pictures(module(sample), sample)
                figures |= {f"{tag}_{name}": figure for tag, figure in drawn.items()}
        self.keep(trainer, figures)


def picks(errors: Tensor) -> dict[str, int]:
    """Indices of the best, the median and the worst sample by their mean errors, [samples, steps]; NaN is no error."""
    means = errors.nanmean(1)
    order = means.argsort()[: int(means.isfinite().sum())].tolist()  # NaN sorts behind every number
    return {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]} if order else {}


def error_figure(errors: Tensor) -> Figure:
    """Mean error of each step over all samples, and where eight samples of ten lie.

    Args:
        errors: [samples, steps].
    """
    errors = errors.float().cpu()
    figure = Figure(figsize=(7, 3.5), layout="constrained")  # no pyplot: nothing to close, no display
    axis, steps = figure.subplots(), range(1, errors.shape[1] + 1)
    thinned = errors[:: -(-errors.numel() // 2**23)]  # torch takes no more than 2^24 numbers
    low, high = (thinned.nanquantile(level, 0) for level in (0.1, 0.9))
    axis.fill_between(steps, low, high, color="tab:orange", alpha=0.2, label="10 to 90 % of samples")
    axis.plot(steps, errors.nanmean(0), color="tab:orange", label="mean")
    axis.set(xlabel="step", ylabel="error")
    axis.legend()
    return figure
