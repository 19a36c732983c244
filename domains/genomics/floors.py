"""What labels and values can be guessed by without looking at the order of the bases."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import MaxAbsScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from domains.genomics.bases import Sequences
from domains.genomics.metrics import value_scores
from domains.genomics.report import ROWS, frequencies

Part = tuple[Sequences, np.ndarray]  # sequences and their labels or values, NaN where unknown


def target_floors(train: Part, val: Part, test: Part, seed: int = 0) -> dict[str, dict[str, float]]:
    """Scores on `test` of what is common in train, of a tree that sees the length only, and of k-mer frequencies.

    As the floors of classes, at most 20,000 train rows, but with one regularisation for all; means over the columns.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train[1]))[:ROWS])
    train = (train[0].select(torch.from_numpy(chosen)), train[1][chosen])
    known = train[1] == train[1]
    yes_no = bool(np.isin(train[1][known], (0, 1)).all())
    k = 5 if train[0].lengths.median() <= 2000 else 4
    scaler = MaxAbsScaler().fit(frequencies(train[0], k, False))
    lengths = [part[0].lengths.numpy()[:, None] for part in (train, test)]
    counts = [scaler.transform(frequencies(part[0], k, False)) for part in (train, test)]
    constant = [np.zeros((len(part[1]), 1)) for part in (train, test)]
    tree, linear = (
        (DecisionTreeClassifier(max_depth=12, min_samples_leaf=5, random_state=seed), LogisticRegression(max_iter=300))
        if yes_no
        else (DecisionTreeRegressor(max_depth=12, min_samples_leaf=5, random_state=seed), Ridge())
    )
    found = {"common": (tree, constant), "length only": (tree, lengths), "k-mers, linear": (linear, counts)}
    return {name: _scores(model, *inputs, train[1], test[1], yes_no) for name, (model, inputs) in found.items()}


def _scores(
    model: object, x: np.ndarray, asked: np.ndarray, targets: np.ndarray, truths: np.ndarray, yes_no: bool
) -> dict[str, float]:
    """Means over the columns of which both parts know enough."""
    rows = []
    for target, truth in zip(targets.T, truths.T, strict=True):
        known, told = target == target, truth == truth
        model.fit(x[known], target[known])
        if not yes_no:
            rows.append(value_scores(model.predict(asked[told]), truth[told]))
        elif len(np.unique(truth[told])) == 2:
            p = model.predict_proba(asked[told])[:, 1]
            rows.append([roc_auc_score(truth[told], p), average_precision_score(truth[told], p)])
    names = ("auroc", "auprc") if yes_no else ("pearson", "spearman", "mse", "mae")
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True)) if rows else dict.fromkeys(names, float("nan"))
