"""The verbs of `python -m app`: those that every domain has, and what each domain's folder adds to them.

Nothing here imports a domain. Its file `verbs.py` is run by itself, without the package around it, whose import would
take seconds: so that file, like this one, needs nothing but Python and this module.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

PROGRAM = "python -m app"
EXPORT = "app.export:write"  # what writes a model of a domain that names no writer of its own
KEYS = "--config conf/NAME.yaml [--config MORE.yaml] [--key.subkey VALUE ...]"


@dataclass(frozen=True)
class Verb:
    """A command `python -m app NAME`.

    Args:
        name: what is typed.
        summary: one line for the list of verbs.
        example: a command line that works, behind `python -m app`.
        options: adds the verb's own options to a parser, which has `--ckpt` already.
        run: `package.module:function`, imported only once the arguments are read. It takes them as an
            argparse.Namespace, in which `ckpt` is a Path and `command` the whole command line for the record.
        keys: whether keys of a configuration may follow, as for `fit`. They come unread in `keys`, a list of words, and
            `ckpt` is then a text or None: `best`, `last` or a file.
    """

    name: str
    summary: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    run: str
    keys: bool = False


@dataclass(frozen=True)
class Domain:
    """What a domain adds to the command line.

    Args:
        package: `domains.NAME`, with which the class names in its checkpoints begin.
        verbs: its own.
        renamed: options of the shared verbs that are spelled otherwise now, {old: new}.
        linked: what its head takes from its data, by one name for both, beside what every head does.
        export: `package.module:function`, which writes a model of it for `export`.
    """

    package: str
    verbs: tuple[Verb, ...]
    renamed: dict[str, str]
    linked: tuple[str, ...]
    export: str

    @property
    def name(self) -> str:
        """The folder."""
        return self.package.rpartition(".")[2]


def registered() -> list[Domain]:
    """Every domain with a file `domains/NAME/verbs.py`, in the order of their names."""
    root = find_spec("domains")
    folders = root.submodule_search_locations if root else None
    return [_read(file) for file in sorted(file for path in folders or () for file in Path(path).glob("*/verbs.py"))]


@cache
def _read(path: Path) -> Domain:
    """What a domain's `verbs.py` says; a command asks several times."""
    package = f"domains.{path.parent.name}"
    spec = spec_from_file_location(f"{package}.verbs", path)
    assert spec is not None and spec.loader is not None, f"{path} is a file of Python"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return Domain(
        package,
        module.VERBS,
        getattr(module, "RENAMED", {}),
        getattr(module, "LINKED", ()),
        getattr(module, "EXPORT", EXPORT),
    )


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the verb has no option beside those of its kind."""


def surprise_options(parser: argparse.ArgumentParser) -> None:
    """Those of `surprise`, a verb of every domain whose tokens a reader can see."""
    parser.add_argument("input", metavar="FILE", type=Path, help="what the model is to read")
    text = "the page to write, else surprise.html in the folder of the checkpoint's run"
    parser.add_argument("--output", metavar="FILE", type=Path, help=text)


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="FILE", type=Path, help="a file of your own, in place of the data's part")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the table to write, .csv or .parquet; else predictions.csv in the folder of the checkpoint's run",
    )


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write; it is made if need be")


RUN = "app.cli:run"
SHARED = (
    Verb(
        "fit",
        "train a model, or go on with a training (--ckpt last)",
        "fit --config conf/timeseries_ett.yaml --data.horizon 192",
        no_options,
        RUN,
        keys=True,
    ),
    Verb(
        "validate",
        "score a checkpoint on the validation part",
        "validate --config conf/timeseries_ett.yaml --ckpt last",
        no_options,
        RUN,
        keys=True,
    ),
    Verb(
        "test",
        "score a checkpoint on the test part, beside published scores; leaves results.json",
        "test --config conf/timeseries_ett.yaml",
        no_options,
        RUN,
        keys=True,
    ),
    Verb(
        "predict",
        "write a model's answers as a table, for the test part of the data or for your own file",
        "predict --ckpt runs/my/version_0/checkpoints/best.ckpt --input newer.csv --output answers.csv",
        _predict_options,
        RUN,
        keys=True,
    ),
    Verb(
        "export",
        "write a model as safetensors and JSON, a language model as a Hugging Face folder",
        "export --ckpt runs/my/version_0/checkpoints/best.ckpt exported",
        _export_options,
        "app.export:main",
    ),
)
