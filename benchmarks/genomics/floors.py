"""The floors of a task: a run like a training, in a process of its own."""

from importlib import import_module
from typing import Any

from app.versions import versions
from benchmarks.shared.runs import Run, resolved
from domains.genomics.readers import Layout


def floors_of(run: Run) -> dict[str, Any]:
    """What says nothing about biology, on the test part of a task."""
    data = resolved(run.options)["data"]
    package, _, name = data["class_path"].rpartition(".")
    settings = data["init_args"] | {"floors": True}
    if "layout" in settings:
        settings["layout"] = Layout(**settings["layout"])
    module = getattr(import_module(package), name)(**settings)
    module.setup()
    return {"floors": module.report["floors"], "versions": versions()}
