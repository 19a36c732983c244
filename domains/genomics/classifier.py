"""The classifier in Python: what `fit`, `predict` and `embed` of the command line do, by the same code."""

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn
from pandas import DataFrame

from app.cli import run
from app.files import replacing
from domains.genomics.answers import answered
from domains.genomics.bases import LETTERS, Repairs
from domains.genomics.readers import Layout
from domains.genomics.records import Passed
from domains.genomics.trained import opened

# It is for sequences of one's own, and stands on others in the same folder.
CONFIG = Path(__file__).parents[2] / "conf" / "genomics_fasta.yaml"

Files = str | Path | list[str] | list[Path]
Sequenced = str | Path | DataFrame | Iterable[object]


class Classifier:
    """Train on labelled DNA, and answer, from Python.

    ::

        model = Classifier({"trainer.max_epochs": 10}).fit(table)
        model.save("model.ckpt")
        Classifier.load("model.ckpt").predict(["ACGT...", "TTGA..."])

    A checkpoint of either world is one of the other: `python -m app predict --ckpt model.ckpt --input new.fa`.

    Args:
        options: keys of the configuration and their values, as on the command line without their dashes.
        config: YAML that the options change.
        folder: where runs are kept; each fit is a new one in it.
    """

    def __init__(
        self,
        options: Mapping[str, object] | None = None,
        config: str | Path = CONFIG,
        folder: str | Path = "runs/classifier",
    ) -> None:
        self.options = dict(options or {})
        self.config = Path(config)
        self.folder = Path(folder)
        self.checkpoint: Path | None = None

    def fit(self, train: DataFrame | Files, val: DataFrame | Files | None = None) -> Self:
        """Train a new model and keep the one that is best on validation.

        Args:
            train: a table with columns `sequence` and `label` (and `id`, `group`, `split` where there are any), or
                files as `data.train` takes them.
            val: likewise; without it a tenth of train is held out, whole groups of overlapping sequences at a time.

        Raises:
            ValueError: an option or the data are not what they should be.
        """
        parts = {"train": train} | ({} if val is None else {"val": val})
        keys = {f"data.{part}": self._kept(part, given) for part, given in parts.items()}
        keys |= {"data.source": "file", "trainer.logger.save_dir": str(self.folder), "trainer.logger.name": "fits"}
        words = [f"--config={self.config}"]
        words += [f"--{key}={_word(value)}" for key, value in (keys | self.options).items()]
        try:
            done = run(
                argparse.Namespace(
                    verb="fit", package=None, ckpt=None, keys=words, command="domains.genomics.Classifier.fit"
                )
            )
        except SystemExit as error:
            # The parser of the command line has said what is wrong, and would end the process.
            raise ValueError(f"an option is not what it should be, see above: {self.options}") from error
        self.checkpoint = Path(done.trainer.checkpoint_callback.best_model_path)
        return self

    def _kept(self, part: str, given: DataFrame | Files) -> object:
        """Names of what is read: a table from memory is kept beside the runs, where their configs find it again.

        It is called by its content: a later fit must not give an earlier run another table.
        """
        if isinstance(given, str | Path):
            return given
        if isinstance(given, list) and given and all(_is_file(one) for one in given):
            return [str(one) for one in given]
        if not isinstance(given, DataFrame):
            raise ValueError(
                "sequences are given with their labels, as a table of columns sequence and label (a pandas DataFrame), "
                "or as the names of files"
            )
        content = BytesIO()
        _table(given).to_parquet(content)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{part}_{hashlib.sha256(content.getvalue()).hexdigest()[:12]}.parquet"
        with replacing(path) as new:
            new.write_bytes(content.getvalue())
        return path

    def predict(self, sequences: Sequenced) -> DataFrame:
        """A row for each sequence: id, length, n_fraction, truncated, class and p_CLASS (or those of the task).

        Args:
            sequences: letters of each, or Biopython's records, perhaps by name; a table with the columns of training;
                or a file. Bad ones are passed over with a warning; the ids tell which.

        Raises:
            ValueError: none can be read.
        """
        return self._answered(sequences, "predict")

    def embed(self, sequences: Sequenced) -> DataFrame:
        """A row for each sequence: its mean hidden state, see `predict`."""
        return self._answered(sequences, "embed")

    def save(self, path: str | Path) -> None:
        """Write the model, and all that is needed to use it, into one file."""
        with replacing(Path(path)) as new:
            shutil.copyfile(self._trained(), new)

    @classmethod
    def load(cls, path: str | Path) -> "Classifier":
        """The model of a checkpoint, of `save` or of `python -m app fit`."""
        found = cls()
        found.checkpoint = Path(path)
        opened(found._arguments())
        return found

    def _trained(self) -> Path:
        if self.checkpoint is None:
            raise ValueError("the classifier was not trained yet; call fit, or Classifier.load")
        return self.checkpoint

    def _arguments(self) -> argparse.Namespace:
        return argparse.Namespace(ckpt=self._trained(), device=None, piece=None)

    def _answered(self, sequences: Sequenced, verb: str) -> DataFrame:
        arguments, repairs, passed = self._arguments(), Repairs(), Passed()
        reader, read = opened(arguments)
        found = []
        with TemporaryDirectory() as folder:
            memory = Path(folder, "sequences.parquet")
            try:
                for records in read.stream(_asked(sequences, memory, read.layout), arguments.piece, passed):
                    repairs.add(records.repairs)
                    found.append(answered(reader, records, verb))
            except ValueError as error:  # a name that nobody gave helps nobody
                raise ValueError(str(error).replace(str(memory), "sequences")) from error
        if not found:
            raise ValueError(f"no sequence could be read; {passed}")
        for line in filter(None, (str(repairs), str(passed))):
            rank_zero_warn(line)
        return pd.concat(found, ignore_index=True)


def _asked(sequences: Sequenced, memory: Path, layout: Layout) -> Path:
    """The file that is read: the one given, or `memory`, into which sequences are written with their names."""
    if _is_dna(sequences):
        raise ValueError("a text names a file, and this one looks like a sequence; give a list, [sequence]")
    if isinstance(sequences, str | Path):
        return Path(sequences)
    if not isinstance(sequences, DataFrame):
        rows = [*(sequences.values() if isinstance(sequences, Mapping) else sequences)]
        if any(isinstance(one, Path) for one in rows):
            raise ValueError("a list is of sequences, and files are read one at a time; give one path")
        ids = [getattr(one, "id", f"row{row}") for row, one in enumerate(rows)]
        ids = list(sequences) if isinstance(sequences, Mapping) else ids
        sequences = DataFrame({layout.id_col: ids, layout.sequence_col: [getattr(one, "seq", one) for one in rows]})
    _table(sequences).to_parquet(memory)
    return memory


def _is_dna(given: object) -> bool:
    """Whether a text is a sequence, where the name of a file is wanted."""
    return isinstance(given, str) and set(given.upper()) <= {*LETTERS, "U"}


def _is_file(given: object) -> bool:
    """Whether it names a file."""
    return isinstance(given, str | Path) and not _is_dna(given)


def _table(given: DataFrame) -> DataFrame:
    """The table with text in every column of mixed kinds, which no parquet file holds.

    Raises:
        ValueError: two columns of one name.
    """
    table = given.rename(columns=str)
    if not table.columns.is_unique:
        name = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"two columns of the table are called {name!r}; rename or drop one")
    mixed = [pd.api.types.is_object_dtype(kind) for kind in table.dtypes]
    for name in table.columns[mixed]:
        table[name] = pd.Series([_text(cell) for cell in table[name]], table.index, object)
    return table


def _text(cell: object) -> object:
    """A cell as text, None where it is missing; lists and the like as they are."""
    if cell is None or cell is pd.NA or cell is pd.NaT or isinstance(cell, float) and np.isnan(cell):
        return None
    if isinstance(cell, list | tuple | dict | np.ndarray):
        return cell
    return cell.decode("ascii", "replace") if isinstance(cell, bytes) else str(cell)


def _word(value: object) -> str:
    """A value as the command line takes it."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
