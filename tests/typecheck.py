"""The type checker's part of `make lint`: no folder may have more complaints than `type_errors.yaml` allows.

Run it as `python -m tests.typecheck`. What is checked, and how strictly, is in pyproject.toml.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

MOST_TOLD = 30  # complaints that are printed
ALLOWED = Path(__file__).with_name("type_errors.yaml")


def complaints() -> list[dict]:
    """Every complaint of the checker about the repository.

    Raises:
        SystemExit: the checker did not run; its own words are the message.
    """
    # the same Python's packages are what the code imports
    command = [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable]
    command += ["--output-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ALLOWED.parent.parent)
    try:
        found = json.loads(done.stdout)["errors"]
    except (ValueError, KeyError):
        sys.exit(f"the type checker did not run: {done.stderr.strip() or done.stdout.strip()}")
    return [error for error in found if error["severity"] == "error"]


def verdict(counts: dict[str, int], allowed: dict[str, int]) -> tuple[list[str], list[str]]:
    """Folders with more complaints than they may have, and those with fewer, as lines to print."""
    more, fewer = [], []
    for folder in counts | allowed:
        now, most = counts.get(folder, 0), allowed.get(folder, 0)
        if now > most:
            more.append(f"{folder}: {now} complaints, {most} at most")
        elif now < most:
            fewer.append(f"{folder}: {now} complaints, write {now} for {most}")
    return more, fewer


def main() -> None:
    errors = complaints()
    counts = Counter(Path(error["path"]).parts[0] for error in errors)
    more, fewer = verdict(counts, yaml.safe_load(ALLOWED.read_text()))
    for line in fewer:
        print(f"types: fewer than {ALLOWED.name} allows in {line}")
    if not more:
        return
    worse = {line.split(":")[0] for line in more}
    told = [error for error in errors if Path(error["path"]).parts[0] in worse]
    for error in told[:MOST_TOLD]:
        print(f"{error['path']}:{error['line']}: {error['concise_description']} [{error['name']}]")
    if len(told) > MOST_TOLD:
        print(f"... and {len(told) - MOST_TOLD} more: python -m pyrefly check")
    sys.exit("types: " + "; ".join(more))


if __name__ == "__main__":
    main()
