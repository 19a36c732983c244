"""Generated text that a language model can learn something from, for machines without a corpus."""

from collections.abc import Iterator

import numpy as np

PEOPLE, PLACES, THINGS, VERBS = (
    words.split()
    for words in (
        "Ada Boris Clara Dmitri Elena Farid Greta Hugo Ines Jonas Kira Leo Mina Nils Olga Pavel",
        "attic bakery cellar chapel field forest garden harbour kitchen library market mill station tower",
        "apple basket book candle coin flute hammer key lamp letter map ring rope stone sword watch",
        "found lost hid sold bought painted broke mended carried dropped",
    )
)
SAYINGS = (
    "{a} {v} the {t} in the {p}.",
    "In the {p}, {a} {v} a {t}.",
    "{a} went to the {p} and {b} stayed behind.",
    '"Where is the {t}?" asked {a}. "In the {p}," said {b}.',
    "Nobody in the {p} had seen {a}.",
)


def documents(count: int, seed: int) -> Iterator[str]:
    """`count` short stories, a function of the seed; each keeps to two people, two places and two things."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        people, places, things = (generator.choice(words, 2, replace=False) for words in (PEOPLE, PLACES, THINGS))
        lines = []
        for _ in range(int(generator.integers(8, 24))):
            a, b = generator.permutation(people)
            words = {"a": a, "b": b, "p": generator.choice(places), "t": generator.choice(things)}
            lines.append(str(generator.choice(SAYINGS)).format(**words, v=generator.choice(VERBS)))
        yield " ".join(lines) + "\n"
