"""Metrics of classes, labels and values; what is unknown counts for nothing."""

import warnings

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, roc_auc_score
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAUROC, MulticlassAveragePrecision, MulticlassMatthewsCorrCoef
from torchmetrics.utilities import dim_zero_cat


class OverPresent:
    """Takes the mean of a metric over the classes that have rows, and others beside them."""

    def compute(self) -> Tensor:
        rows = dim_zero_cat(self.target).bincount(minlength=self.num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the classes that are left out
            return super().compute()[(rows > 0) & (rows < rows.sum())].mean()


class AUROC(OverPresent, MulticlassAUROC):
    """Area under the ROC curve, for which torchmetrics counts 0 where a class has no row."""


class AUPRC(OverPresent, MulticlassAveragePrecision):
    """Area under the precision-recall curve."""


class MCC(MulticlassMatthewsCorrCoef):
    """Matthews correlation, a float also where all rows are answered alike and torchmetrics gives a whole 0."""

    def compute(self) -> Tensor:
        return super().compute().float()


class Gathered(Metric):
    """Keeps every answer and its target, of all devices."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("answers", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, answers: Tensor, targets: Tensor) -> None:
        """Keep a batch."""
        self.answers.append(answers.detach())
        self.targets.append(targets)

    def compute(self) -> tuple[Tensor, Tensor]:
        """All answers and targets."""
        return dim_zero_cat(self.answers), dim_zero_cat(self.targets)


class Answers(Gathered):
    """Every answer [N, classes] and behind it its class, [N, classes + 1]."""

    def compute(self) -> Tensor:
        """All of them."""
        answers, targets = super().compute()
        return torch.cat([answers.float(), targets[:, None].float()], 1)


class LabelScores(Gathered):
    """Scores of several labels; their means leave out labels that are always or never true."""

    names = ("auroc", "auprc", "mcc", "f1", "accuracy")

    def __init__(self) -> None:
        super().__init__()
        self.add_state("said", [], dist_reduce_fx="cat")

    def update(self, p: Tensor, said: Tensor, targets: Tensor) -> None:
        """Probabilities, decisions and truths (NaN: unknown), [B, labels] each."""
        super().update(p, targets)
        self.said.append(said)

    def compute(self) -> dict[str, Tensor]:
        """Means by name, `by_label` [labels, 5] and `answers` [N, labels, 2]."""
        p, truth = super().compute()
        said = dim_zero_cat(self.said).cpu().numpy()
        columns = zip(p.nan_to_num(0.5).cpu().numpy().T, said.T, truth.cpu().numpy().T, strict=True)
        rows = [_label_scores(*column) for column in columns]
        return _means(self.names, rows, p.device) | {
            "by_label": torch.tensor(rows, device=p.device),
            "answers": torch.stack([p, truth], -1),
        }


def _label_scores(p: np.ndarray, said: np.ndarray, truth: np.ndarray) -> list[float]:
    known = truth == truth
    p, said, truth = p[known], said[known], truth[known]
    if len(np.unique(truth)) < 2:
        return [np.nan] * len(LabelScores.names)
    areas = [roc_auc_score(truth, p), average_precision_score(truth, p)]
    decided = [matthews_corrcoef(truth, said), f1_score(truth, said, zero_division=0), (said == truth).mean()]
    return [float(score) for score in areas + decided]


class ValueScores(Gathered):
    """Scores of several values."""

    names = ("pearson", "spearman", "mse", "mae")

    def compute(self) -> dict[str, Tensor]:
        """Means by name, `by_value` [values, 4] and `answers` [N, values, 2]."""
        found, truth = super().compute()
        columns = zip(found.nan_to_num().cpu().numpy().T, truth.cpu().numpy().T, strict=True)
        rows = [value_scores(*column) for column in columns]
        return _means(self.names, rows, found.device) | {
            "by_value": torch.tensor(rows, device=found.device),
            "answers": torch.stack([found, truth.to(found.dtype)], -1),
        }


def value_scores(found: np.ndarray, truth: np.ndarray) -> list[float]:
    """Pearson, Spearman (0 where nothing varies), MSE and MAE of the rows whose truth is known."""
    known = truth == truth
    found, truth = found[known].astype(np.float64), truth[known].astype(np.float64)
    varies = len(found) > 1 and np.ptp(found) > 0 and np.ptp(truth) > 0
    related = [float(pearsonr(found, truth)[0]), float(spearmanr(found, truth)[0])] if varies else [0.0, 0.0]
    return [*related, float(np.mean((found - truth) ** 2)), float(np.mean(np.abs(found - truth)))]


def _means(names: tuple[str, ...], rows: list[list[float]], device: torch.device) -> dict[str, Tensor]:
    means = torch.tensor(rows, device=device).nanmean(0).nan_to_num()
    return dict(zip(names, means, strict=True))
