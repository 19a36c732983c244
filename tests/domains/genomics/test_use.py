"""A checkpoint at work: sequences in pieces, prediction, embeddings, importance, from the first command to the last."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.door import main as app
from app.module import TitansModule, load_module
from app.runs import curves_folder
from app.tables import TableWriter
from domains.genomics.bases import Sequences, reverse_complement
from domains.genomics.data import Batch
from domains.genomics.explain import gradient, importance_table, mutagenesis
from domains.genomics.readers import Layout
from domains.genomics.stem import one_hot
from domains.genomics.stream import Reader, bases_of, stream_records

CONFIG = str(Path(__file__).parents[3] / "conf" / "genomics_sample.yaml")
Model = Callable[..., TitansModule]


def asking(verb: str, checkpoint: Path, sequences: Path, output: Path) -> list[str]:
    files = {"--ckpt": checkpoint, "--input": sequences, "--output": output, "--device": "cpu"}
    return [verb, *(str(word) for pair in files.items() for word in pair)]


def one(length: int, seed: int = 0) -> Sequences:
    codes = torch.randint(4, (length,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Sequences(codes, torch.tensor([0, length]))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "attention", "swa"])
@pytest.mark.parametrize(
    "options",
    [
        {"read": "strands", "stride": 3, "bins": 2, "reverse_complement": "average"},
        {"read": "directions", "pool": "attention", "reverse_complement": "average", "conv_width": 5},
        {"read": "forward", "stride": 2},
    ],
    ids=str,
)
def test_pieces_give_the_answer_of_the_whole(model: Model, variant: str, options: dict) -> None:
    module, sequence = model(variant, **options), one(101)
    whole, pieces = (Reader(module, torch.device("cpu"), size).read(sequence) for size in (200, 12))
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_what_is_kept_between_pieces_does_not_grow(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that the backbone gets and gives is that of a piece, however long the sequence."""
    module, sizes = model(), []
    forward = module.backbone.forward

    def watched(tokens, state=None, mask=None):
        hidden, after = forward(tokens, state, mask)
        sizes.append((tokens.numel(), sum(t.numel() for t in after.blocks[0][0].fast.weights)))
        return hidden, after

    monkeypatch.setattr(module.backbone, "forward", watched)
    Reader(module, torch.device("cpu"), 64).read(one(64 * 20))
    assert len(sizes) == 21 and sizes.count(max(sizes)) == 19  # the first leaves room for the persistent tokens


def test_mutagenesis_is_what_each_change_does(model: Model) -> None:
    reader, sequence = Reader(model(), torch.device("cpu"), 64), one(20)
    effects = mutagenesis(reader, sequence[0], 1, 5, 15)
    assert effects.shape == (10, 4)
    for row in range(10):
        assert effects[row, sequence[0][5 + row]] == pytest.approx(0, abs=1e-5)
    changed = sequence[0].clone()
    changed[7] = (changed[7] + 1) % 4
    before, after = (
        reader.head.task.strength(reader.read(Sequences(codes, sequence.offsets))[0], 1)
        for codes in (sequence[0], changed)
    )
    assert effects[2, changed[7]] == pytest.approx((after - before).item(), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"read": "strands", "reverse_complement": "average"}], ids=str)
def test_gradient_is_the_slope_against_the_mean_base(model: Model, options: dict) -> None:
    reader, bases = Reader(model(**options), torch.device("cpu"), 64), one(20)[0]
    slopes = gradient(reader, bases, 2)
    weights, step = one_hot(bases[None]), 1e-2
    for place in (0, 7, 19):
        mean = torch.tensor([0.25, 0.25, 0.25, 0.25, 0])
        odds = []
        for sign in (1, -1):
            moved = weights.clone()
            moved[0, place] += sign * step * (weights[0, place] - mean)
            odds.append(reader.head.task.strength(reader.module(Batch(moved, None)), 2).item())
        assert slopes[place] == pytest.approx((odds[0] - odds[1]) / (2 * step), rel=0.05, abs=2e-4)


def test_both_strands_matter_alike(model: Model) -> None:
    reader, bases = Reader(model(reverse_complement="average"), torch.device("cpu"), 64), one(20)[0]
    other = reverse_complement(bases[None], None)[0]
    np.testing.assert_allclose(gradient(reader, bases, 0), gradient(reader, other, 0)[::-1], atol=1e-5)
    effects, turned = (mutagenesis(reader, codes, 0, 0, 20) for codes in (bases, other))
    np.testing.assert_allclose(effects, turned[::-1, ::-1], atol=1e-5)
    table = importance_table("x", bases, 0, effects, np.arange(20))
    assert [*table][:3] == ["id", "place", "base"] and [*table][6:] == ["effect_T", "gradient_x_input"]


@pytest.mark.parametrize("name", ["x.fa", "x.csv", "x.parquet"])
def test_files_stream_in_their_order_in_batches_that_fit(tmp_path: Path, name: str) -> None:
    texts = ["ACGT" * (1 + i % 7) for i in range(50)]
    if name == "x.fa":
        (tmp_path / name).write_text("".join(f">s{i} y\n{text}\n" for i, text in enumerate(texts)))
    else:
        table = pd.DataFrame({"id": [f"s{i}" for i in range(50)], "sequence": texts})
        table.to_csv(tmp_path / name, index=False) if name == "x.csv" else table.to_parquet(tmp_path / name)
    parts = [*stream_records(tmp_path / name, Layout(), 100)]
    assert [name for part in parts for name in part.ids] == [f"s{i}" for i in range(50)]
    assert torch.cat([part.sequences.lengths for part in parts]).tolist() == [len(text) for text in texts]
    assert all(len(part) * part.sequences.lengths.max() <= 100 for part in parts) and len(parts) > 5


@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.parquet"])
def test_tables_grow(tmp_path: Path, name: str) -> None:
    writer = TableWriter(tmp_path / name)
    for i in range(3):
        writer.write(pd.DataFrame({"id": [f"s{i}"], "p": [i / 2]}))
    writer.close()
    read = {"x.tsv": lambda p: pd.read_csv(p, sep="\t"), "x.csv": pd.read_csv, "x.parquet": pd.read_parquet}[name]
    assert read(tmp_path / name).to_dict("list") == {"id": ["s0", "s1", "s2"], "p": [0, 0.5, 1]}
    with pytest.raises(ValueError, match="an output ends in .tsv, .csv or .parquet"):
        TableWriter(tmp_path / "x.xls")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the newcomer's first commands, fit and test, shortened."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--config", CONFIG, "--trainer.logger.save_dir", str(folder), "--trainer.accelerator", "cpu"]
    options += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.batch_size", "256"]
    options += ["--trainer.limit_train_batches", "1"]
    options += ["--trainer.log_every_n_steps", "1", "--data.floors", "false", "--model.backbone.dim", "16"]
    app(["fit", *options])
    app(["test", *options])
    app(["predict", *options])
    return folder / "genomics_sample" / "version_0" / "checkpoints" / "best.ckpt"


def test_results_hold_the_report_and_the_confusion(checkpoint: Path) -> None:
    results = json.loads((checkpoint.parents[1] / "results.json").read_text())
    assert {"test/mcc", "test/accuracy", "test/macro_f1", "test/auroc", "test/auprc"} == set(results["metrics"])
    assert np.sum(results["details"]["confusion"]) == results["data"]["report"]["test"]["rows"] == 300
    assert set(results["details"]["classes"]) == {"gata", "none", "tata"}
    assert {"temperature", "expected_error", "expected_error_uncalibrated"} == set(results["details"]["calibration"])
    drawn = {path.stem for path in (checkpoint.parents[1] / "pictures").glob("*.png")}
    assert {"confusion", "curves", "reliability"} <= drawn
    predictions = pd.read_csv(checkpoint.parents[1] / "predictions.csv")
    assert len(predictions) == 300 and predictions["id"].is_unique
    assert list(predictions)[:5] == ["id", "length", "n_fraction", "truncated", "class"]
    events = EventAccumulator(str(curves_folder(checkpoint.parents[1]))).Reload()
    assert "confusion" in events.Tags()["images"]
    np.testing.assert_allclose(predictions[["p_gata", "p_none", "p_tata"]].sum(axis=1), 1, atol=1e-5)


def test_a_checkpoint_predicts_a_fasta(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = {"a": "ACGTN" * 10, "b": "acgu", "long": "ACGTTGCA" * 100}
    (tmp_path / "x.fa").write_text("".join(f">{name} any\n{text}\n" for name, text in texts.items()))
    app(
        [*asking("predict", checkpoint, tmp_path / "x.fa", tmp_path / "o.tsv"), "--piece", "128", "--max_length", "700"]
    )
    out = capsys.readouterr().out
    assert "\nmemory: " in out and "4 lower-case letters read as upper-case, 1 U read as T" in out
    table = pd.read_csv(tmp_path / "o.tsv", sep="\t")
    assert list(table) == ["id", "length", "n_fraction", "truncated", "class", "p_gata", "p_none", "p_tata"]
    assert table["id"].tolist() == list(texts) and table["length"].tolist() == [50, 4, 800]
    assert table["n_fraction"].tolist() == [0.2, 0, 0] and table["truncated"].tolist() == [False, False, True]


def test_bad_sequences_are_passed_over_and_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """What a fit refuses or drops is what a prediction passes over; a name that stood before gets a number."""
    reads = {"a": "ACGT", "empty": "", "gap": "AC-GT", "b": "GGGG", "n": "NNNA", "p": "MKLV", "c": "ACGT"}
    text = "".join(f"@{name} 1\n{text}\n+\n{'I' * len(text)}\n" for name, text in reads.items())
    (tmp_path / "x.fq").write_text(text + "@a\nA\n+\nI\n")
    for name in ("predict", "embed"):
        app([*asking(name, checkpoint, tmp_path / "x.fq", tmp_path / "o.tsv"), "--piece", "8", "--max_n", "0.5"])
        out = capsys.readouterr().out
        assert "passed over 4 sequences: 1 without a base (the first: 'empty'" in out and "ambiguous" not in out
        assert "2 with letters that are no nucleotides (the first: 'gap', place 3: '-' is no" in out
        assert "1 with more than 50% N (the first: 'n')" in out and "max_n is 0.5 here and was 1.0 in training" in out
        assert pd.read_csv(tmp_path / "o.tsv", sep="\t")["id"].tolist() == ["a", "b", "c", "a#2"]


def test_sequences_are_read_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Windows of intervals, cuts, shares of N and columns are the checkpoint's, in both commands alike."""
    random = np.random.default_rng(0)
    (tmp_path / "genome.fa").write_text(f">c\n{''.join(random.choice(list('ACGT'), 4000))}\n")
    for name, first in (("pos", 50), ("neg", 60)):
        lines = [f"c\t{start}\t{start + 20}\t{name}{start}\n" for start in range(first, 3900, 40)]
        (tmp_path / f"{name}.bed").write_text("".join(lines))
    files = [str(tmp_path / f"{name}.bed") for name in ("pos", "neg")]
    options = ["--config", CONFIG, "--trainer.logger.save_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    options += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.batch_size", "64"]
    options += ["--trainer.log_every_n_steps", "1", "--data.floors", "false", "--data.group", "none"]
    options += ["--model.backbone.dim", "16", "--data.source", "file"]
    options += ["--data.train", f"[{','.join(files)}]", "--data.layout.reference", str(tmp_path / "genome.fa")]
    options += ["--data.layout.width", "60", "--data.max_length", "50", "--data.max_n", "0.1"]
    options += ["--model.head.reverse_complement", "average"]
    app(["fit", *options])
    app(["predict", *options])
    run = tmp_path / "genomics_sample" / "version_0"
    (tmp_path / "all.bed").write_text("".join(Path(file).read_text() for file in files))
    capsys.readouterr()
    app(asking("predict", run / "checkpoints" / "best.ckpt", tmp_path / "all.bed", tmp_path / "o.csv"))
    assert "read as in training: max_length 50, max_n 0.1, layout.width 60" in capsys.readouterr().out
    ours, theirs = pd.read_csv(tmp_path / "o.csv"), pd.read_csv(run / "predictions.csv")
    assert list(theirs) == [*ours, "truth"] and ours["length"].eq(60).all() and ours["truncated"].all()
    both = ours.merge(theirs, on="id", suffixes=("", "_theirs"))
    assert len(both) == len(theirs) > 10
    np.testing.assert_allclose(both["p_pos"], both["p_pos_theirs"], atol=1e-5)
    for column in ("length", "n_fraction", "truncated", "class"):
        assert (both[column] == both[f"{column}_theirs"]).all()
    contig = (tmp_path / "genome.fa").read_text().split()[1]
    line = f"c\t99\t.\t{contig[98]}\t{'A' if contig[98] != 'A' else 'C'}\n"
    (tmp_path / "v.vcf").write_text(f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n{line}")
    for verb, file in (("effects", "v.vcf"), ("scan", "genome.fa")):  # which read as many bases, no more
        command = asking(verb, run / "checkpoints" / "best.ckpt", tmp_path / file, tmp_path / f"{verb}.csv")
        app(command)
        out = capsys.readouterr().out
        assert "windows of 50 bases" in out and "warning: windows" not in out
        assert verb == "effects" or "one for each 50 bases\n" in out
        app([*command, "--width", "60"])
        told = "warning: windows are of 60 bases here, and training read 50 of a sequence"
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "option"), [("embed", "--piece"), ("embed", "--max_length"), ("explain", "--count")])
def test_no_bases_are_refused(verb: str, option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        app([*asking(verb, Path("best.ckpt"), Path("x.fa"), Path("o.tsv")), option, "0"])
    assert f"{option}: '0' is no whole number of 1 or more" in capsys.readouterr().err


def test_a_checkpoint_embeds(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nACGTACGT\n>b\nACGTACGT\n>c\nGG\n")
    app([*asking("embed", checkpoint, tmp_path / "x.fa", tmp_path / "o.parquet"), "--piece", "512"])
    table = pd.read_parquet(tmp_path / "o.parquet")
    vectors = table.filter(regex=r"^e\d+$").to_numpy()
    assert vectors.shape == (3, 32) and table["id"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_a_checkpoint_explains(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("logomaker")
    (tmp_path / "x.fa").write_text(">a/1\nACGTACGTAC\n>b\nACGNACGT\n>c\nGG\n")
    command = asking("explain", checkpoint, tmp_path / "x.fa", tmp_path / "out")
    app([*command, "--ids", "a/1,b", "--label", "tata", "--region", "3-8"])
    table = pd.read_csv(tmp_path / "out" / "importance.tsv", sep="\t")
    assert table["place"].tolist() == [3, 4, 5, 6, 7, 8] * 2 and table["base"].tolist()[6:8] == ["G", "N"]
    assert (tmp_path / "out" / "a_1.png").stat().st_size > 10_000 and (tmp_path / "out" / "b.png").is_file()
    assert [*(tmp_path / "out").glob("events.out.tfevents*")]
    (tmp_path / "x.fa").write_text(">bad\nAC-GT\n>a/1\nAC\n>a_1\nGG\n")
    capsys.readouterr()
    app([*command, "--region", "1-1"])
    assert "warning: passed over 1 sequences: 1 with letters" in capsys.readouterr().out
    assert (tmp_path / "out" / "a_1.png").is_file() and (tmp_path / "out" / "a_1_2.png").is_file()
    with pytest.raises(SystemExit):
        app([*command, "--ids", "bad"])
    assert "no sequence 'bad' could be read; check --ids; passed over 1 sequences" in capsys.readouterr().err
    (tmp_path / "x.fa").write_text(">bad\nAC-GT\n")
    with pytest.raises(SystemExit):
        app(command)
    assert "no sequence could be read; passed over 1 sequences" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("predict", ">a\nMKLV\n", "'L' is no nucleotide .*protein"),
        ("predict", "", "holds no sequence"),
        ("embed", ">a\n\n", "no sequence could be read; .*'a' is empty; fill it or drop it"),
    ],
)
def test_bad_input_ends_as_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, command: str, text: str, message: str
) -> None:
    (tmp_path / "x.fa").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        app([*asking(command, checkpoint, tmp_path / "x.fa", tmp_path / "o.tsv"), "--piece", "256"])
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "x.fa" in error and error.count("\n") == 0
    assert re.search(message, error)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "bad.ckpt").write_text("no")
    for name, message in (("bad.ckpt", "damaged or no checkpoint"), ("none.ckpt", "there is no file")):
        for verb in ("predict", "embed"):
            with pytest.raises(SystemExit, match="2"):
                app(asking(verb, tmp_path / name, Path("x.fa"), tmp_path / "o.tsv"))
            assert message in capsys.readouterr().err


def test_mixed_lengths_are_read_side_by_side_and_answered_in_their_order(model: Model) -> None:
    lengths = [3, 40, 7, 100, 1, 64, 9, 9, 33, 20, 5]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    sequences = Sequences(torch.randint(4, (int(offsets[-1]),), dtype=torch.uint8), offsets)
    told: list[int] = []
    reader = Reader(model(reverse_complement="average"), torch.device("cpu"), 1000, told.append)
    answers = reader.read(sequences)
    assert sum(told) == sum(lengths) and len(told) == 2  # no more than ROWS_AT_ONCE each time, four of each sequence
    for row in range(len(lengths)):
        alone = reader.read(sequences.select(torch.tensor([row])))
        for found, right in zip(answers, alone, strict=True):
            torch.testing.assert_close(found[row], right[0], rtol=0, atol=1e-5)


def test_the_bases_of_a_file_are_counted_where_that_is_cheap(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nACGT\nAC\n>b\nACGTACGTAC\n")
    assert bases_of(tmp_path / "x.fa", Layout(), None) == 16 and bases_of(tmp_path / "x.fa", Layout(), 7) == 13
    (tmp_path / "x.fq").write_text("@a\nACGT\n+\nIIII\n@b\nAC")
    assert bases_of(tmp_path / "x.fq", Layout(), None) is None


def test_a_checkpoint_answers_variants(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The table and INFO hold the difference of what the model says of the two windows."""
    contig = "ACGTTGCAGGTATAAATC" * 8
    (tmp_path / "ref.fa").write_text(f">c\n{contig}\n")
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = f"c\t70\trs1\t{contig[69]}\tC,G\t.\t.\tDP=3\nc\t80\t.\t{contig[79:82]}\t<DEL>\t.\t.\t.\n"
    (tmp_path / "v.vcf").write_text(f"##fileformat=VCFv4.2\n{columns}{lines}")
    command = asking("effects", checkpoint, tmp_path / "v.vcf", tmp_path / "e.tsv")
    with pytest.raises(SystemExit):
        app([*command, "--reference", str(tmp_path / "ref.fa")])
    assert "give --width" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        app([*command, "--vcf", "out.vcf.gz"])
    assert "let its name end in .vcf" in capsys.readouterr().err
    command += ["--reference", str(tmp_path / "ref.fa"), "--width", "60"]
    app([*command, "--vcf", str(tmp_path / "out.vcf")])
    out = capsys.readouterr().out
    assert (
        "2 alternative alleles, in windows of 60 bases" in out and "passed over 1 alleles: 1 that are no letters" in out
    )
    table = pd.read_csv(tmp_path / "e.tsv", sep="\t")
    windows = {name: f"{contig[40:69]}{base}{contig[70:100]}" for name, base in (("r", contig[69]), ("a", "C"))}
    (tmp_path / "x.fa").write_text("".join(f">{name}\n{text}\n" for name, text in windows.items()))
    reader = Reader(load_module(checkpoint), torch.device("cpu"), 64)
    odds = [
        reader.head.task.strength(reader.read(Sequences.of([text.encode()]))[0], 1).item() for text in windows.values()
    ]
    row = table[table["alt"] == "C"].iloc[0]
    assert row["delta_none"] == pytest.approx(odds[1] - odds[0], abs=1e-4)
    written = (tmp_path / "out.vcf").read_text().splitlines()
    assert sum(line.startswith("##INFO=<ID=DELTA_none,Number=A,Type=Float") for line in written) == 1
    told = written[-2].split("\t")[7]
    assert told.startswith("DP=3;") and f"DELTA_none={table['delta_none'][0]:.4f},{table['delta_none'][1]:.4f}" in told
    assert written[-1].split("\t")[7].startswith("REF_gata=.;")
    again = [tmp_path / "out.vcf" if word == str(tmp_path / "v.vcf") else word for word in command]
    app([*map(str, again), "--vcf", str(tmp_path / "again.vcf")])
    assert (tmp_path / "again.vcf").read_text().splitlines() == written  # and no key twice
    capsys.readouterr()
    for text, annotation, message in (
        (lines, "chrC\t0\t99\tx\t0\t-\n", "none of its contigs (chrC, ...) is in .*; 'chrC' is 'c' there: rename it"),
        (
            lines.replace("C,G", "<INS>"),
            None,
            r"no variant whose alleles are letters: passed over 2 alleles: 2 that are no",
        ),
        ("c\t2\t.\tC\tA\t.\t.\t.\n", None, "no variant could be read; passed over 1 alleles: 1 in windows with more"),
    ):
        (tmp_path / "v.vcf").write_text(f"##fileformat=VCFv4.2\n{columns}{text}")
        (tmp_path / "a.bed").write_text(annotation or "")
        words = ["--annotation", str(tmp_path / "a.bed")] if annotation else []
        with pytest.raises(SystemExit):
            app([*command, *words, "--max_n", "0.1"])
        assert re.search(message.replace("(", r"\(").replace(")", r"\)"), capsys.readouterr().err)


def test_a_checkpoint_scans_a_genome(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "g.fa").write_text(f">c1 any\n{'acgttgcagg' * 30}\n>c2\n{'N' * 100}\n")
    command = [*asking("scan", checkpoint, tmp_path / "g.fa", tmp_path / "out"), "--width", "100", "--max_n", "0.6"]
    app([*command, "--step", "50"])
    out = capsys.readouterr().out
    assert "windows of 100 bases, one for each 50 bases, on each strand" in out
    assert "left out 2 windows with more than 60% N" in out
    lines = [line.split("\t") for line in (tmp_path / "out" / "p_tata.minus.bedGraph").read_text().splitlines()]
    assert [line[:3] for line in lines] == [["c1", str(start), str(start + 50)] for start in range(0, 300, 50)]
    assert len((tmp_path / "out" / "calls.bed").read_text().splitlines()) == 12
    (tmp_path / "g.fa").write_text(">a\nAC-GT\n>b\nACGTRa\n>b\nACG\n>c\n")
    app([*command, "--width", "6"])
    out = capsys.readouterr().out
    assert "1 lower-case letters read as upper-case, 1 ambiguous letters" in out and "np.str_" not in out
    assert "passed over 3 contigs: 1 with letters that are no nucleotides (the first: 'a', place 3" in out
    assert "1 of a name that stood before (the first: 'b'), 1 without a base (the first: 'c' is empty" in out
    assert len((tmp_path / "out" / "calls.bed").read_text().splitlines()) == 2
