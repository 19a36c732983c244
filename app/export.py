"""A trained model without its training: weights as safetensors, all else as JSON, neither of which can hold code.

    python -m app export runs/my/version_0/checkpoints/best.ckpt exported

`load` reads what `write` writes; a domain may have a writer of its own, see `app.verbs.Domain`.
"""

import argparse
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from app.errors import UserError
from app.files import make_folder, replacing, write_text
from app.module import TitansModule, built, class_name, module_of, read_checkpoint
from app.reading import reading
from app.verbs import EXPORT, registered

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CURE = "export the checkpoint again"
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"  # what makes a head of the class that is named
Writer = Callable[[TitansModule, dict[str, Any], Path], None]


def main(arguments: argparse.Namespace) -> None:
    """The verb `export`.

    Raises:
        UserError: what writes the files is not installed, or they cannot be written.
    """
    content = read_checkpoint(arguments.ckpt)
    module = module_of(content, arguments.ckpt).cpu()
    head = class_name(module.head)
    writer = next((domain.export for domain in registered() if head.startswith(f"{domain.package}.")), EXPORT)
    package, _, function = writer.partition(":")
    write: Writer = getattr(import_module(package), function)
    make_folder(arguments.folder)
    try:
        write(module, content["hyper_parameters"], arguments.folder)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; export needs pip install -e '.[hf]'") from error
    print(f"exported: {arguments.folder}")


def write(module: TitansModule, settings: dict[str, Any], folder: Path) -> None:
    """Write a model of any domain, for `load`: tensors under their names, and what they are tensors of.

    Args:
        module: the model.
        settings: the hyper-parameters of its checkpoint.
        folder: where to; it is made if need be.

    Raises:
        UserError: a file cannot be written.
    """
    from safetensors.torch import save_file  # of an extra

    content = module.state_dict()
    weights = {name: value.contiguous() for name, value in content.items() if isinstance(value, Tensor)}
    model = {
        "head": class_name(module.head),
        "hyper_parameters": {name: settings[name] for name in ("head", "backbone")},
        "extra_state": {name: value for name, value in content.items() if name not in weights},
    }
    with replacing(folder / WEIGHTS) as part:
        save_file(weights, part, {"format": "pt"})
    write_text(folder / CONFIG, json.dumps(model, indent=2) + "\n")


def load(folder: str | Path) -> TitansModule:
    """A model that `write` has written, ready to answer, on a GPU where there is one.

    Raises:
        FileNotFoundError: there is no such model.
        Unreadable: a file is damaged, or of another kind of model.
        UserError: the model does not fit the head it names.
    """
    from safetensors.torch import load_file  # of an extra

    with reading(folder, "an exported model", CURE):
        model: dict[str, Any] = json.loads(Path(folder, CONFIG).read_bytes())
        model["state_dict"] = load_file(Path(folder, WEIGHTS)) | model.pop("extra_state")
        model["hyper_parameters"]["_instantiator"] = INSTANTIATOR
    return built(model, folder)
