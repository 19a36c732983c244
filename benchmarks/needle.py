"""RULER's single needles, asked of a checkpoint: `python -m benchmarks.needle --ckpt FILE --lengths 4096,16384`.

Samples are those of RULER in form, a function of seed, task, length and tokenizer. Essays are the validation books,
so these numbers are not RULER's, unless --essays gives the file of Paul Graham's essays.
"""

import argparse
import re
from pathlib import Path

from rich.progress import track

from app.module import load_module
from app.versions import device_name
from benchmarks.longcontext import answers, draw, kept
from benchmarks.rows import RESULTS, Row, write
from data_prep.tokenizer import sha256
from domains.text.haystack import Haystack
from domains.text.needle import ROOM, TASKS, Question, RulerTask

NAMES = {"niah_single_1": "S-NIAH-PK", "niah_single_2": "S-NIAH-N", "niah_single_3": "S-NIAH-W"}
MUST = {4096: (95, 95, 85), 16384: (90, 80, 70)}
AIM = {16384: (96, 80, 81), 131072: (90, 0, 0)}


def matches(text: str, question: Question) -> bool:
    """RULER's `string_match_all`: the value stands in the answer, in any case."""
    return question.expected.lower() in re.sub(r"[\x00-\x1f]", "\n", text).strip().lower()


def bound(table: dict[int, tuple[int, ...]], length: int, task: str) -> str:
    """The bound of a gate, if there is one."""
    value = table.get(length, (0, 0, 0))[list(TASKS).index(task)]
    return f">= {value}" if value else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.needle", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS), help="(%(default)s)")
    parser.add_argument("--lengths", default="2048,4096,8192,16384", help="tokens, with the answer's 128 (%(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="of each task and length (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the samples (%(default)s)")
    parser.add_argument("--corpus", default="books", help="whose validation part is the haystack (%(default)s)")
    parser.add_argument("--essays", type=Path, help="a text file that is the haystack instead")
    parser.add_argument("--tokens", type=int, default=262_144, help="read at a time, in all prompts of a batch")
    parser.add_argument("--name", default="needle", help="of the results (%(default)s)")
    given = parser.parse_args()
    module = load_module(given.ckpt)
    tokenizer, variant = module.head.tokenizer, module.backbone.config.variant
    text = given.essays.read_text() if given.essays else Haystack(given.corpus, "val", tokenizer).text
    source = given.essays.name if given.essays else f"{given.corpus}, validation part (not RULER's essays)"
    rows, command = [], f"python -m benchmarks.needle --ckpt {given.ckpt} --lengths {given.lengths}"
    for task in given.tasks.split(","):
        scores = {}
        for length in map(int, given.lengths.split(",")):
            key = f"{task}-{length}-{given.samples}-{given.seed}-{Path(source).name[:20]}-{sha256(tokenizer)[:16]}"
            made = RulerTask(task, tokenizer, length, text, given.seed)
            label = f"{NAMES[task]} {length:,}"
            questions = kept(
                re.sub(r"\W+", "-", key), lambda t=made, n=label: map(t.sample, track(range(given.samples), n))
            )
            found = answers(module, questions, max(given.tokens // length, 1), ROOM, matches)
            right = [matches(answer.text, answer.question) for answer in found]
            scores[length] = [(answer.question.depth, ok) for answer, ok in zip(found, right, strict=True)]
            exact = 100 * sum(answer.exact for answer in found) / len(found)
            rows.append(
                Row(
                    metric=f"{NAMES[task]} {length:,} {variant}",
                    value=100 * sum(right) / len(right),
                    spread=None,
                    unit="%",
                    must=bound(MUST, length, task),
                    aim=bound(AIM, length, task),
                    seeds=[given.seed],
                    device=device_name(module.device),
                    command=command,
                    note=f"{len(found)} samples, value first in the answer {exact:.1f} %, haystack {source}",
                )
            )
            print(f"{rows[-1].metric}: {rows[-1].value:.1f} % ({rows[-1].note})", flush=True)
            write(given.name, rows)
            draw(RESULTS / f"{given.name}_{task}.png", scores, f"{NAMES[task]}, {variant}")


if __name__ == "__main__":
    main()
