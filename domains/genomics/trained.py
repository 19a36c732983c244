"""What a checkpoint says of its training: a model must be asked about sequences that were read as its own were."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml
from lightning.pytorch.utilities import disable_possible_user_warnings

from app.errors import UserError
from app.module import module_of, read_checkpoint
from domains.genomics.head import SequenceHead
from domains.genomics.readers import Layout
from domains.genomics.records import Passed, Records, prepared
from domains.genomics.stream import PIECES, Reader, stream_records
from domains.genomics.verbs import OVERRIDES

GENOME = ("layout.reference", "layout.width")


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of a file's sequences before a model reads them.

    Args:
        layout: where a table keeps what, and how a BED file's intervals are cut.
        max_length: bases that are read of each; None reads all.
        max_n: largest share of N in what is read.
    """

    layout: Layout = Layout()
    max_length: int | None = None
    max_n: float = 1.0

    @classmethod
    def of(cls, config: str) -> "Preprocessing":
        """That of the training data of a classifier, by the configuration (YAML) that its checkpoint carries."""
        data = yaml.safe_load(config)["data"]
        given = data.get("init_args") or {}
        settings = {key: given[key] for key in ("max_length", "max_n") if key in given}
        # a named set is read from tables of our own making, whatever its config says of files
        layout = Layout() if given.get("set") else Layout(**(given.get("layout") or {}))
        return cls(layout, **settings)

    def changed(self, **given: object) -> "Preprocessing":
        """With what a command line gives in its place; None gives nothing."""
        given = {key: value for key, value in given.items() if value is not None}
        own = {key: given.pop(key) for key in ("max_length", "max_n") if key in given}
        return replace(self, layout=replace(self.layout, **given), **own)

    def stream(self, path: Path, bases: int, passed: Passed) -> Iterator[Records]:
        """The sequences of a file as the model reads them, in batches of about `bases` bases; bad ones are counted."""
        for found in stream_records(path, self.layout, bases, passed):
            if len(found):
                read, left = prepared(found, self.max_length, self.max_n)
                for name in left:
                    passed.add(f"with more than {self.max_n:.0%} N", repr(name))
                if len(read):
                    yield read

    def window(self, given: int | None) -> int:
        """Bases of the windows of a genome that the model is asked about.

        Args:
            given: by the command line; None takes as many as training read of a sequence. More of them are warned of.

        Raises:
            UserError: training read sequences of any length, and the command line gives none.
        """
        width = given or min(filter(None, (self.layout.width, self.max_length)), default=None)
        if width is None:
            raise UserError("the model was trained on sequences as they came; give --width, as many bases as these had")
        if self.max_length and width > self.max_length:
            print(f"warning: windows are of {width:,} bases here, and training read {self.max_length:,} of a sequence")
        return width

    def lines(self, trained: "Preprocessing") -> list[str]:
        """All of it, and what differs from training, in words."""
        ours, theirs = self._settings(), trained._settings()
        told = ", ".join(f"{key} {value}" for key, value in ours.items())
        # where training read no intervals of a genome, there is none to differ from
        changed = [key for key in ours if ours[key] != theirs[key] and not (key in GENOME and theirs[key] is None)]
        warned = [f"warning: {key} is {ours[key]} here and was {theirs[key]} in training" for key in changed]
        return [f"read as in training: {told}", *warned]

    def _settings(self) -> dict[str, object]:
        layout = asdict(self.layout)
        wanted = ("width", "centre", "reference", "sequence_col", "id_col")
        return {"max_length": self.max_length, "max_n": self.max_n} | {f"layout.{key}": layout[key] for key in wanted}


def opened(arguments: argparse.Namespace) -> tuple[Reader, Preprocessing]:
    """The model of a checkpoint, and what becomes of the sequences before it reads them, which is told."""
    disable_possible_user_warnings()
    device = _device(arguments.device)
    arguments.piece = arguments.piece or PIECES[device.type]
    checkpoint = read_checkpoint(arguments.ckpt)
    reader = Reader(module_of(checkpoint, arguments.ckpt, SequenceHead), device, arguments.piece)
    trained = Preprocessing.of(checkpoint["config"])
    read = trained.changed(**{name: getattr(arguments, name, None) for name in OVERRIDES})
    print("\n".join(read.lines(trained)))
    return reader, read


def _device(asked: str | None) -> torch.device:
    """The device asked for; else a GPU where there is one."""
    cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda"] if cards else []), *cards]
    asked = asked or ("cuda" if cards else "cpu")
    if asked not in known:
        raise UserError(f"--device {asked!r} is none of this machine; choose {', '.join(known)}")
    return torch.device(asked)
