"""BABILong, asked of a checkpoint: `python -m benchmarks.babilong --ckpt FILE --tasks qa1 --lengths 4096,131072`.

bAbI's test questions among sentences of validation books, scored as the benchmark does; 1,000 samples up to 32K tokens,
100 beyond. Lengths count prompt and answer in the model's own tokens.
"""

import argparse
import re

import numpy as np

from app.module import load_module
from app.versions import device_name
from benchmarks.longcontext import answers, draw, kept
from benchmarks.rows import RESULTS, Row, write
from data_prep.tokenizer import sha256
from domains.text.babilong import SHORTEST, BabiTask, is_right, stories
from domains.text.haystack import Haystack

LONGEST_ANSWER = 20  # tokens
AIM = {131072: (90, 90), 1048576: (None, 93)}  # must and aim of qa1; at the training length 95


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.babilong", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--tasks", default="qa1", help="qa1 to qa5 (%(default)s)")
    parser.add_argument("--lengths", default="1024,4096,16384,131072", help="tokens (%(default)s)")
    parser.add_argument("--samples", type=int, help="of each task and length (1000 up to 32K, 100 beyond)")
    parser.add_argument("--seed", type=int, default=42, help="of the samples (%(default)s)")
    parser.add_argument("--corpus", default="books", help="whose validation part is the background (%(default)s)")
    parser.add_argument("--tokens", type=int, default=262_144, help="read at a time, in all prompts of a batch")
    parser.add_argument("--name", default="babilong", help="of the results (%(default)s)")
    given = parser.parse_args()
    module = load_module(given.ckpt)
    tokenizer, variant = module.head.tokenizer, module.backbone.config.variant
    background = Haystack(given.corpus, "val", tokenizer, 1 << 40, SHORTEST, collapse=False)
    rows, trained = [], module.head.context
    for task in given.tasks.split(","):
        builder, scores = BabiTask(task, tokenizer, background, stories(task, "test")), {}
        for length in map(int, given.lengths.split(",")):
            count = given.samples or (1000 if length <= 32768 else 100)
            usable = builder.usable(length)[:count]

            def make(usable=usable, length=length, task=task, builder=builder):
                for number, story in enumerate(usable):
                    yield builder.build(
                        story, length, np.random.default_rng([given.seed, int(task[2:]), length, number])
                    )

            key = f"{task}-{length}-{count}-{given.seed}-{given.corpus}-{sha256(tokenizer)[:16]}"
            questions = kept(re.sub(r"\W+", "-", key), make) if length <= 32768 else list(make())
            done = lambda text, q: "." in text  # noqa: E731  (only the first sentence is scored)
            found = answers(module, questions, max(given.tokens // length, 1), LONGEST_ANSWER, done)
            right = [is_right(a.question.expected, a.text, a.question.question, task) for a in found]
            scores[length] = [(a.question.depth, ok) for a, ok in zip(found, right, strict=True)]
            must, aim = (95, None) if length == trained else AIM.get(length, (None, None))
            rows.append(
                Row(
                    metric=f"BABILong {task} {length:,} {variant}",
                    value=100 * sum(right) / len(right),
                    spread=None,
                    unit="%",
                    must=f">= {must}" if must and task == "qa1" else "",
                    aim=f">= {aim}" if aim and task == "qa1" else "",
                    seeds=[given.seed],
                    device=device_name(module.device),
                    command=f"python -m benchmarks.babilong --ckpt {given.ckpt} --lengths {given.lengths}",
                    note=f"{len(found)} of bAbI's test questions, trained on the task at {trained:,} tokens",
                )
            )
            print(f"{rows[-1].metric}: {rows[-1].value:.1f} % ({rows[-1].note})", flush=True)
            write(given.name, rows)
            draw(RESULTS / f"{given.name}_{task}.png", scores, f"BABILong {task}, {variant}")


if __name__ == "__main__":
    main()
