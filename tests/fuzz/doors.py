"""What comes in by other doors: files of configuration, bodies of requests, saved states and exported folders."""

import functools
import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from app.door import main
from app.errors import UserError
from app.export import CONFIG, WEIGHTS, load, write
from app.module import TitansModule
from domains.text import LanguageHead
from domains.text.reader import Reader
from domains.text.serving.asked import Limits, Refused, understood
from memory import BackboneConfig, MemoryConfig
from memory.state import State
from tests.domains.text.conftest import FromSample
from tests.fuzz.checkpoints import HERE, content, saved  # which has put the toy domain on the path
from tests.fuzz.damage import BYTES, LINES, VALUES, Draw, as_json, damaged, damaged_tree
from tests.fuzz.run import Format, names

TOY = yaml.safe_load((HERE / "toy.yaml").read_text()) | {"seed_everything": 0}
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.fast_dev_run=true")
BODY = {"model": "tiny", "prompt": ["Ada", [1, 2]], "n": 1, "max_tokens": 9, "temperature": 0.5, "top_k": 3,
        "top_p": 0.9, "min_p": 0.1, "stop": ["a", "b"], "seed": 7, "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": None, "echo": False, "best_of": 1, "user": "me", "logit_bias": {}, "suffix": None}  # fmt: skip


def accepted(_: bytes) -> list[Any]:
    """What is accepted works; nothing else is to compare."""
    return [None]


def configured(path: Path) -> None:
    """A step of training by a file of configuration; an error names the file or a key."""
    said = io.StringIO()
    with chdir(path.parent), redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            main(["fit", "--config", path.name, *QUIET])
        except SystemExit as stop:
            line = said.getvalue().strip().splitlines()[-1]
            named = line.startswith("error: ") and stop.code == 2 and (path.name in line or names(line, keys_in(path)))
            raise UserError(f"{path.name if named else 'no key'}: {line}") from None
        finally:
            os.environ.pop("PL_GLOBAL_SEED", None)


def keys_in(path: Path) -> set[str]:
    """The keys that a file should hold, and those that it does: one that is not known can only be named by itself."""
    try:
        found = yaml.safe_load(path.read_bytes())
    except Exception:
        found = None
    return {str(key) for tree in (TOY, found) for key, _ in keys_of(tree)}


def keys_of(tree: Any) -> list[tuple[str, Any]]:
    """Every key of a tree of dicts, with its value."""
    if not isinstance(tree, dict):
        return []
    return [pair for key, value in tree.items() for pair in ((key, value), *keys_of(value))]


@st.composite
def configs(draw: Draw) -> bytes:
    """Files of configuration, with another value or a damaged line."""
    if draw(st.booleans()):
        return draw(damaged((HERE / "toy.yaml").read_bytes(), (*LINES, *BYTES)))
    plain = tuple(value for value in VALUES if not isinstance(value, str) or value.isascii())
    return yaml.safe_dump(draw(damaged_tree(TOY, plain))).encode()


def asked(path: Path) -> None:
    """What a server makes of a body."""
    limits = Limits("tiny", 257, lambda text: list(text.encode()), 6, 200, 100)
    try:
        understood(json.loads(path.read_bytes()), limits)
    except Refused as refused:
        raise UserError(f"{path.name}: {refused}") from refused


@functools.cache
def module(variant: str) -> TitansModule:
    """A small model of bytes."""
    torch.manual_seed(0)
    config = BackboneConfig(variant, 16, 1, window=6, segment=4, conv=2, memory=MemoryConfig(heads=2, chunk=4))
    made = TitansModule(LanguageHead(16, 257), config)
    made.head.fit_to(FromSample())
    return made.eval()


@functools.cache
def state(variant: str) -> bytes:
    """A saved state of the model."""
    reader = Reader(module(variant))
    reader.read(torch.tensor([[256, 65, 66, 67, 68, 69]]))
    with tempfile.TemporaryDirectory() as folder:
        reader.save(Path(folder, "x.state"))
        return Path(folder, "x.state").read_bytes()


def places(value: Any) -> list[tuple[Callable[[Any], None], Any]]:
    """How to set everything inside of a tree of states, dicts and lists, and what stands there."""
    inside = vars(value).items() if isinstance(value, State) else value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    found = []
    for key, part in list(inside):
        holder = vars(value) if isinstance(value, State) else value
        found += [(functools.partial(holder.__setitem__, key), part), *places(part)]
    return found


@st.composite
def states(draw: Draw, variant: str) -> bytes:
    """Saved states in which something is another, or bytes are."""
    if draw(st.booleans()):
        return draw(damaged(state(variant), BYTES))
    tree = content(state(variant))
    put, old = draw(st.sampled_from(places(tree)))
    plain = (None, 1, -1, 2**40, 1.5, True, "x", [], {}, torch.zeros(()), torch.zeros(3), torch.ones(1, dtype=int))
    put(draw(st.sampled_from((*plain, *others(old)))))
    return saved(tree)


def others(old: Any) -> list[Any]:
    """Tensors and lists that are like one in almost everything."""
    if isinstance(old, list):
        return [old[:-1], old + old, [*old, torch.zeros(3)], [*old, None]]
    if not isinstance(old, torch.Tensor):
        return []
    found = [old.to(dtype) for dtype in (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)]
    found += [old.to_sparse(), old.to("meta"), old[None], old.mT]
    found += [torch.full_like(old, value) for value in (torch.nan, torch.inf) if old.is_floating_point()]
    for axis, size in enumerate(old.shape):
        found += [old.narrow(axis, 0, size - 1), torch.cat([old, old], axis)]
    return found


def gone_on_from(path: Path, variant: str) -> None:
    """Tokens more behind a saved state, together and in rows that stand apart."""
    reader = Reader(module(variant))
    reader.load(path)
    together = reader.read(torch.tensor([[65, 66, 67, 68, 69]]))
    apart, _ = reader.read_each([[65, 66], [67]], 40)
    if not (together.isfinite().all() and apart.isfinite().all()):
        raise AssertionError("no finite logits")


def stored(variant: str, share: float) -> Format:
    """States of one variant."""
    go_on = functools.partial(gone_on_from, variant=variant)
    return Format(f"{variant}.state", "fuzzed.state", states(variant), go_on, accepted, share=share)


@functools.cache
def exported() -> dict[str, bytes]:
    """Files of an exported model of the toy domain."""
    from toy import ToyHead

    made = TitansModule(ToyHead(8), BackboneConfig(dim=8, layers=1, memory=MemoryConfig(heads=2, chunk=4)))
    settings = {"head": {"class_path": "toy.ToyHead", "init_args": {"dim": 8}}, "backbone": vars(made.backbone.config)}
    settings["backbone"] = {**settings["backbone"], "memory": vars(made.backbone.config.memory)}
    with tempfile.TemporaryDirectory() as folder:
        write(made, settings, Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def export(path: Path) -> None:
    """A model of an exported folder, one file of which is another."""
    for name, data in exported().items():
        if name != path.name:
            (path.parent / name).write_bytes(data)
    load(path.parent)


def configuration() -> st.SearchStrategy[bytes]:
    """Exported configurations with another value or damaged bytes."""
    whole = exported()[CONFIG]
    return st.one_of(damaged(whole, BYTES), damaged_tree(json.loads(whole)).map(as_json))


FORMATS = (
    Format("config.yaml", "fuzzed.yaml", configs(), configured, accepted, share=0.3),
    Format("request.json", "fuzzed.json", damaged_tree(BODY).map(as_json), asked, accepted),
    *(stored(variant, 0.2) for variant in ("lmm", "mac", "mag", "attention", "swa")),
)
if find_spec("safetensors"):
    weights = st.builds(exported).flatmap(lambda files: damaged(files[WEIGHTS], BYTES))
    FORMATS += (
        Format("exported.json", CONFIG, st.deferred(configuration), export, accepted, named=("/",), share=0.5),
        Format("exported.safetensors", WEIGHTS, weights, export, accepted, named=("/",), share=0.3),
    )
