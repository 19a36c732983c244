"""Probabilities that mean what they say: temperature and thresholds, from validation."""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import precision_recall_curve
from torch import Tensor
from torch.nn import functional as F

BINS = 15  # of probability, of the expected calibration error
HOTTEST = 20.0  # and coldest 1/20: where a validation is all right or all wrong, no temperature is best


def tempered(log_p: Tensor, temperature: float) -> Tensor:
    """Probabilities [B, classes] of log-probabilities, made flatter by a temperature above 1."""
    return F.softmax(log_p.clamp(min=-1e4) / temperature, -1)


def best_temperature(output: Tensor, targets: Tensor) -> float:
    """The temperature at which targets are likeliest; 1 where none is known.

    Args:
        output: log-probabilities [N, classes], or log-odds [N, labels].
        targets: classes [N], or float [N, labels], NaN where unknown.
    """
    output, targets = output.double().cpu(), targets.cpu()
    if not (targets == targets).any():  # nothing is likelier than anything else
        return 1.0

    def nats(log_temperature: float) -> float:
        scaled = output.clamp(min=-1e4) / math.exp(log_temperature)
        if targets.is_floating_point():
            known = targets == targets
            return float(F.binary_cross_entropy_with_logits(scaled[known], targets[known].double()))
        return float(F.cross_entropy(scaled, targets))

    limit = math.log(HOTTEST)
    return math.exp(minimize_scalar(nats, bounds=(-limit, limit), method="bounded").x)


def best_thresholds(p: Tensor, targets: Tensor) -> list[float]:
    """The threshold of each label [N, labels] at which its F1 is best; 0.5 where it is always or never true.

    It lies halfway between two probabilities of the validation: on one of them rounding would decide, which another
    batch changes.
    """
    found = []
    for column, truth in zip(p.cpu().numpy().T, targets.cpu().numpy().T, strict=True):
        known = truth == truth
        if len(np.unique(truth[known])) < 2:
            found.append(0.5)
            continue
        precision, recall, thresholds = precision_recall_curve(truth[known], column[known])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        lowest = int(f1[:-1].argmax())  # of those that are said to have the label
        below = thresholds[lowest - 1] if lowest else 0.0
        found.append(float(thresholds[lowest] + below) / 2)
    return found


def bins(sure: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of right answers and rows of each bin that has any."""
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    kept = rows > 0
    means = [np.bincount(place, values, minlength=BINS)[kept] / rows[kept] for values in (sure, right)]
    return *means, rows[kept]


def expected_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Mean gap between probability and share of right answers over the bins, weighed by their rows."""
    p, share, rows = bins(sure, right)
    return float((np.abs(p - share) * rows).sum() / rows.sum())
