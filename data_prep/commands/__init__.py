"""The commands `python -m data_prep NAME`: one file each, found by its name.

A file has a docstring, whose first line is its help, `add_arguments(parser)`, and `run(options)`.
"""
