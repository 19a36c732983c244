"""What genomics adds to the command line: a trained classifier reads files of DNA."""

import argparse
import re
from pathlib import Path

from app.verbs import Verb, surprise_options


def _region(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no range such as 101-250")
    return int(match[1]), int(match[2])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return value


def _centre(text: str) -> str:
    if text not in ("middle", "summit"):
        raise argparse.ArgumentTypeError(f"{text!r} is none; choose middle or summit")
    return text


OVERRIDES = {  # of what a checkpoint says of its training
    "max_length": "read only so many first bases of each",
    "max_n": "pass over sequences of a larger share of N",
    "sequence_col": "column of a table",
    "id_col": "column of a table",
    "reference": "FASTA that a BED file refers to",
    "width": "bases around the centre of a BED interval",
    "centre": "of a BED interval: middle, or the summit of narrowPeak",
}
KINDS = {"max_length": _positive, "max_n": _share, "width": _positive, "centre": _centre}


def reading_options(parser: argparse.ArgumentParser) -> None:
    """How a model reads a file of sequences."""
    parser.add_argument("--piece", type=_positive, help="bases at a time (262144 on a GPU, 8192 on a CPU)")
    parser.add_argument("--device", help="cuda or cpu; a GPU where there is one")
    for key, text in OVERRIDES.items():
        parser.add_argument(f"--{key}", type=KINDS.get(key, str), help=f"{text}; else as in training")


def file_options(parser: argparse.ArgumentParser, output: str) -> None:
    """Which file is read, and what is written."""
    text = "FASTA, FASTQ, GenBank, BED or a table; plain or packed"
    parser.add_argument("--input", metavar="FILE", type=Path, required=True, help=text)
    parser.add_argument("--output", metavar="PATH", type=Path, required=True, help=output)


def embed_options(parser: argparse.ArgumentParser) -> None:
    """Those of `embed`."""
    file_options(parser, "a .tsv, .csv or .parquet file")
    reading_options(parser)


def explain_options(parser: argparse.ArgumentParser) -> None:
    """Those of `explain`."""
    file_options(parser, "a new folder")
    parser.add_argument("--ids", help="sequences, separated by commas; else the first ones")
    parser.add_argument("--count", type=_positive, default=4, help="how many first ones (%(default)s)")
    parser.add_argument("--label", help="class to explain; else the predicted one")
    parser.add_argument("--region", type=_region, help="places to change, such as 101-250; else all")
    reading_options(parser)


def _genome_options(parser: argparse.ArgumentParser) -> None:
    """Of what reads windows of a genome."""
    parser.add_argument("--width", type=_positive, help="bases of a window; else as in training")
    parser.add_argument("--max_n", type=_share, help="pass over windows of a larger share of N; else as in training")
    parser.add_argument("--piece", type=_positive, help="bases at a time (262144 on a GPU, 8192 on a CPU)")
    parser.add_argument("--device", help="cuda or cpu; a GPU where there is one")


def effects_options(parser: argparse.ArgumentParser) -> None:
    """Those of `effects`."""
    parser.add_argument("--input", metavar="FILE", type=Path, required=True, help="a VCF file, plain or packed")
    text = "a table, .tsv, .csv or .parquet: a row for each alternative allele"
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help=text)
    parser.add_argument("--vcf", metavar="FILE", type=Path, help="write the VCF file again, with the same as INFO")
    parser.add_argument("--reference", help="FASTA that the variants were called on; else as in training")
    text = "BED with strands, GFF or GTF: a variant in a feature is read on the feature's strand; else on plus"
    parser.add_argument("--annotation", metavar="FILE", type=Path, help=text)
    parser.add_argument("--label", help="one class, label or value; else all")
    _genome_options(parser)


def scan_options(parser: argparse.ArgumentParser) -> None:
    """Those of `scan`."""
    text = "a genome: FASTA or GenBank, plain or packed"
    parser.add_argument("--input", metavar="FILE", type=Path, required=True, help=text)
    text = "a folder for calls.bed and a bedGraph of each class, label or value"
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help=text)
    parser.add_argument("--step", type=_positive, help="bases from one window to the next; else its width")
    _genome_options(parser)


def folds_options(parser: argparse.ArgumentParser) -> None:
    """Those of `folds`."""
    text = "parts of data.train, each tested on once; 1 keeps the test part of the data (%(default)s)"
    parser.add_argument("--folds", metavar="N", type=_positive, default=5, help=text)
    text = "models of each fold, from seeds 0, 1, ... (%(default)s)"
    parser.add_argument("--seeds", metavar="N", type=_positive, default=1, help=text)
    text = "a folder for all runs and folds.json; the same command goes on where it was stopped"
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help=text)


CHECKPOINT = "runs/genomics_mine/version_0/checkpoints/best.ckpt"
VERBS = (
    Verb(
        "predict",
        "write id, length, n_fraction, truncated, class and p_CLASS of every sequence of a file",
        f"predict --ckpt {CHECKPOINT} --input new.fa --output calls.tsv",
        reading_options,
        "domains.genomics.answers:answer",
    ),
    Verb(
        "embed",
        "write the mean hidden state of every sequence of a file",
        f"embed --ckpt {CHECKPOINT} --input new.fa --output vectors.parquet",
        embed_options,
        "domains.genomics.answers:answer",
    ),
    Verb(
        "explain",
        "write and draw which bases a class depends on",
        f"explain --ckpt {CHECKPOINT} --input new.fa --output pictures --ids seq1,seq2",
        explain_options,
        "domains.genomics.answers:explain",
    ),
    Verb(
        "effects",
        "write what each variant of a VCF file does to the log-odds of each class",
        f"effects --ckpt {CHECKPOINT} --input variants.vcf --reference hg38.fa --output effects.tsv",
        effects_options,
        "domains.genomics.effects:effects",
    ),
    Verb(
        "scan",
        "write a model's answers along a genome as BED and bedGraph",
        f"scan --ckpt {CHECKPOINT} --input genome.fa --output tracks --width 500 --step 100",
        scan_options,
        "domains.genomics.scan:scan",
    ),
    Verb(
        "folds",
        "cross-validate: train and test a model for each fold and seed, and tell mean and spread",
        "folds --config conf/genomics_fasta.yaml --data.train my.csv --folds 5 --seeds 3 --output runs/folds",
        folds_options,
        "domains.genomics.folds:folds",
        keys=True,
    ),
    Verb(
        "surprise",
        "write a page that shows what the memory did with sequences of DNA",
        f"surprise --ckpt {CHECKPOINT} new.fa",
        surprise_options,
        "domains.genomics.surprise:main",
    ),
)
