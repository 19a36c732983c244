"""Pretraining: what is read and asked for, that nothing sees the future, floors, and what a classifier takes over."""

import gzip
import json
import math
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from app.door import main
from app.module import TitansModule
from app.tokens import IGNORE, TokenBatch
from app.windows import Step
from domains.genomics import GenomeData, NextBaseHead
from domains.genomics.bases import N, Sequences, decode
from domains.genomics.genome import BaseWindows, bases_in, held_out, split_at_n, tokens_of
from domains.genomics.markov import counts, markov_floors
from domains.genomics.sample import sample_genome
from memory import BackboneConfig, MemoryConfig
from tests.domains.text.test_batches import record, recorded

CONF = Path(__file__).parents[3] / "conf"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
SMALL = ["--model.backbone.dim=16", "--model.backbone.variant=mag", "--model.backbone.window=8"]
PRETRAIN = ["--config", str(CONF / "genomics_pretrain.yaml"), *SMALL, *QUIET, "--data.length=64", "--data.batch_size=8"]
CLASSIFY = ["--config", str(CONF / "genomics_sample.yaml"), *SMALL, *QUIET, "--data.floors=false"]


def texts(lengths: list[int], seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("ACGT"), length)).encode() for length in lengths]


def complemented(text: str) -> str:
    return text.translate(str.maketrans("ACGTN", "TGCAN"))[::-1]


def in_training(windows: BaseWindows, epoch: int, rows: list[int] | None = None) -> TokenBatch:
    rows = list(range(len(windows))) if rows is None else rows
    return windows[Step(torch.tensor(rows), epoch)]


def read_back(batch: TokenBatch, row: int) -> str:
    """The bases of a row that are asked for; what is asked must be what follows."""
    asked = batch.targets[row] != IGNORE
    following = batch.inputs[row, 1:][asked[:-1]]
    assert torch.equal(following, batch.targets[row, :-1][asked[:-1]])
    return decode(batch.targets[row][asked])


def test_a_packed_fasta_becomes_stretches_of_bases(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "x.fa.gz"
    with gzip.open(path, "wt") as file:
        file.write(f">a one\nACGTacgt\n{'N' * 30}GGNR\nTT\n>b\n{'n' * 9}cuA\n>c\nNNN\n")
    data = GenomeData(train=str(path), val=str(path), max_n_run=8)
    data.setup("fit")
    tokens = data.tokens["train"]
    assert decode(torch.from_numpy(tokens.ids)) == "NACGTACGTNGGNNTTNCTAN"
    assert tokens.starts.tolist() == [0, 9, 16] and bases_in(tokens) == 17
    assert data.holds["train"]["n_dropped"] == 42 and data.holds["train"]["n_not_predicted"] == 2
    line = capsys.readouterr().out.splitlines()[0]
    assert line == (
        "train: 3 records of 59 bases, read as 3 stretches; 42 N dropped, 2 N read but not predicted; "
        "15 lower-case letters read as upper-case, 1 U read as T, 1 ambiguous letters (RYSWKMBDHV) read as N"
    )
    assert data.provenance()["test_part"] == "val"


def test_only_the_train_rows_of_a_table_are_trained_on(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("sequence,label,split\nACGT,a,train\nGGGG,a,test\nCCAA,b,dev\nTTTA,b,train\n")
    data = GenomeData(train=str(tmp_path / "x.csv"), test=str(tmp_path / "x.csv"), val_share=0.25)
    data.setup()
    held = [decode(torch.from_numpy(data.tokens[part].ids)) for part in ("train", "val", "test")]
    assert sorted(held[0].replace("N", "") + held[1].replace("N", "")) == sorted("ACGTTTTA") and held[2] == "NGGGGN"
    assert data.holds["train"]["records"] == 2 and data.provenance()["test_part"] == "test"
    (tmp_path / "y.csv").write_text("sequence,split\nACGT,test\n")
    with pytest.raises(ValueError, match="y.csv: is data.train, but its split column names no train row"):
        GenomeData(train=str(tmp_path / "y.csv")).setup()


def test_runs_of_n_are_cut_out_within_records_only() -> None:
    sequences = Sequences.of([b"NNNNACNN", b"NNNNGTNNN", b"NNN", b"ACGT"])
    cut = split_at_n(sequences, 3)
    assert [decode(cut[i]) for i in range(len(cut))] == ["ACNN", "GTNNN", "ACGT"]
    cut = split_at_n(sequences, 1)
    assert [decode(cut[i]) for i in range(len(cut))] == ["AC", "GT", "ACGT"]
    assert len(split_at_n(sequences, 99)) == 3  # NNN is never read


@pytest.mark.parametrize("lengths", [[100], [1, 5, 70, 24], [10] * 10])
def test_a_share_of_the_bases_is_held_out(lengths: list[int]) -> None:
    found = Sequences.of(texts(lengths))
    train, val = held_out(found, 0.1, 3)
    assert int(train.lengths.sum()) == 90 and int(val.lengths.sum()) == 10 and val.lengths.min() > 0
    whole = {decode(found[i]) for i in range(len(found))}
    pieces = [decode(part[i]) for part in (train, val) for i in range(len(part))]
    assert len(whole ^ set(pieces)) in (0, 3)  # one stretch in two pieces at most
    assert all(any(piece in text for text in whole) for piece in pieces)


@pytest.mark.parametrize("length", [1, 7, 8, 40])
def test_evaluation_asks_for_every_base_once_and_none_across_records(length: int) -> None:
    records = texts([1, 7, 23, 16])
    windows = BaseWindows(tokens_of(Sequences.of(records), "x"), length, 1, False)
    batch = windows[torch.arange(len(windows))]
    assert "".join(read_back(batch, row) for row in range(len(windows))) == b"".join(records).decode()
    for row, start in enumerate(windows.starts):  # a record is asked for from its own first base on
        assert (batch.inputs[row, 0] == N) == (start in windows.tokens.starts)
        assert (batch.inputs[row, 1:][batch.targets[row, 1:] != IGNORE] != N).all()


def test_both_strands_of_every_window_are_read_in_two_epochs() -> None:
    records = texts([5, 40, 21]) + [b"ACGNNTTG"]
    windows = BaseWindows(tokens_of(Sequences.of(records), "x"), 16, 2, True)
    whole = [text.decode() for text in records]
    seen = []
    for epoch in (0, 1):
        batch = in_training(windows, epoch)
        rows = [read_back(batch, row) for row in range(len(windows))]
        for row, text in enumerate(rows):
            other = (row + epoch) % 2 == 1
            # N is never asked for, so what is read of the last record has none
            assert any(text in (complemented(t) if other else t).replace("N", "") for t in whole)
        seen.append(rows)
    for a, b in zip(*seen, strict=True):
        assert a != b and abs(len(a) - len(b)) <= 1  # a window's first base is asked for on one strand only
    first = in_training(windows, 1, [0])  # a whole record: its other strand is asked from its first base on
    assert first.inputs[0, 0] == N and read_back(first, 0) == complemented(whole[0])
    plain = BaseWindows(windows.tokens, 16, 1, True)
    assert torch.equal(in_training(plain, 0).inputs, in_training(plain, 1).inputs)


def pretrainer(variant: str = "lmm", dim: int = 16, **options: object) -> TitansModule:
    torch.manual_seed(1)
    memory = MemoryConfig(heads=2, chunk=4)
    config = BackboneConfig(variant, dim, 2, heads=2, window=6, segment=8, memory=memory)
    return TitansModule(NextBaseHead(dim, **options), config)


OPTIONS = [{}, {"conv_layers": 0}, {"conv_layers": 3, "conv_width": 5}, {"stride": 4}, {"stride": 3, "conv_width": 1}]
CASES = [("lmm", options) for options in OPTIONS]
CASES += [(variant, {"stride": 3}) for variant in ("mac", "mag", "mal", "attention", "swa")]


@pytest.mark.parametrize(("variant", "options"), CASES, ids=str)
@torch.no_grad()
def test_no_prediction_sees_what_it_is_asked_for(variant: str, options: dict) -> None:
    """Through stem, strides and strands: a later base changes no earlier answer, and the base before one does."""
    module = pretrainer(variant, **options).double().eval()
    windows = BaseWindows(tokens_of(Sequences.of(texts([60, 50])), "x"), 35, 2, True)
    batch = in_training(windows, 0)
    stride = options.get("stride", 1)
    before = module(batch)
    assert before.shape == (*batch.targets.shape, 4)
    for place in (0, 1, 7, 12, 30, 34):
        inputs = batch.inputs.clone()
        inputs[:, place] = (inputs[:, place] + 1) % 4
        changed = (module(TokenBatch(inputs, batch.targets)) - before).abs().amax((0, 2))
        first = -(-place // stride) * stride  # the first answer of a token that may know the base
        assert (changed[:first] < 1e-12).all()
        if first < len(changed):
            assert changed[first] > 1e-9


def test_the_loss_counts_known_bases_only() -> None:
    module = pretrainer()
    batch = TokenBatch(torch.tensor([[N, 0, 1, 2]]), torch.tensor([[0, 1, 2, IGNORE]]))
    output = module(batch)
    expected = torch.nn.functional.cross_entropy(output[0, :3], batch.targets[0, :3])
    torch.testing.assert_close(module.head.loss(output, batch), expected)
    nothing = TokenBatch(batch.inputs, torch.full((1, 4), IGNORE))
    assert module.head.loss(module(nothing), nothing) == 0


def test_training_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pretrainer("mac")
    module.log = lambda *_, **__: None
    batch = in_training(BaseWindows(tokens_of(Sequences.of(texts([60])), "x"), 20, 2, True), 0)

    def synced(*_: object) -> None:
        raise AssertionError("a tensor was read on the host")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, synced)
    module.training_step(batch, 0).backward()


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_markov_chain_counts_what_a_loop_counts(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domains.genomics.markov.PIECE", 7)
    ids = tokens_of(Sequences.of([*texts([20, 3, 17]), b"ACNNGT"]), "x").ids
    expected = np.zeros((5**order, 4), int)
    letters = "".join("ACGTN"[i] for i in ids)
    for place in range(1, len(ids)):
        if letters[place] != "N":
            known = letters[:place].rpartition("N")[2]
            context = ("N" * order + known)[len(known) :]  # the last `order` of them, N for those that lack
            number = 0
            for letter in reversed(context):
                number = number * 5 + "ACGTN".index(letter)
            expected[number, "ACGT".index(letters[place])] += 1
    assert (counts(ids, order) == expected).all() and expected.sum() == 44


def test_floors_are_the_entropies_of_known_sources() -> None:
    random = np.random.default_rng(0)
    even, other = (np.concatenate([[N], random.integers(0, 4, 50_000)]).astype(np.uint8) for _ in range(2))
    turning = np.concatenate([[N], np.arange(20_000) % 4]).astype(np.uint8)
    nats = [floor["nats"] for floor in markov_floors(even, other).values()]
    assert nats[:2] == pytest.approx([math.log(4)] * 2, abs=0.01) and nats[2] > math.log(4)  # learnt by heart
    floors = list(markov_floors(turning, turning).values())
    assert floors[0]["nats"] == pytest.approx(math.log(4), abs=1e-3) and floors[0]["accuracy"] == pytest.approx(0.25)
    assert floors[1]["nats"] < 1e-2 and floors[1]["accuracy"] == pytest.approx(1, abs=1e-3)
    assert floors[1]["perplexity"] == pytest.approx(math.exp(floors[1]["nats"]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder to work in, with a small FASTA."""
    monkeypatch.chdir(tmp_path)
    records = sample_genome(12, 500, seed=4)
    (tmp_path / "x.fa").write_text("".join(f">r{i}\n{text.decode()}\n" for i, text in enumerate(records)))
    return tmp_path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("pretrained")
    with chdir(folder):
        main(["fit", *PRETRAIN, "--trainer.max_steps=2", "--trainer.val_check_interval=2"])
    return folder / "runs/genomics_pretrain/version_0/checkpoints/last.ckpt"


def test_a_killed_run_goes_on_with_the_very_next_window(folder: Path) -> None:
    """In the second epoch of 10 batches, which reads the other strands."""
    steps = ["--trainer.max_steps=16", "--trainer.val_check_interval=6", "--trainer.limit_val_batches=1"]
    options = [*PRETRAIN, "--data.source=file", "--data.train=x.fa", *steps]
    straight = main(["fit", *options, record("straight")])
    assert straight.trainer.num_training_batches == 10
    with pytest.raises(SystemExit):
        main(["fit", *options, record("killed", stop=14)])
    resumed = main(["fit", *options, record("resumed"), "--ckpt=last"])
    read = recorded("resumed")
    assert list(read) == [13, 14, 15, 16]
    assert all(torch.equal(bases, recorded("straight")[step]) for step, bases in read.items())
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_generated_records_are_learnt_below_the_floor_of_single_bases(folder: Path) -> None:
    many = [*PRETRAIN, "--data.batch_size=32"]
    options = ["--trainer.max_steps=30", "--trainer.val_check_interval=30", "--model.optim.lr=2e-2"]
    main(["fit", *many, *options])
    tested = main(["test", *many])
    results = json.loads(Path("runs/genomics_pretrain/version_0/results.json").read_text())
    scores, floors = results["metrics"], results["data"]["floors"]
    assert scores["test/nats"] < floors["Markov chain of order 0"]["nats"] - 0.05
    assert scores["test/accuracy"] > floors["Markov chain of order 0"]["accuracy"] + 0.03
    assert results["data"]["data"] == "sample"

    windows, module = tested.datamodule.windows["val"], tested.model.eval()
    batch = windows[torch.arange(len(windows))]
    with torch.no_grad():
        output = module(batch)
    asked = batch.targets != IGNORE
    nats = torch.nn.functional.cross_entropy(output[asked], batch.targets[asked])
    right = (output[asked].argmax(-1) == batch.targets[asked]).float().mean()
    assert asked.sum() == results["data"]["val_bases"] == 12_000
    assert scores["test/nats"] == pytest.approx(nats.item(), rel=1e-5)
    assert scores["test/perplexity"] == pytest.approx(math.exp(nats.item()), rel=1e-5)
    assert scores["test/accuracy"] == pytest.approx(right.item(), rel=1e-5)

    main(["predict", *many])
    table = pd.read_csv("runs/genomics_pretrain/version_0/predictions.csv")
    assert table.bases.sum() == 12_000
    assert (table.bases * table.nats).sum() / 12_000 == pytest.approx(nats.item(), rel=1e-4)


def test_a_classifier_starts_from_pretrained_weights_and_stands_alone(folder: Path, pretrained: Path) -> None:
    shutil.copy(pretrained, "start.ckpt")
    before = torch.load("start.ckpt")["state_dict"]
    options = ["--model.init_from=start.ckpt", "--trainer.limit_val_batches=2", "--trainer.val_check_interval=3"]
    started = main(["fit", *CLASSIFY, *options, "--model.optim.lr=1e-30", "--trainer.max_steps=3"])
    shared = {name for name in before if name.startswith(("backbone.", "head.stem."))}
    after = started.model.state_dict()
    assert shared == {name for name in after if name.startswith(("backbone.", "head.stem."))}
    assert all(torch.equal(after[name], before[name]) for name in shared)
    assert "head.out.weight" in after and after["head.out.weight"].shape != before["head.out.weight"].shape
    module = started.model.train()
    batch = next(iter(started.datamodule.train_dataloader()))
    module.head.loss(module(batch), batch).backward()
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad and parameter.grad.abs().sum() > 0, name

    Path("start.ckpt").unlink()
    checkpoint = "runs/genomics_sample/version_0/checkpoints/last.ckpt"
    main(["test", *QUIET, f"--ckpt={checkpoint}", "--trainer.limit_test_batches=1"])
    resumed = main(["fit", *CLASSIFY, *options, f"--ckpt={checkpoint}", "--trainer.max_steps=4"])
    assert resumed.trainer.global_step == 4


def test_a_pair_of_configs_takes_files_of_ones_own(tmp_path: Path) -> None:
    """Both as they stand: where files come in, no size has to be said."""
    for name, seed in (("genome", 0), ("bound", 1), ("free", 2)):
        records = (f">{name}{row}\n{text.decode()}\n" for row, text in enumerate(texts([80] * 20, seed)))
        (tmp_path / f"{name}.fa").write_text("".join(records))
    short = [*QUIET, "--data.source=file", "--trainer.max_steps=1", "--trainer.limit_val_batches=1"]
    with chdir(tmp_path):
        main(["fit", "--config", str(CONF / "genomics_pretrain.yaml"), *short, "--data.train=genome.fa"])
        start = "--model.init_from=runs/genomics_pretrain/version_0/checkpoints/last.ckpt"
        files = ["--data.train=[bound.fa,free.fa]", "--data.floors=false"]
        main(["fit", "--config", str(CONF / "genomics_sample.yaml"), *short, *files, start])
        assert Path("runs/genomics_sample/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--model.backbone.dim=32"], "backbone.dim is 16 there and 32 here"),
        (["--model.backbone.variant=swa"], "backbone.variant is mag there and swa here"),
        (["--model.backbone.memory.norm=false"], "backbone.memory.norm is True there and False here"),
        (["--model.head.stride=4"], "head.stride is 1 there and 4 here"),
        (
            ["--model.head.conv_width=5", "--model.backbone.layers=2"],
            "backbone.layers is 1 there and 2 here; head.conv_width is 9 there and 5 here",
        ),
    ],
    ids=lambda given: str(given)[:24],
)
def test_weights_that_do_not_fit_are_one_line(
    given: list[str], line: str, pretrained: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *CLASSIFY, f"--model.init_from={pretrained}", *given])
    assert stop.value.code == 2
    expected = f"error: model.init_from {pretrained} does not fit: {line}; give both the same"
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_weights_of_another_alphabet_or_domain_are_one_line(
    folder: Path, pretrained: Path, capsys: pytest.CaptureFixture
) -> None:
    def refused(path: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["fit", *CLASSIFY, f"--model.init_from={path}"])
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    checkpoint = torch.load(pretrained)
    checkpoint["hyper_parameters"]["head"]["init_args"]["input_size"] = 6
    torch.save(checkpoint, "letters.ckpt")
    assert refused("letters.ckpt").endswith("does not fit: head.input_size is 6 there and 5 here; give both the same")
    checkpoint["head"] = "domains.text.head.LanguageHead"
    torch.save(checkpoint, "text.ckpt")
    assert "holds a domains.text.head.LanguageHead, the config wants a domains.genomics.head" in refused("text.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give files in data.train"),
        ({"source": "sample", "val": "x.fa"}, "data.source is sample, which reads no files"),
        ({"train": "x.fa", "length": 0}, "must be at least 1"),
        ({"train": "x.fa", "val_share": 1}, "val_share must lie between 0 and 1"),
    ],
)
def test_wrong_settings_of_genomes_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenomeData(**options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nMKVLE\n", "x.fa: sequence 'a', place 4: 'L' is no nucleotide .*looks like protein"),
        (">a\nNNNN\n", "data.train x.fa: holds no base but N"),
        (">a\nACG\n", "x.fa: too few bases to hold some out; give data.val"),
        ("", "x.fa: holds no sequence"),
    ],
)
def test_files_that_are_no_dna_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.fa").write_text(text)
    with pytest.raises(ValueError, match=message):
        GenomeData(train=str(tmp_path / "x.fa")).setup()


def test_a_part_without_bases_is_named(tmp_path: Path) -> None:
    for name, text in (("x.fa", ">a\nACGTACGTACGT\n"), ("y.fa", ">a\nNNNN\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="data.test y.fa: holds no base but N"):
        GenomeData(train=str(tmp_path / "x.fa"), val=str(tmp_path / "x.fa"), test=str(tmp_path / "y.fa")).setup()
