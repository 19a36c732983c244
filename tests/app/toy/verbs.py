"""What the toy domain adds to the command line."""

import argparse

from app.verbs import Verb, no_options


def weigh_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unit", default="parameters", help="what is counted")


VERBS = (
    Verb("predict", "answer a file", "predict --ckpt best.ckpt --input 7.txt", no_options, "domains.toy:answer"),
    Verb("weigh", "count what a model holds", "weigh --ckpt best.ckpt --unit g", weigh_options, "domains.toy:weigh"),
)
RENAMED = {"--sampled": "--data.sample"}
