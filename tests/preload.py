"""What a server that forks processes imports once for all of them, as the command does."""

from importlib import import_module

from app.lean import import_torchmetrics

import_torchmetrics()

for module in ("app.cli", "domains.genomics", "domains.text", "domains.timeseries"):
    import_module(module)
