"""Classes, labels and values: losses, calibration, metrics, and the way from a table to a prediction."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch.nn import functional as F

from app.door import main as app
from domains.genomics import GenomicsData, SequenceHead
from domains.genomics.calibration import best_temperature, best_thresholds, expected_error
from domains.genomics.metrics import value_scores
from domains.genomics.readers import Layout
from domains.genomics.tasks import Classes, Labels, Values

CONFIG = str(Path(__file__).parents[3] / "conf" / "genomics_sample.yaml")
NAN = math.nan


def test_plain_classes_are_cross_entropy_to_the_bit() -> None:
    task, scores, targets = Classes(3), torch.randn(1, 20, 3), torch.randint(3, (20,))
    output = task.merge(scores)
    assert torch.equal(task.loss(output, targets), F.nll_loss(F.log_softmax(scores[0], -1), targets))
    assert task.scored(targets) == 20


def test_balanced_classes_count_alike() -> None:
    """A loss of one class does not change when its rows are doubled."""
    targets = torch.tensor([0] * 8 + [1] * 2)
    output = F.log_softmax(torch.randn(10, 2), -1)
    task = Classes(2, "balanced")
    task.fit_to(targets)
    parts = [-output[targets == i, i].mean() for i in (0, 1)]
    torch.testing.assert_close(task.loss(output, targets), (parts[0] + parts[1]) / 2)
    focal = Classes(2, "balanced", 2.0)
    focal.fit_to(targets)
    parts = [-((1 - output[targets == i, i].exp()) ** 2 * output[targets == i, i]).mean() for i in (0, 1)]
    torch.testing.assert_close(focal.loss(output, targets), (parts[0] + parts[1]) / 2)


def test_unknown_labels_count_for_nothing() -> None:
    output, targets = torch.randn(4, 2), torch.tensor([[1, 0], [NAN, 1], [0, NAN], [NAN, NAN]])
    known = targets == targets
    for task in (Labels(2), Labels(2, focal=2.0), Labels(2, "balanced")):
        task.fit_to(targets)
        losses = [task.loss(torch.where(known, output, other), targets) for other in (-5.0, 7.0)]
        assert torch.equal(*losses) and losses[0].isfinite() and task.scored(targets) == 4
    plain = F.binary_cross_entropy_with_logits(output[known], targets[known])
    torch.testing.assert_close(Labels(2).loss(output, targets), plain)
    assert Labels(2).loss(output, torch.full((4, 2), NAN)) == 0


def test_a_balanced_label_lets_yes_and_no_count_alike() -> None:
    task, targets, output = Labels(1, "balanced"), torch.tensor([[1.0]] + [[0.0]] * 4), torch.randn(5, 1)
    task.fit_to(targets)
    nats = F.binary_cross_entropy_with_logits(output, targets, reduction="none")
    torch.testing.assert_close(task.loss(output, targets), (4 * nats[0, 0] + nats[1:].sum()) / 5)


def test_strands_are_averaged_as_probabilities() -> None:
    scores = 3 * torch.randn(2, 5, 3)
    torch.testing.assert_close(Labels(3).merge(scores).sigmoid(), scores.sigmoid().mean(0))
    torch.testing.assert_close(Classes(3).merge(scores).exp(), scores.softmax(-1).mean(0))
    torch.testing.assert_close(Values(3).merge(scores), scores.mean(0))


def test_values_are_learnt_in_units_of_their_spread_and_told_in_their_own() -> None:
    task, targets = Values(2), torch.tensor([[1e4, 1.0], [3e4, NAN], [NAN, 3.0]])
    task.fit_to(targets)
    right = torch.tensor([[-1.0, -1.0], [1.0, 9.0], [-7.0, 1.0]])
    assert task.loss(right, targets) == pytest.approx(0, abs=1e-6) and task.scored(targets) == 4
    task.names = ["a", "b"]
    np.testing.assert_allclose(task.columns(right)["value_a"][:2], [1e4, 3e4])
    with pytest.raises(ValueError, match="model.head.class_weights and focal are of classes and labels"):
        Values(2, focal=1.0)


@pytest.mark.parametrize("labels", [False, True])
def test_a_temperature_takes_too_much_certainty_back(labels: bool) -> None:
    random = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(4000, 3, generator=random)
    if labels:
        targets = torch.bernoulli(scores.sigmoid(), generator=random)
        targets[::7, 1] = NAN
    else:
        targets = torch.multinomial(scores.softmax(-1), 1, generator=random)[:, 0]
    assert best_temperature(scores if labels else F.log_softmax(scores, -1), targets) == pytest.approx(1, abs=0.1)
    sharp = 3 * scores
    assert best_temperature(sharp if labels else F.log_softmax(sharp, -1), targets) == pytest.approx(3, abs=0.3)
    if not labels:
        task = Classes(3)
        task.calibrate(F.log_softmax(sharp, -1), targets)
        p = np.stack([task.columns(F.log_softmax(sharp, -1))[f"p_{i}"] for i in range(3)], 1)
        right = (p.argmax(1) == targets.numpy()).astype(float)
        assert expected_error(p.max(1), right) < 0.03 < expected_error(sharp.softmax(-1).numpy().max(1), right)


def test_each_label_has_the_threshold_of_its_best_f1() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((300, 2)) < 0.1).astype(np.float32)
    p = np.clip(0.2 * random.random((300, 2)) + 0.1 * truth, 0, 1).astype(np.float32)
    truth[:5, 0] = NAN
    truth[:, 1] = 1
    thresholds = best_thresholds(torch.from_numpy(p), torch.from_numpy(truth))
    known = truth[:, 0] == truth[:, 0]
    reached = f1_score(truth[known, 0], p[known, 0] >= thresholds[0])
    assert reached >= max(f1_score(truth[known, 0], p[known, 0] >= t) for t in np.linspace(0, 0.3, 50))
    assert reached > f1_score(truth[known, 0], p[known, 0] >= 0.5) and thresholds[1] == 0.5
    assert abs(p[known, 0] - thresholds[0]).min() > 1e-6  # or rounding, which a batch changes, would decide


def test_metrics_of_labels_leave_out_what_is_unknown_or_always_the_same() -> None:
    random = np.random.default_rng(0)
    output, truth = torch.randn(60, 3), torch.from_numpy(random.integers(0, 2, (60, 3)).astype(np.float32))
    truth[::5, 0], truth[:, 2] = NAN, 0
    task = Labels(3)
    metrics = task.metrics()
    for rows in torch.arange(60).split(17):
        task.update(metrics, output[rows], truth[rows])
    values = metrics.compute()
    known = ~truth[:, 0].isnan()
    areas = [roc_auc_score(truth[known, 0], output[known, 0]), roc_auc_score(truth[:, 1], output[:, 1])]
    assert values["auroc"].item() == pytest.approx(np.mean(areas), abs=1e-6)
    assert values["by_label"].shape == (3, 5) and task.details(values)["labels"]["1"]["threshold"] == 0.5
    assert {*task.figures(values)} == {"curves", "reliability"}


def test_metrics_of_values() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=50)
    found = np.exp(truth)
    truth[3] = NAN
    pearson, spearman, mse, mae = value_scores(found, truth)
    kept = np.delete(np.arange(50), 3)
    assert spearman == pytest.approx(1) and pearson == pytest.approx(np.corrcoef(found[kept], truth[kept])[0, 1])
    assert mse == pytest.approx(np.mean((found - truth)[kept] ** 2)) and mae < mse
    assert value_scores(np.ones(50), truth)[:2] == [0, 0]


def table(rows: int = 90) -> pd.DataFrame:
    random = np.random.default_rng(0)
    yes = random.integers(0, 2, (rows, 2))
    texts = ["".join(random.choice(list("ACGT"), 40)) for _ in range(rows)]
    texts = [("TATAAAAGGC" * a)[:10] + text + ("AGATAAGGCT" * b)[:10] for text, (a, b) in zip(texts, yes, strict=True)]
    found = pd.DataFrame({"sequence": texts, "tata": yes[:, 0], "gata": yes[:, 1].astype(object)})
    found["activity"] = np.round(1000 + 5 * yes.sum(1) + random.normal(size=rows), 3)
    found.loc[::9, "gata"] = ""
    return found


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"task": "labels"}, {"gata": "maybe"}, "sequence 'row0', column 'gata': 'maybe' is not 1, 0 or nothing"),
        ({"task": "values"}, {"gata": "1,5"}, "column 'gata': '1,5' is not a number, such as 1.5"),
        ({"task": "values"}, {"gata": "1_5"}, "column 'gata': '1_5' is not a number, such as 1.5"),
        ({"task": "labels"}, {"gata": 1}, "'gata' is 1 in all rows of train; drop it from data.layout.label_cols"),
        ({"task": "values"}, {"gata": ""}, "'gata' is empty in all rows of train; drop it"),
        ({"task": "labels"}, {"gate": 1}, None),
        ({"task": "classes"}, {}, "data.layout.label_cols are of several labels or values; set data.task"),
    ],
)
def test_targets_that_say_nothing_are_refused(tmp_path: Path, options: dict, change: dict, message: str | None) -> None:
    table().assign(**change).to_csv(tmp_path / "x.csv", index=False)
    layout = Layout(label_cols=["tata", "gata"])

    def made() -> GenomicsData:
        data = GenomicsData(train=str(tmp_path / "x.csv"), layout=layout, floors=False, **options)
        data.setup()
        return data

    if message is None:
        assert made().report["train"]["labels"]["gata"][1] < made().report["train"]["rows"]
    else:
        with pytest.raises(ValueError, match=message):
            made()


def test_numbers_as_classes_get_the_cure(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "x.csv", index=False)
    data = GenomicsData(train=str(tmp_path / "x.csv"), layout=Layout(label_col="activity"), floors=False)
    with pytest.raises(ValueError, match="if these are numbers to be predicted, set data.task to values"):
        data.setup()


def test_one_column_of_values_may_have_empty_cells(tmp_path: Path) -> None:
    rows = table().assign(activity=[1e30, "", "NA", *range(87)])
    rows.to_csv(tmp_path / "x.csv", index=False)
    layout = Layout(label_col="activity")
    data = GenomicsData(train=str(tmp_path / "x.csv"), layout=layout, task="values", floors=False, val_share=0.5)
    data.setup()
    told = [data.parts[part].labels for part in ("train", "val")]
    assert sum(int(part.isnan().sum()) for part in told) == 2 and data.classes == ["activity"]
    spreads = [data.report[part]["values"]["activity"][1] for part in ("train", "val")]
    assert all(np.isfinite(spreads)) and max(spreads) > 1e29
    rows.assign(activity=2.5).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(ValueError, match="'activity' is 2.5 in all rows of train; name another column"):
        GenomicsData(train=str(tmp_path / "x.csv"), layout=layout, task="values", floors=False).setup()
    with pytest.raises(ValueError, match=r"no column 'label' among .*; set data.layout.label_cols to .*\[activity\]"):
        GenomicsData(train=str(tmp_path / "x.csv"), task="values", floors=False).setup()


def test_names_alone_are_a_checkpoint_of_before() -> None:
    head = SequenceHead(8, 2)
    head.set_extra_state({"classes": ["a", "b"]})
    assert head.classes == ["a", "b"] and head.task.state["temperature"] == 1
    again = SequenceHead(8, 2)
    again.set_extra_state(head.get_extra_state())
    assert again.task.state == head.task.state


@pytest.mark.parametrize(
    ("task", "columns", "metrics", "pictures"),
    [
        ("labels", ["tata", "gata"], {"auroc", "auprc", "mcc", "f1", "accuracy"}, ["curves", "reliability"]),
        ("values", ["activity"], {"pearson", "spearman", "mse", "mae"}, ["values"]),
    ],
)
def test_from_a_table_to_a_prediction(
    tmp_path: Path, task: str, columns: list[str], metrics: set[str], pictures: list[str]
) -> None:
    table(120).to_csv(tmp_path / "x.csv", index=False)
    options = ["--config", CONFIG, "--trainer.logger.save_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    options += ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--data.batch_size", "30"]
    options += ["--trainer.log_every_n_steps", "1", "--model.backbone.dim", "16", "--data.source", "file"]
    options += ["--data.train", str(tmp_path / "x.csv"), "--data.task", task, "--data.group", "none"]
    options += ["--data.layout.label_cols", f"[{','.join(columns)}]"]
    for command in ("fit", "test", "predict"):
        app([command, *options])
    run = tmp_path / "genomics_sample" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert {f"test/{name}" for name in metrics} == set(results["metrics"])
    assert set(results["details"][task]) == set(columns) and len(results["data"]["report"]["floors"]) == 3
    for name in pictures:
        assert (run / "pictures" / f"{name}.png").stat().st_size > 5000
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    files = ["--input", str(tmp_path / "x.csv"), "--output", str(tmp_path / "o.csv")]
    app(["predict", "--ckpt", checkpoint, *files, "--device", "cpu"])
    ours, theirs = pd.read_csv(tmp_path / "o.csv"), pd.read_csv(run / "predictions.csv")
    answers = [f"value_{name}" for name in columns]
    if task == "labels":
        answers = [f"p_{name}" for name in columns] + [f"is_{name}" for name in columns]
    assert list(ours) == ["id", "length", "n_fraction", "truncated", *answers]
    assert list(theirs) == [*ours, *(f"truth_{name}" for name in columns)]
    both = ours.merge(theirs, on="id", suffixes=("", "_theirs"))
    for name in answers:
        np.testing.assert_allclose(both[name], both[f"{name}_theirs"], rtol=1e-5, atol=1e-5)
    if task == "values":
        assert ours["value_activity"].between(980, 1030).all()


@pytest.mark.parametrize(
    ("task", "cells"),
    [("classes", "aa"), ("labels", "11"), ("labels", ("", "")), ("values", "22"), ("values", ("2", ""))],
)
def test_a_part_that_scores_nothing_is_warned_of(tmp_path: Path, task: str, cells: tuple[str, str]) -> None:
    """Its score was 0 in every epoch, and the first model was kept as the best, without a word."""
    known = ["a", "b"] if task == "classes" else ["0", "1"]
    rows = table()[:60].assign(label=known * 30, split="train")
    rows.loc[50:, "split"] = "val"
    for label, warned in (([*cells] * 5, True), (known * 5, False)):
        rows.loc[50:, "label"] = label
        rows[["sequence", "label", "split"]].to_csv(tmp_path / "x.csv", index=False)
        data = GenomicsData(train=str(tmp_path / "x.csv"), task=task, floors=False)
        with pytest.warns(UserWarning, match="known answers of val are all alike") if warned else nullcontext():
            data.setup()


def test_no_temperature_is_taken_of_nothing() -> None:
    assert best_temperature(torch.randn(4, 2), torch.full((4, 2), torch.nan)) == 1
