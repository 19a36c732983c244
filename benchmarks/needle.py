"""RULER's single needles, asked of a checkpoint: `python -m benchmarks.needle --ckpt FILE --lengths 4096,16384`.

Samples are those of RULER in form, a function of seed, task, length and tokenizer. Essays are the validation books,
so these numbers are not RULER's, unless --essays gives the file of Paul Graham's essays.
"""

import re
import sys
from hashlib import sha256
from itertools import product
from pathlib import Path

from rich.progress import track

from app.door import respelled
from benchmarks.shared.longcontext import Report, answers, arguments, kept, models
from data_prep.tokenizer import sha256 as tokenizer_sha256
from domains.text.haystack import Haystack
from domains.text.needle import ROOM, TASKS, Question, RulerTask

NAMES = {"niah_single_1": "S-NIAH-PK", "niah_single_2": "S-NIAH-N", "niah_single_3": "S-NIAH-W"}
MUST = {4096: (95, 95, 85), 16384: (90, 80, 95), 131072: (95, 0, 0)}
AIM = {16384: (96, 80, 99), 131072: (99, 0, 0)}


def matches(text: str, question: Question) -> bool:
    """RULER's `string_match_all`: the value stands in the answer, in any case."""
    return question.expected.lower() in re.sub(r"[\x00-\x1f]", "\n", text).strip().lower()


def bound(table: dict[int, tuple[int, ...]], length: int, task: str) -> str:
    """The bound of a gate, if there is one."""
    value = table.get(length, (0, 0, 0))[list(TASKS).index(task)]
    return f">= {value}" if value else ""


def main() -> None:
    parser = arguments("needle", __doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS), help="(%(default)s)")
    parser.add_argument("--lengths", default="2048,4096,8192,16384", help="tokens, with the answer's 128 (%(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="of each task and length (%(default)s)")
    parser.add_argument("--essays", type=Path, help="a text file that is the haystack instead")
    given = parser.parse_args(respelled(sys.argv[1:], {}))
    report = Report("needle", given)
    text = given.essays.read_text(encoding="utf-8") if given.essays else None
    for module in models(given):
        tokenizer = module.head.tokenizer
        if text is None:
            text = Haystack(given.corpus, "val", tokenizer).text  # whatever the tokenizer
        source = given.essays.name if given.essays else f"{given.corpus}, validation part (not RULER's essays)"
        made_from = f"{sha256(text.encode()).hexdigest()[:16]}-{tokenizer_sha256(tokenizer)[:16]}"
        for task, length in product(given.tasks.split(","), map(int, given.lengths.split(","))):
            made = RulerTask(task, tokenizer, length, text, given.seed)
            numbers = track(range(given.samples), f"{NAMES[task]} {length:,}")
            key = f"{task}-{length}-{given.samples}-{given.seed}-{made_from}"
            questions = kept(key, lambda made=made, numbers=numbers: map(made.sample, numbers))
            found = answers(module, questions, max(given.tokens // length, 1), ROOM, matches)
            first = 100 * sum(a.exact for a in found) / len(found)
            report.add(
                module,
                NAMES[task],
                length,
                [(answer.question.depth, matches(answer.text, answer.question)) for answer in found],
                (bound(MUST, length, task), bound(AIM, length, task)),
                f"value first in the answer {first:.1f} %, haystack {source}",
            )


if __name__ == "__main__":
    main()
