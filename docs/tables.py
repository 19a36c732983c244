"""The page that says how to make every table of results again, from the rows themselves."""

from benchmarks.shared.rows import RESULTS, read

INTRODUCTION = """# Reproducing every table

Made of `results/*/*.json`: every row carries the command, device, seeds and commit that it was measured with. A command
writes its rows again and goes on where it was stopped; `python -m benchmarks.pages` makes the pages of the rows, and
`python -m benchmarks` says which rows are outside their bounds. What a command must be given first:

| command | needs |
| --- | --- |
| `benchmarks.timeseries`, `ablation`, `coverage` | `python -m data_prep timeseries` |
| `benchmarks.genomics` | `python -m data_prep genomics --set all` |
| `benchmarks.text`, `streaming` | `python -m data_prep text --corpus books --tokenizer gpt2` |
| `benchmarks.language` | `python -m data_prep text --corpus code --tokenizer bpe-8192` |
| `benchmarks.needle`, `babilong` | `pip install -e '.[longcontext]'`, a checkpoint of `conf/text_needle.yaml` |
| `benchmarks.recall`, `capture`, `decode`, `kernel`, `throughput` | nothing; a GPU for all but small parts |
"""


def page() -> str:
    """Markdown: of each file of results the commands that its rows were measured with."""
    parts = [INTRODUCTION]
    for path in sorted(RESULTS.glob("*/*.json")):
        rows = read(path)
        ways = dict.fromkeys((row.command, row.device, row.date) for row in rows)
        link = f"../{path.relative_to(RESULTS.parent).with_suffix('.md').as_posix()}"
        parts += [f"## [{path.stem}]({link})\n", "| command | device | date |", "| --- | --- | --- |"]
        parts += [f"| `{command}` | {device} | {date} |" for command, device, date in ways]
        parts.append("")
    return "\n".join(parts)
