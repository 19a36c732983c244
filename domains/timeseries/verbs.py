"""What forecasting adds to the command line: forecasts of a file, and from rolling origins."""

import argparse

from app.verbs import Verb, no_options, surprise_options


def backtest_options(parser: argparse.ArgumentParser) -> None:
    """Those of `backtest`."""
    text = "how many origins, the last of them as late as the data allow (%(default)s)"
    parser.add_argument("--origins", metavar="N", type=int, default=10, help=text)
    text = "steps from one origin to the next; else as many as are forecast, so that none is forecast twice"
    parser.add_argument("--stride", metavar="STEPS", type=int, help=text)
    text = "train from scratch at every origin (1), every second (2), ... on the data before it; 0 never (%(default)s)"
    parser.add_argument("--refit", metavar="N", type=int, default=0, help=text)


VERBS = (
    Verb(
        "predict",
        "forecast what follows the end of a file",
        "predict --ckpt runs/my/version_0/checkpoints/best.ckpt --input newer.csv --output answers.csv",
        no_options,
        "domains.timeseries.commands:predict",
        keys=True,
    ),
    Verb(
        "backtest",
        "score forecasts from rolling origins beside naive ones, with or without training anew",
        "backtest --ckpt runs/my/version_0/checkpoints/best.ckpt --data.file newer.csv --origins 20 --stride 1",
        backtest_options,
        "domains.timeseries.commands:backtest",
        keys=True,
    ),
    Verb(
        "surprise",
        "write a page that shows what the memory did with a file of series",
        "surprise --ckpt runs/my/version_0/checkpoints/best.ckpt newer.csv",
        surprise_options,
        "domains.timeseries.surprise:main",
    ),
)
RENAMED = {"--horizon": "--data.predict_rows"}
LINKED = ("past_size", "future_size", "look_back", "panel")
