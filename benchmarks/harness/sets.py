"""The nine sets of the paper's Table 1 from files of the user's, in the fields that tasks/*.yaml ask for."""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import Any

import yaml

from app.errors import UserError
from data_prep.corpora import kind
from data_prep.unpack import read_bytes

Fields = dict[str, Any]
TASKS = Path(__file__).parent / "tasks"
STARTS = {  # of a file's name, in the order of the paper's columns; the harness's name of each set is among them
    "wikitext": ("wikitext", "wiki.test"),
    "lambada_openai": ("lambada",),
    "piqa": ("piqa",),
    "hellaswag": ("hellaswag",),
    "winogrande": ("winogrande",),
    "arc_easy": ("arc_easy", "arc-easy"),
    "arc_challenge": ("arc_challenge", "arc-challenge"),
    "social_iqa": ("social_iqa", "siqa"),
    "boolq": ("boolq",),
}
SPACING = [  # what undoes WikiText's tokens, in this order, as the harness does it
    ("s '", "s'"),
    *((re.escape(f" @{sign}@ "), sign) for sign in "-,."),
    *((re.escape(f" {sign} "), f"{sign} ") for sign in ":;.!?,"),
    *((rf"\{a}\s*([^\{b}]*?)\s*\{b}", rf"{a}\1{b}") for a, b in ("()", "[]", "{}", '""', "''")),
    *(("= " * n + "=", "=" * (n + 1)) for n in (3, 2, 1)),
    (" \u00b0 ", "\u00b0"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
]


def find(folder: Path, name: str) -> Path:
    """The file of a set, any txt, tokens, jsonl or parquet whose name starts like the set's.

    Raises:
        UserError: there is none, or more than one.
    """
    starts = STARTS[name]
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [file for file in files if kind(file) and file.name.lower().startswith(starts)]
    if len(found) != 1:
        what = f"{' and '.join(file.name for file in found)} are both" if found else f"no {name}.parquet or .jsonl is"
        raise UserError(f"{folder}: {what} there for {name}; domains/text/README.md says which file it takes")
    return found[0]


def task(name: str, path: Path) -> Fields:
    """The harness's configuration of a set: its YAML, with the rows of a file."""
    return {**yaml.safe_load((TASKS / f"{name}.yaml").read_text()), **_dataset(name, path)}


def _dataset(name: str, path: Path) -> Fields:
    def load(**_: object) -> Any:
        from datasets import Dataset  # comes with the harness

        return {"rows": Dataset.from_list(rows(name, path))}

    given = {"custom_dataset": load, "test_split": "rows"}
    return {**given, "process_results": _of_the_article} if name == "wikitext" else given


def rows(name: str, path: Path) -> list[Fields]:
    """The rows of a set's file, with answers counted from 0.

    Raises:
        UserError: names the file and the row that cannot be read.
    """
    made = []
    for number, row in enumerate(_read(path, name), 1):
        try:
            made.append(READ[name](row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            reason = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
            raise UserError(
                f"{path}, row {number} {reason} of {name}; it has {fields}: give the part with answers"
            ) from error
    if not made:
        raise UserError(f"{path}: no row is in it; fetch it again")
    return made


def _read(path: Path, name: str) -> Iterator[Any]:
    line = ""
    try:
        match kind(path):
            case ".parquet":
                from pyarrow.parquet import read_table

                yield from read_table(path).to_pylist()
            case ".jsonl":
                for number, text in enumerate(read_bytes(path).decode().split("\n"), 1):
                    line = f", line {number}"
                    if text.strip():
                        yield json.loads(text)
            case _ if name == "wikitext":
                yield from ({"page": page} for page in articles(read_bytes(path).decode()))
            case _:
                raise UserError(f"{path}: {name} is read from jsonl or parquet")
    except (ValueError, OSError, EOFError, LZMAError, zlib.error) as error:
        raise UserError(f"{path}{line}: damaged ({error}); fetch it again") from error


def articles(text: str) -> Iterator[str]:
    """The articles of a WikiText file, each from its title on."""
    article: list[str] = []
    for line in text.split("\n"):
        if re.fullmatch(r"\s*= (?!=).*(?<!=) =\s*", line):
            if "".join(article).strip():
                yield "\n".join(article)
            article = []
        article.append(line)
    yield "\n".join(article)


def _wikitext(row: Fields) -> Fields:
    page = text = row["page"]
    for pattern, put in SPACING:
        text = re.sub(pattern, put, text)
    return {"text": text, "words": len(re.split(r"\s+", page)), "bytes": len(page.encode())}


def _of_the_article(row: Fields, results: list[float]) -> dict[str, tuple[float, int]]:
    return {"word_perplexity": (results[0], row["words"]), "bits_per_byte": (results[0], row["bytes"])}


def _hellaswag(row: Fields) -> Fields:
    if "query" in row:
        return {"query": row["query"], "choices": row["choices"], "label": int(row["label"])}
    scene = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {"query": _plain(scene), "choices": [_plain(end) for end in row["endings"]], "label": int(row["label"])}


def _plain(text: str) -> str:
    """Without the marks that WikiHow's part is full of."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _arc(row: Fields) -> Fields:
    if "answerKey" not in row:
        return {"question": row["question"], "choices": row["choices"], "label": int(row["label"])}
    choices = row["choices"]
    label = list(choices["label"]).index(row["answerKey"])
    return {"question": row["question"], "choices": list(choices["text"]), "label": label}


def _social_iqa(row: Fields) -> Fields:
    if "choices" in row:
        return {"question": row["question"], "choices": row["choices"], "label": int(row["label"])}
    choices = [row[f"answer{letter}"] for letter in "ABC"]
    return {"question": f"{row['context']} {row['question']}", "choices": choices, "label": int(row["label"]) - 1}


def _boolq(row: Fields) -> Fields:
    label = row["label"] if "label" in row else row["answer"]
    return {"passage": row["passage"], "question": row["question"], "label": int(label)}


READ: dict[str, Callable[[Fields], Fields]] = {
    "wikitext": _wikitext,
    "lambada_openai": lambda row: {"text": row["text"]},
    "piqa": lambda row: {**{name: row[name] for name in ("goal", "sol1", "sol2")}, "label": int(row["label"])},
    "hellaswag": _hellaswag,
    "winogrande": lambda row: {
        **{name: row[name] for name in ("sentence", "option1", "option2")},
        "label": int(row["answer"]) - 1,
    },
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "social_iqa": _social_iqa,
    "boolq": _boolq,
}
