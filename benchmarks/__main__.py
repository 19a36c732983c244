"""Print every result that is outside a bound of its JSON; exit code 1 if one is outside the bound `must`."""

import sys

from benchmarks.shared.rows import RESULTS, read

paths = sorted(RESULTS.glob("*/*.json"))
if not paths:
    sys.exit(f"error: there are no results in {RESULTS}/; go to the repository's folder, which has them")
missed = [(path.stem, row) for path in paths for row in read(path) if row.misses()]
for name, row in missed:
    bounds = ", ".join(f"{bound} {getattr(row, bound)}" for bound in row.misses())
    value = f"{row.value:.4g} {row.unit}".strip()
    print(f"{name}: {row.metric} is {value}, misses {bounds} ({row.date}: {row.command})")
if not missed:
    print(f"every row of {RESULTS}/ keeps its bounds")
sys.exit(any("must" in row.misses() for _, row in missed))
