"""The verb `surprise`: series, coloured by how much each patch surprised the memory."""

import argparse
from collections.abc import Iterator
from typing import Any, cast

import torch
import yaml

from app.errors import user_errors
from app.module import TitansModule, module_of, read_checkpoint
from app.surprise import PASSAGES, TOKENS, Passage, refuse_without_memory, write_page
from app.trace import traces
from domains.timeseries.clock import say
from domains.timeseries.data import TimeSeriesData
from domains.timeseries.head import ForecastHead
from domains.timeseries.windows import Windows, on_device


@user_errors()
def main(arguments: argparse.Namespace) -> None:
    """Read look-backs that lie end to end, the last of them at the end of the file, and write the page.

    Raises:
        UserError: the model has no memory.
        ValueError: the file is not of the columns and the frequency that the model was fitted to, or too short.
    """
    checkpoint = read_checkpoint(arguments.ckpt)
    module = module_of(checkpoint, arguments.ckpt, ForecastHead)
    refuse_without_memory(module)
    head = cast(ForecastHead, module.head)
    keys: dict[str, Any] = yaml.safe_load(checkpoint["config"])["data"].get("init_args") or {}
    keys |= {"file": str(arguments.input), "source": "file", "predict": "future"}
    data = TimeSeriesData(**keys)
    data.setup("predict")
    head.check(data)
    shown = data.columns[:PASSAGES]
    most = max(TOKENS // (head.tokens * len(shown)), 1)
    passages: list[Passage] = []
    rows = 0
    for windows, left in look_backs(data, most):
        passages += _passages(module, data, windows)
        rows = max(rows, left)
        if len(passages) >= PASSAGES:
            break
    notes = ["Every look-back is read from a fresh state, as a forecast reads it; they lie end to end."]
    if len(data.columns) > len(passages):
        notes.append(f"Left out: {len(data.columns) - len(passages)} of {len(data.columns)} series.")
    if rows:
        notes.append(f"Left out: up to {rows:,} rows at the beginning of a series.")
    write_page(arguments, passages, notes)


def look_backs(data: TimeSeriesData, most: int) -> Iterator[tuple[Windows, int]]:
    """Windows end to end of the one series, or of each of a panel, and how many rows before them are left out.

    Args:
        data: set up for the future, so that one window stands at the end of each series that is long enough.
        most: windows of a series.
    """
    last = data.windows["future"]
    for i, start in enumerate(last.starts):
        series = None if last.series is None else last.series[i : i + 1]
        length = len(data.content.series[0 if series is None else int(series)].values)
        count = min(length // data.look_back, most)
        starts = start - data.look_back * torch.arange(count - 1, -1, -1)
        of = None if series is None else series.expand(count)
        yield Windows(last.rows, starts, last.look_back, last.horizon, of), length - count * data.look_back


def _passages(module: TitansModule, data: TimeSeriesData, windows: Windows) -> list[Passage]:
    """A passage of each variable, up to those that a page holds."""
    head = cast(ForecastHead, module.head)
    batch = windows[torch.arange(len(windows))]
    names = data.columns if batch.series is None else [data.columns[int(batch.series[0])]]
    with torch.no_grad():
        tokens, _ = head.embed(on_device(batch, head.into.weight.device))
    tokens = tokens.unflatten(0, (len(windows), -1))  # [windows, variables, tokens, dim]
    first = range(0, data.look_back, head.stride)
    spans = [
        (window * data.look_back + row, window * data.look_back + min(row + head.stride, data.look_back))
        for window in range(len(windows))
        for row in first
    ]
    stamps = windows.rows.stamps[windows.starts[:, None] + torch.tensor(first)]
    pieces = [f"from {say(stamp, data.zone)}" for stamp in stamps.flatten().tolist()]
    values = batch.past.flatten(0, 1).float()
    return [
        Passage(name, pieces, traces(module.backbone, tokens[:, i]), values[:, i].tolist(), spans)
        for i, name in enumerate(names[:PASSAGES])
    ]
