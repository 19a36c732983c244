"""Tables that are written as they come, so that none is too long for the machine's memory."""

from pathlib import Path

import pandas as pd
import pyarrow
from pyarrow import parquet

TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".parquet": ""}  # endings and what parts their columns


class TableWriter:
    """A table that grows on disk: tsv, csv or parquet by its name; all but parquet can be read after a break.

    Args:
        path: the file; what it held before is replaced.

    Raises:
        ValueError: a name of another kind.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in TABLES:
            raise ValueError(f"{path}: an output ends in .tsv, .csv or .parquet; rename it")
        self.path, self.writer, self.first = path, None, True

    def write(self, table: pd.DataFrame) -> None:
        """Append rows."""
        if self.path.suffix != ".parquet":
            table.to_csv(
                self.path, sep=TABLES[self.path.suffix], mode="w" if self.first else "a", header=self.first, index=False
            )
        else:
            rows = pyarrow.Table.from_pandas(table, preserve_index=False)
            self.writer = self.writer or parquet.ParquetWriter(self.path, rows.schema)
            self.writer.write_table(rows)
        self.first = False

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
