"""Tables that are written as they come, so that none is too long for the machine's memory."""

from pathlib import Path

import pandas as pd
import pyarrow
from pyarrow import parquet

from app.files import settle, unwritable

TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".parquet": ""}  # endings and what parts their columns


class TableWriter:
    """A table that grows on disk, tsv, csv or parquet by its name, and takes its place only when it is whole.

    Until then the rows lie in `NAME.part` beside it; of a command that broke off these are left, and all but those of
    a parquet file can be read.

    Args:
        path: the file; what it held before is replaced by a table that was closed without an error.

    Raises:
        ValueError: a name of another kind.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in TABLES:
            raise ValueError(f"{path}: an output ends in .tsv, .csv or .parquet; rename it")
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.writer: parquet.ParquetWriter | None = None
        self.first = True

    def write(self, table: pd.DataFrame) -> None:
        """Append rows.

        Raises:
            UserError: they cannot be written.
        """
        try:
            self._append(table)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.first = False

    def _append(self, table: pd.DataFrame) -> None:
        if separator := TABLES[self.path.suffix]:
            mode = "w" if self.first else "a"
            table.to_csv(self.part, sep=separator, mode=mode, header=self.first, index=False)
            return
        rows = pyarrow.Table.from_pandas(table, preserve_index=False)
        self.writer = self.writer or parquet.ParquetWriter(self.part, rows.schema)
        self.writer.write_table(rows)

    def close(self) -> None:
        """Finish the file and put it in its place, if there is a row.

        Raises:
            UserError: it cannot be written.
        """
        if self.first:
            return
        try:
            if self.writer is not None:
                self.writer.close()
            settle(self.part, self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error
