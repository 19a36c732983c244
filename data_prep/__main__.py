"""Make data ready: `python -m data_prep timeseries --sets ETTh1`, or `genomics --set ..`, or `text --corpus ..`."""

import argparse
import sys
from pathlib import Path

from data_prep import genomics as dna
from data_prep.files import data_root
from data_prep.index import read_index
from data_prep.timeseries import BENCHMARKS, fetch


def main(args: list[str] | None = None) -> int:
    """Fetch what the command line names; returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description="Download public data sets, and prepare text."
    )
    domains = parser.add_subparsers(dest="domain", required=True)
    timeseries = domains.add_parser("timeseries", help="forecasting benchmarks")
    timeseries.add_argument("--sets", default=",".join(BENCHMARKS), help="names, separated by commas (%(default)s)")
    timeseries.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
    genomics = domains.add_parser("genomics", help="labelled DNA: GenomicBenchmarks and GUE")
    genomics.add_argument("--set", required=True, help=f"names, separated by commas, or all: {', '.join(dna.SETS)}")
    genomics.add_argument("--file", type=Path, help="the zip of a GenomicBenchmarks set that you downloaded yourself")
    genomics.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
    text = domains.add_parser("text", help="a corpus to tokens")
    text.add_argument(
        "--corpus",
        required=True,
        help="shakespeare, wikitext-2, wikitext-103, books, novels (and books), code (of installed packages), or a "
        "folder or file",
    )
    text.add_argument("--tokenizer", default="gpt2", help="byte, bpe-N, gpt2, neox, mistral, a file or a folder")
    text.add_argument("--end-token", help="token before documents (the tokenizer's own)")
    text.add_argument("--out", type=Path, help="folder for the tokens (ROOT/text/tokens/CORPUS-TOKENIZER)")
    text.add_argument("--characters", type=int, help="most characters of the training part (all)")
    text.add_argument("--workers", type=int, help="processes (one per core)")
    text.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
    options = parser.parse_args(args)
    try:
        if options.domain == "text":
            prepare_text(options)
        elif options.domain == "genomics":
            names = dna.GENOMIC_BENCHMARKS if options.set == "all" else options.set.split(",")
            for name in names:
                print(f"{name}: {', '.join(map(str, dna.fetch(name.strip(), options.root, options.file)))}")
        else:
            for name in options.sets.split(","):
                print(f"{name}: {fetch(name.strip(), options.root)}")
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


def prepare_text(options: argparse.Namespace) -> None:
    """Tokenize a corpus and say what came out."""
    from data_prep.text import prepare  # imports tokenizers, which no other domain needs

    folder = prepare(
        options.corpus,
        options.tokenizer,
        options.out,
        options.root,
        options.workers,
        options.characters,
        options.end_token,
    )
    for part, counts in read_index(folder)["parts"].items():
        sizes = ", ".join(f"{counts[name]:,} {name}" for name in ("tokens", "documents", "bytes", "words"))
        print(f"{folder / part}.bin: {sizes}")


if __name__ == "__main__":
    sys.exit(main())
