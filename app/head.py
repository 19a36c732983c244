"""What a domain adds to the shared model: the contract between `app` and `domains/NAME`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningDataModule
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, nn
from torchmetrics import MetricCollection

from memory import SwiGLU


class Head(nn.Module, ABC):
    """Both ends of a model: how a batch becomes tokens, and how hidden states become an answer, a loss and a score.

    A head is built with `dim`, the width of the backbone between its two ends. An abstract method has no answer which
    would be right for every domain: a head that lacks one cannot be built, and the error names it.

    On a GPU `embed`, `readout` and `loss` are recorded for batches whose layout comes again, see `app.graphs`: a number
    of the head's own that changes from one to the next must be a tensor, which is changed in place.
    """

    monitor: str  # name of the metric that picks the best checkpoint and stands on the progress bar
    mode: str = "min"  # whether a smaller or a larger `monitor` is better
    answers_untrained = False  # whether a model is of use before its first step, and so is validated there too
    # of heads whose checkpoints `model.init_from` may start this one from, by class: which parts it takes beside the
    # backbone
    starts_from: dict[str, tuple[str, ...]] = {}
    feed_forward: Callable[[int], nn.Module] = SwiGLU  # what follows the mixer in each block of the backbone

    def fit_to(self, data: LightningDataModule) -> None:
        """Take from the training data, before the first step, what a checkpoint must carry (a scaler, class names).

        Refuse, with a ValueError, data that the head's settings are not for.
        """

    def check(self, data: LightningDataModule) -> None:
        """Refuse, with a ValueError, data that differ from those the checkpoint was fitted to."""

    @abstractmethod
    def embed(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, T, dim], and a mask [B, T] that is False at padding (or None)."""

    @abstractmethod
    def readout(self, hidden: Tensor, batch: Any) -> Tensor:
        """The answer from the backbone's hidden states [B, T, dim]."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Scalar training loss, a mean over what `scored` counts."""

    @abstractmethod
    def scored(self, batch: Any) -> Tensor | int:
        """Of how many elements of a batch `loss` is the mean, by which devices with unequal numbers are weighed."""

    @abstractmethod
    def metrics(self, stage: str = "val") -> MetricCollection:
        """Fresh metrics that accumulate sums and counts over a stage, `val` or `test`."""

    @abstractmethod
    def update(self, metrics: MetricCollection, output: Tensor, batch: Any) -> None:
        """Count one batch into `metrics`."""

    def collect(self, output: Tensor, batch: Any) -> None:
        """Note of one validation batch what `calibrate` will need."""

    def calibrate(self) -> None:
        """Take from a validation's batches what a checkpoint must carry (widths of intervals), before it is written."""

    def pictures(self, output: Tensor, batch: Any) -> dict[str, Figure]:
        """Figures of the first samples of a validation batch, by tag."""
        return {}

    @abstractmethod
    def predict(self, model: Callable[[Any], Tensor], batch: Any) -> DataFrame:
        """Predictions of one batch as rows of a table; `model` answers a batch, and may be asked more than once."""

    def callbacks(self) -> list[Callback]:
        """What a domain adds to every run and test, such as pictures of its own; see `app.callbacks.Pictures`."""
        return []

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """What results.json tells of the test metrics that are no scalar (a confusion matrix), as plain values."""
        return {}
