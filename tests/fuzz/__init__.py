"""Damaged files against every reader: `python -m tests.fuzz` counts what comes of thousands, the suite reads some."""
