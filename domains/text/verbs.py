"""What language modelling adds to the command line: text from a trained model."""

import argparse
from pathlib import Path

from app.verbs import Verb, surprise_options


def generate_options(parser: argparse.ArgumentParser) -> None:
    """Those of `generate`."""
    parser.add_argument("--prompt", default="", help="text to continue")
    parser.add_argument("--input", metavar="FILE", type=Path, help="a text file of prompts, one a line")
    parser.add_argument("--context", type=Path, help="a text file that is read into the state before the prompt")
    parser.add_argument("--save", type=Path, help="write the state after the context to this file")
    parser.add_argument("--save_turn", metavar="FILE", type=Path, help="write the state after prompt and text: a chat")
    parser.add_argument("--state", type=Path, help="go on from a state that --save or --save_turn wrote")
    parser.add_argument("--no_forgetting", action="store_true", help="keep all that is read: for very long contexts")
    parser.add_argument("--tokens", type=int, default=200, help="most tokens to generate (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (%(default)s)")
    parser.add_argument("--top_k", type=int, default=0, help="keep the k likeliest tokens; 0 for all")
    parser.add_argument("--top_p", type=float, default=1.0, help="keep the likeliest tokens up to this probability")
    parser.add_argument("--min_p", type=float, default=0.0, help="keep tokens this fraction as likely as the likeliest")
    parser.add_argument(
        "--repetition_penalty",
        type=float,
        default=1.0,
        help="divide logits of tokens that were there before; 1 for none",
    )
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[], help="end before this text; repeatable")
    parser.add_argument("--samples", type=int, default=1, help="texts behind each prompt, side by side (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print lines of JSON: prompt, sample, and text without it")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of tokens (%(default)s)")


def positive(text: str) -> int:
    """A number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def port(text: str) -> int:
    """A number of a port, from 1 to 65535; beyond, the system would take another."""
    if positive(text) > 65535:
        raise ValueError
    return int(text)


def serve_options(parser: argparse.ArgumentParser) -> None:
    """Those of `serve`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all (%(default)s)")
    parser.add_argument("--port", type=port, default=8000, help="port to listen at (%(default)s)")
    parser.add_argument("--name", default="titans", help="what clients call the model (%(default)s)")
    parser.add_argument("--rows", type=positive, default=16, help="texts that are written at once (%(default)s)")
    parser.add_argument("--queue", type=positive, default=256, help="most texts that wait for a row (%(default)s)")
    parser.add_argument("--most_tokens", type=positive, default=4096, help="most that may be asked for (%(default)s)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 on a GPU")
    parser.add_argument("--no_forgetting", action="store_true", help="keep all that is read: for very long prompts")


VERBS = (
    Verb(
        "generate",
        "continue a prompt, behind a context of any length",
        'generate --ckpt runs/text_lm/version_0/checkpoints/best.ckpt --prompt "Ada went to" --top_p 0.9',
        generate_options,
        "domains.text.generate:main",
    ),
    Verb(
        "serve",
        "answer requests for completions over HTTP, as OpenAI's server does",
        "serve --ckpt runs/text_lm/version_0/checkpoints/best.ckpt --rows 64",
        serve_options,
        "domains.text.serving:main",
    ),
    Verb(
        "surprise",
        "write a page that shows what the memory did with a text",
        "surprise --ckpt runs/text_lm/version_0/checkpoints/best.ckpt story.txt",
        surprise_options,
        "domains.text.surprise:main",
    ),
)
EXPORT = "domains.text.export:write"
