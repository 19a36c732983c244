"""Fetches public data sets: plain functions and `python -m data_prep`, importing nothing else of this project."""
