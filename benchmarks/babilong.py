"""BABILong, asked of a checkpoint: `python -m benchmarks.babilong --ckpt FILE --tasks qa1 --lengths 4096,131072`.

bAbI's test questions among sentences of validation books, scored as the benchmark does; 1,000 samples up to 32K tokens,
100 beyond. Lengths count prompt and answer in the model's own tokens.
"""

import sys
from collections.abc import Iterator
from itertools import product

import numpy as np

from app.door import respelled
from benchmarks.shared.longcontext import Report, answers, arguments, kept, models
from domains.text.babilong import SHORTEST, BabiTask, is_right, stories
from domains.text.haystack import Haystack
from domains.text.needle import Question

LONGEST_ANSWER = 20  # tokens
AIM = {131072: (90, 90), 1048576: (None, 93)}  # must and aim of qa1; at the training length 95


def samples(builder: BabiTask, length: int, count: int, seed: int) -> Iterator[Question]:
    """The first `count` questions that are short enough, each in a background of its own."""
    for number, story in enumerate(builder.usable(length)[:count]):
        yield builder.build(story, length, np.random.default_rng([seed, int(builder.task[2:]), length, number]))


def main() -> None:
    parser = arguments("babilong", __doc__.splitlines()[0])
    parser.add_argument("--tasks", default="qa1", help="qa1 to qa5 (%(default)s)")
    parser.add_argument("--lengths", default="1024,4096,16384,131072", help="tokens (%(default)s)")
    parser.add_argument("--samples", type=int, help="of each task and length (1000 up to 32K, 100 beyond)")
    given = parser.parse_args(respelled(sys.argv[1:], {}))
    report = Report("babilong", given)
    for module in models(given):
        tokenizer, trained = module.head.tokenizer, module.head.context
        background = Haystack(given.corpus, "val", tokenizer, 1 << 40, SHORTEST, collapse=False)
        builders = {
            task: BabiTask(task, tokenizer, background, stories(task, "test")) for task in given.tasks.split(",")
        }
        for (task, builder), length in product(builders.items(), map(int, given.lengths.split(","))):
            count = given.samples or (1000 if length <= 32768 else 100)
            questions = kept(
                f"{task}-{length}-{count}-{given.seed}-{background.key}",
                lambda builder=builder, length=length, count=count: samples(builder, length, count, given.seed),
            )
            # only the first sentence is scored
            found = answers(
                module, questions, max(given.tokens // length, 1), LONGEST_ANSWER, lambda text, _: "." in text
            )
            must, aim = (95, None) if length == trained else AIM.get(length, (None, None))
            report.add(
                module,
                f"BABILong {task}",
                length,
                [(a.question.depth, is_right(a.question.expected, a.text, a.question.question, task)) for a in found],
                (f">= {must}" if must and task == "qa1" else "", f">= {aim}" if aim and task == "qa1" else ""),
                f"bAbI's test questions, trained on the task at {trained:,} tokens",
            )


if __name__ == "__main__":
    main()
