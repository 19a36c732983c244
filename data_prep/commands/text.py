"""A corpus to tokens."""

import argparse
from pathlib import Path

from data_prep.index import read_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which corpus, and how it is tokenized."""
    parser.add_argument(
        "--corpus",
        required=True,
        help="shakespeare, wikitext-2, wikitext-103, books, novels (and books), code (of installed packages), or a "
        "folder or file",
    )
    parser.add_argument("--tokenizer", default="gpt2", help="byte, bpe-N, gpt2, neox, mistral, a file or a folder")
    parser.add_argument("--end_token", "--end-token", help="token before documents (the tokenizer's own)")
    parser.add_argument("--out", type=Path, help="folder for the tokens (ROOT/text/tokens/CORPUS-TOKENIZER)")
    parser.add_argument("--characters", type=int, help="most characters of the training part (all)")
    parser.add_argument("--workers", type=int, help="processes (one per core)")


def run(options: argparse.Namespace) -> None:
    """Tokenize the corpus and say what came out."""
    from data_prep.text import prepare  # imports tokenizers, which no other command needs

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
