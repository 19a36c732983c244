"""Generated text that a language model can learn something from, for machines without a corpus."""

from collections.abc import Iterator
from random import Random

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
    random = Random(seed)
    for _ in range(count):
        people, places, things = (random.sample(words, 2) for words in (PEOPLE, PLACES, THINGS))
        lines = []
        for _ in range(random.randrange(8, 24)):
            a, b = random.sample(people, 2)
            words = {"a": a, "b": b, "p": random.choice(places), "t": random.choice(things)}
            lines.append(random.choice(SAYINGS).format(**words, v=random.choice(VERBS)))
        yield " ".join(lines) + "\n"
