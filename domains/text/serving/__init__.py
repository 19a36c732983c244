"""A model as a server that writes behind many prompts at once."""

import argparse

from app.errors import UserError


def main(arguments: argparse.Namespace) -> None:
    """The verb `serve`.

    Raises:
        UserError: what the server stands on is not installed.
    """
    try:
        from domains.text.serving.server import main as serve
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; a server needs pip install -e '.[serve]'") from error
    serve(arguments)
