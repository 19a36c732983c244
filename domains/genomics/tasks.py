"""What is asked of a sequence: one class of several, several labels at once, or numbers."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from domains.genomics.calibration import best_temperature, best_thresholds, expected_error, tempered
from domains.genomics.figures import NAMED, confusion_figure, curves_figure, reliability_figure, values_figure
from domains.genomics.metrics import AUPRC, AUROC, MCC, Answers, LabelScores, ValueScores

TaskName = Literal["classes", "labels", "values"]
Weights = Literal["none", "balanced"]


class Task(ABC):
    """How scores of the last layer become an answer, a loss, metrics and columns.

    Args:
        count: classes, labels or values.
        weights: `balanced` weighs rows so that every class (or a label's yes and no) counts alike in the loss.
        focal: exponent of 1 - p, the probability of the truth, by which easy rows count less; 0 is cross-entropy.
    """

    monitor: str  # metric that picks the best checkpoint; more is better

    def __init__(self, count: int, weights: Weights = "none", focal: float = 0.0) -> None:
        self.names = [str(i) for i in range(count)]
        self.balanced, self.focal = weights == "balanced", focal
        self.state: dict[str, Any] = {}  # what a checkpoint carries beside the names, as plain values

    def tensor(self, key: str, like: Tensor) -> Tensor:
        """A part of the state where `like` is."""
        return torch.tensor(self.state[key], device=like.device, dtype=like.dtype)

    @abstractmethod
    def fit_to(self, targets: Tensor) -> None:
        """Take from the train targets what the loss needs."""

    @abstractmethod
    def merge(self, scores: Tensor) -> Tensor:
        """The answer [B, count] of the scores [V, B, count] of V strands."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Scalar, the mean over what `scored` counts."""

    @abstractmethod
    def scored(self, targets: Tensor) -> Tensor | int:
        """Rows, or their weights, that the loss is the mean of."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh ones."""

    @abstractmethod
    def update(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """Count a batch."""

    @abstractmethod
    def calibrate(self, output: Tensor, targets: Tensor) -> None:
        """Take from the answers of a whole validation what predictions need."""

    @abstractmethod
    def columns(self, output: Tensor) -> dict[str, Any]:
        """Of a table of predictions."""

    @abstractmethod
    def truth(self, targets: Tensor) -> dict[str, Any]:
        """Columns of the truth."""

    @abstractmethod
    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """What results.json holds of the metrics that are no scalar."""

    @abstractmethod
    def figures(self, values: dict[str, Tensor]) -> dict[str, Figure]:
        """Pictures of them, by tag."""

    @abstractmethod
    def strength(self, output: Tensor, index: int) -> Tensor:
        """What `explain` explains of an answer, [B]: log-odds of a class or label, or a value."""


class Classes(Task):
    """One class of several. An output is log-probabilities [B, classes], a target a number."""

    monitor = "mcc"

    def __init__(self, count: int, weights: Weights = "none", focal: float = 0.0) -> None:
        super().__init__(count, weights, focal)
        self.state = {"temperature": 1.0, "weights": [1.0] * count}

    def fit_to(self, targets: Tensor) -> None:
        """Weights of the classes."""
        if self.balanced:
            counts = targets.bincount(minlength=len(self.names)).clamp(min=1)
            self.state["weights"] = (len(targets) / (len(counts) * counts)).tolist()

    def merge(self, scores: Tensor) -> Tensor:
        """Log of the mean probability over the strands."""
        return F.log_softmax(scores, -1).logsumexp(0) - math.log(len(scores))

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, weighted and focal where asked."""
        weights = self.tensor("weights", output) if self.balanced else None
        if not self.focal:
            return F.nll_loss(output, targets, weights)
        nats = F.nll_loss(output, targets, weights, reduction="none")
        sure = output.gather(1, targets[:, None])[:, 0].exp()
        return ((1 - sure) ** self.focal * nats).sum() / self.scored(targets)

    def scored(self, targets: Tensor) -> Tensor | int:
        """Rows, each with its class's weight."""
        if not self.balanced:
            return len(targets)
        return torch.tensor(self.state["weights"], device=targets.device)[targets].sum()

    def metrics(self) -> MetricCollection:
        """Accuracy, MCC, macro-F1, AUROC and AUPRC (means over the classes that occur), and the confusion matrix, rows
        are true; all answers, of not too many classes.
        """
        count = len(self.names)
        answers = {"answers": Answers()} if count <= NAMED else {}
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "mcc": MCC(count),
                "macro_f1": MulticlassF1Score(count, average="macro"),
                "auroc": AUROC(count, average=None),
                "auprc": AUPRC(count, average=None),
                "confusion": MulticlassConfusionMatrix(count),
                **answers,
            }
        )

    def update(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """Probabilities as they come: what calibration changes is shown beside them."""
        metrics.update(output.exp(), targets)

    def calibrate(self, output: Tensor, targets: Tensor) -> None:
        """The temperature at which the validation is likeliest."""
        self.state["temperature"] = best_temperature(output, targets)

    def columns(self, output: Tensor) -> dict[str, Any]:
        """class and p_CLASS, calibrated."""
        p = tempered(output.float(), self.state["temperature"]).cpu()
        found = {"class": [self.names[i] for i in p.argmax(1).tolist()]}
        return found | {f"p_{name}": p[:, i].numpy() for i, name in enumerate(self.names)}

    def truth(self, targets: Tensor) -> dict[str, Any]:
        """truth, by name."""
        return {"truth": [self.names[i] for i in targets.tolist()]}

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """Confusion matrix; per class rows, precision, recall, F1; expected calibration errors."""
        matrix = values["confusion"].double().cpu()
        right, actual, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        rows = zip(
            self.names,
            actual.tolist(),
            (right / said.clamp(min=1)).tolist(),
            (right / actual.clamp(min=1)).tolist(),
            (2 * right / (actual + said).clamp(min=1)).tolist(),
            strict=True,
        )
        table = {name: {"rows": int(n), "precision": p, "recall": r, "f1": f} for name, n, p, r, f in rows}
        found = {"classes": table, "confusion": matrix.long().tolist()}
        if "answers" in values:
            raw, calibrated, truth = self._answers(values)
            found["calibration"] = {
                "temperature": self.state["temperature"],
                "expected_error": expected_error(*_sure(calibrated, truth)),
                "expected_error_uncalibrated": expected_error(*_sure(raw, truth)),
            }
        return found

    def figures(self, values: dict[str, Tensor]) -> dict[str, Figure]:
        """Confusion matrix, ROC and precision-recall curves of each class against the others, reliability."""
        found = {"confusion": confusion_figure(values["confusion"].cpu(), self.names)}
        if "answers" in values:
            raw, calibrated, truth = self._answers(values)
            one_hot = (truth[:, None] == np.arange(len(self.names))).astype(float)
            found["curves"] = curves_figure(calibrated, one_hot, self.names)
            found["reliability"] = reliability_figure(
                {"as trained": _sure(raw, truth), "calibrated": _sure(calibrated, truth)}
            )
        return found

    def _answers(self, values: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities before and after calibration, and true classes."""
        p, truth = values["answers"][:, :-1].cpu(), values["answers"][:, -1].cpu()
        return p.numpy(), tempered(p.log(), self.state["temperature"]).numpy(), truth.long().numpy()

    def strength(self, output: Tensor, index: int) -> Tensor:
        """Log-odds of a class."""
        return output[:, index] - torch.cat([output[:, :index], output[:, index + 1 :]], 1).logsumexp(1)


def _sure(p: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the class that was said, and whether it was right."""
    return p.max(1), (p.argmax(1) == truth).astype(float)


class Labels(Task):
    """Several labels, each yes (1), no (0) or unknown (NaN). An output is log-odds [B, labels]."""

    monitor = "auroc"

    def __init__(self, count: int, weights: Weights = "none", focal: float = 0.0) -> None:
        super().__init__(count, weights, focal)
        self.state = {"temperature": 1.0, "thresholds": [0.5] * count, "weights": [1.0] * count}

    def fit_to(self, targets: Tensor) -> None:
        """What a yes counts of each label."""
        if self.balanced:
            yes, no = (targets == 1).sum(0), (targets == 0).sum(0)
            self.state["weights"] = (no.clamp(min=1) / yes.clamp(min=1)).tolist()

    def merge(self, scores: Tensor) -> Tensor:
        """Log-odds of the mean probability over the strands."""
        return F.logsigmoid(scores).logsumexp(0) - F.logsigmoid(-scores).logsumexp(0)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of the labels that are known, weighted and focal where asked."""
        known = targets == targets
        truth = targets.nan_to_num().to(output.dtype)
        yes = self.tensor("weights", output)
        nats = F.binary_cross_entropy_with_logits(output, truth, pos_weight=yes, reduction="none")
        if self.focal:
            sure = torch.where(truth == 1, output, -output).sigmoid()
            nats = (1 - sure) ** self.focal * nats
        return (nats * known).sum() / known.sum().clamp(min=1)

    def scored(self, targets: Tensor) -> Tensor | int:
        """Labels that are known."""
        return (targets == targets).sum()

    def metrics(self) -> MetricCollection:
        """AUROC, AUPRC, MCC, F1 and accuracy, means over the labels that have both answers."""
        return MetricCollection([LabelScores()])

    def update(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """Probabilities, what the thresholds say, and the truth."""
        p = (output.float() / self.state["temperature"]).sigmoid()
        metrics.update(p, (p >= self.tensor("thresholds", p)).float(), targets)

    def calibrate(self, output: Tensor, targets: Tensor) -> None:
        """Temperature, then the threshold of each label at which its F1 is best."""
        self.state["temperature"] = best_temperature(output, targets)
        p = (output / self.state["temperature"]).sigmoid()
        self.state["thresholds"] = best_thresholds(p, targets)

    def columns(self, output: Tensor) -> dict[str, Any]:
        """p_LABEL, calibrated, and is_LABEL by the label's threshold."""
        p = (output.float() / self.state["temperature"]).sigmoid().cpu()
        said = (p >= self.tensor("thresholds", p)).int()
        found = {f"p_{name}": p[:, i].numpy() for i, name in enumerate(self.names)}
        return found | {f"is_{name}": said[:, i].numpy() for i, name in enumerate(self.names)}

    def truth(self, targets: Tensor) -> dict[str, Any]:
        """truth_LABEL."""
        return {f"truth_{name}": targets[:, i].cpu().numpy() for i, name in enumerate(self.names)}

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """Scores and threshold of each label, the temperature."""
        table = {name: dict(zip(LabelScores.names, row, strict=True))
                 for name, row in zip(self.names, values["by_label"].tolist(), strict=True)}  # fmt: skip
        for name, threshold in zip(self.names, self.state["thresholds"], strict=True):
            table[name]["threshold"] = threshold
        return {"labels": table, "temperature": self.state["temperature"]}

    def figures(self, values: dict[str, Tensor]) -> dict[str, Figure]:
        """ROC and precision-recall curves, reliability."""
        p, truth = (part.numpy() for part in values["answers"].cpu().unbind(-1))
        known = truth == truth
        return {
            "curves": curves_figure(p, truth, self.names),
            "reliability": reliability_figure({"calibrated": (p[known], truth[known])}),
        }

    def strength(self, output: Tensor, index: int) -> Tensor:
        """Log-odds of a label."""
        return output[:, index]


class Values(Task):
    """Numbers, NaN where unknown. An output is [B, values] in units of the train part's spread about its mean."""

    monitor = "pearson"

    def __init__(self, count: int, weights: Weights = "none", focal: float = 0.0) -> None:
        if weights != "none" or focal:
            raise ValueError(
                "model.head.class_weights and focal are of classes and labels; leave them out where data.task is values"
            )
        super().__init__(count)
        self.state = {"mean": [0.0] * count, "spread": [1.0] * count}

    def fit_to(self, targets: Tensor) -> None:
        """Mean and spread of each value."""
        targets = targets.double()
        mean = targets.nanmean(0)
        self.state = {"mean": mean.tolist(), "spread": (targets - mean).square().nanmean(0).sqrt().tolist()}

    def merge(self, scores: Tensor) -> Tensor:
        """The mean over the strands."""
        return scores.mean(0)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Squared error of the values that are known, in units of their spread."""
        known = targets == targets
        wanted = (targets.to(output.dtype) - self.tensor("mean", output)) / self.tensor("spread", output)
        return ((output - wanted).masked_fill(~known, 0).square()).sum() / known.sum().clamp(min=1)

    def scored(self, targets: Tensor) -> Tensor | int:
        """Values that are known."""
        return (targets == targets).sum()

    def metrics(self) -> MetricCollection:
        """Pearson, Spearman, MSE and MAE, means over the values."""
        return MetricCollection([ValueScores()])

    def update(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """In the file's units."""
        metrics.update(self._units(output), targets)

    def calibrate(self, output: Tensor, targets: Tensor) -> None:
        """Nothing: a value is no probability."""

    def _units(self, output: Tensor) -> Tensor:
        output = output.float()
        return output * self.tensor("spread", output) + self.tensor("mean", output)

    def columns(self, output: Tensor) -> dict[str, Any]:
        """value_NAME, in the file's units."""
        found = self._units(output).cpu().numpy()
        return {f"value_{name}": found[:, i] for i, name in enumerate(self.names)}

    def truth(self, targets: Tensor) -> dict[str, Any]:
        """truth_NAME."""
        return {f"truth_{name}": targets[:, i].cpu().numpy() for i, name in enumerate(self.names)}

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """Scores of each value."""
        rows = zip(self.names, values["by_value"].tolist(), strict=True)
        return {"values": {name: dict(zip(ValueScores.names, row, strict=True)) for name, row in rows}}

    def figures(self, values: dict[str, Tensor]) -> dict[str, Figure]:
        """Predicted against true."""
        return {"values": values_figure(*(part.cpu().numpy() for part in values["answers"].unbind(-1)), self.names)}

    def strength(self, output: Tensor, index: int) -> Tensor:
        """The value."""
        return self._units(output)[:, index]


TASKS: dict[str, type[Task]] = {"classes": Classes, "labels": Labels, "values": Values}
