"""RULER's single needle in a haystack (arXiv 2404.06654; NVIDIA/RULER, niah.py): one sentence, asked for at the end.

`niah_single_1` (S-NIAH-PK) hides a number in repeated sentences, `niah_single_2` (N) a number and `niah_single_3` (W) a
UUID in essays. Here essays are books unless there is a file of essays.
"""

import uuid
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from tokenizers import Tokenizer

from app.errors import UserError
from data_prep.tokenizer import end_id
from domains.text.haystack import Haystack, following, sentences

TASKS = {  # kind of haystack, and what the needle holds
    "niah_single_1": ("noise", "number"),
    "niah_single_2": ("essay", "number"),
    "niah_single_3": ("essay", "uuid"),
}
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
BEFORE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n"
)
QUESTION = "What is the special magic {kind} for {key} mentioned in the provided text?"
ANSWER = " The special magic {kind} for {key} mentioned in the provided text is"
DEPTHS = np.round(np.linspace(0, 100, 40)).astype(int)  # per cent of the sentences that stand before the needle
ROOM = 128  # tokens that an answer may take


@dataclass
class Question:
    """A prompt that ends where the answer begins.

    Args:
        prompt: ids, the end-of-text token first.
        answer: ids of the answer.
        expected: the answer as text.
        depth: place of the needle (of the last fact), as a fraction of the context.
        question: the question as text.
    """

    prompt: np.ndarray
    answer: np.ndarray
    expected: str
    depth: float
    question: str


@cache
def _words() -> tuple[list[str], list[str]]:
    """Adjectives and nouns of wonderwords, whose pairs are RULER's keys.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from wonderwords.random_word import Defaults, _get_words_from_text_file  # as RULER reads them
    except ImportError as error:
        raise ValueError("needles need wonderwords: pip install -e '.[longcontext]'") from error
    adjectives, nouns = (_get_words_from_text_file(name.value) for name in (Defaults.ADJECTIVES, Defaults.NOUNS))
    return sorted(set(adjectives)), sorted(set(nouns))


def _key(generator: np.random.Generator) -> str:
    return "-".join(words[int(generator.integers(len(words)))] for words in _words())


def _value(kind: str, generator: np.random.Generator) -> str:
    if kind == "number":
        return str(generator.integers(1_000_000, 10_000_000))
    return str(uuid.UUID(bytes=generator.bytes(16), version=4))


class RulerTask:
    """Samples of one task at one length, as RULER builds them: from text, the longest haystack that fits.

    Args:
        task: a key of `TASKS`.
        tokenizer: the model's; lengths are counted in its tokens.
        length: tokens of the prompt, the end-of-text token before it and the 128 of the answer.
        text: the essays; their words are repeated as needed.
        seed: what all samples follow from.

    Raises:
        ValueError: the length leaves no room for a haystack.
    """

    def __init__(self, task: str, tokenizer: Tokenizer, length: int, text: str, seed: int = 42) -> None:
        self.haystack, self.kind = TASKS[task]
        self.task = task
        self.tokenizer = tokenizer
        self.length = length
        self.text = text
        self.seed = seed
        self.words = text.split() if self.haystack == "essay" else []
        # units by which the haystack shrinks when a longer needle than that of sample 0 does not fit any more
        self.step = 1 if self.haystack == "noise" else 25
        if self._tokens(*self._text(self._least, 0)) > length:
            raise ValueError(
                f"{task}: {length} tokens leave no room for a haystack beside the question and {ROOM} more"
            )

    @property
    def _least(self) -> int:
        return 1 if self.haystack == "noise" else 25

    @cached_property
    def size(self) -> int:
        """Haystack units (lines of noise or words of essays) that fit, found once by binary search."""
        low = self._least
        high = 2 * self._least
        while self._tokens(*self._text(high, 0)) <= self.length:
            low = high
            high = 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self._tokens(*self._text(middle, 0)) <= self.length:
                low = middle
            else:
                high = middle
        return low

    def _tokens(self, prompt: str, *_: object) -> int:
        return 1 + len(self.tokenizer.encode(prompt, add_special_tokens=False).ids) + ROOM

    @lru_cache(maxsize=4)  # noqa: B019  (it keeps the task alive, which lives as long as the process)
    def _sentences(self, size: int) -> list[str]:
        words = self.words * (size // len(self.words) + 1)
        return sentences(" ".join(words[:size]))

    def _text(self, size: int, number: int) -> tuple[str, str, str, str, float]:
        """Prompt, needle, question, value and depth of a sample whose haystack has `size` units."""
        generator = np.random.default_rng([self.seed, list(TASKS).index(self.task), self.length, number])
        key = _key(generator)
        value = _value(self.kind, generator)
        names = {"kind": self.kind, "key": key, "value": value}
        needle = NEEDLE.format(**names)
        if self.haystack == "noise":
            units = [NOISE] * size
            place = int(generator.integers(size))
            context = "\n".join([*units[:place], needle, *units[place:]])
        else:
            units = self._sentences(size)
            place = int(len(units) * (generator.choice(DEPTHS) / 100))
            # RULER joins pieces that may be empty, so a needle at either end has a space beyond it.
            context = " ".join([" ".join(units[:place]), needle, " ".join(units[place:])])
        depth = place / len(units)
        question = QUESTION.format(**names)
        return f"{BEFORE.format(**names)}{context}\n{question}{ANSWER.format(**names)}", needle, question, value, depth

    def sample(self, number: int) -> Question:
        """Sample `number`, a function of seed, task and length; the haystack shrinks where a needle needs the room."""
        size = self.size
        while True:
            prompt, needle, question, value, depth = self._text(size, number)
            ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
            if 1 + len(ids) + ROOM <= self.length:
                break
            size -= self.step
        assert prompt.count(needle) == 1 and value in needle, "the needle is not in the prompt"
        answer = following(self.tokenizer, [f" {value}"])[0]
        assert len(answer) <= ROOM, "the answer is longer than what is left for it"
        return Question(np.array([end_id(self.tokenizer), *ids]), answer, value, depth, question)


class NeedleTraining:
    """Samples to train on: RULER's sentences around random stretches of the haystack, put together as tokens.

    Several needles in one context, asked for one after another, teach more per token than a single one.

    Args:
        task: a key of `TASKS`.
        tokenizer: the model's.
        haystack: sentences that the essays are drawn from; None for noise.
        needles: needles in a context, fewer in one that is too short for them.

    Raises:
        ValueError: wonderwords is not installed.
    """

    def __init__(self, task: str, tokenizer: Tokenizer, haystack: Haystack | None, needles: int = 1) -> None:
        _words()  # here, as samples are made in processes of a loader, once the training has begun
        self.style, self.kind = TASKS[task]
        self.tokenizer = tokenizer
        self.haystack = haystack
        self.needles = needles
        self.end = end_id(tokenizer)
        self.lead = "\n" if self.style == "noise" else " "
        before = BEFORE.format(kind=self.kind)
        if self.style == "noise":
            before = before.rstrip()  # each line of noise brings the line break before it
        self.before = np.array(tokenizer.encode(before, add_special_tokens=False).ids)
        self.noise = following(tokenizer, [f"\n{NOISE}"])[0]

    def sample(self, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Ids of at most `length` tokens, and which of them are answers (the end of the text among them).

        Raises:
            UserError: the length leaves no room for a haystack.
        """
        facts = []
        for _ in range(self.needles):
            names = {"kind": self.kind, "key": _key(generator), "value": _value(self.kind, generator)}
            facts.append([self.lead + NEEDLE, f"\n{QUESTION}{ANSWER}", " {value}"])
            facts[-1] = [text.format(**names) for text in facts[-1]]
        pieces = following(self.tokenizer, [text for fact in facts for text in fact])
        needles = pieces[::3]
        asked = list(zip(pieces[1::3], pieces[2::3], strict=True))
        room = length - 2 - len(self.before) - sum(map(len, pieces))
        while room < len(self.noise) and len(needles) > 1:  # a short sample has fewer needles
            room += len(needles.pop()) + sum(map(len, asked.pop()))
        if room < len(self.noise):
            raise UserError(
                f"data.length (at the start of a length_warmup, data.shortest): {length} has no room for a needle"
            )
        if self.style == "noise":
            lines = room // len(self.noise)
            hay = np.tile(self.noise, lines)
            stops = np.arange(lines + 1) * len(self.noise)
        else:
            hay, stops = self.haystack.draw(room, generator, whole=True)
        places = np.sort(generator.choice(stops, len(needles)))
        context = [part for cut, needle in zip(np.split(hay, places), needles, strict=False) for part in (cut, needle)]
        context.append(hay[places[-1] :])
        parts = [np.array([self.end]), self.before, *context]
        answers = [np.zeros(len(part), bool) for part in parts]
        for place in generator.permutation(len(needles)):
            question, answer = asked[place]
            parts += [question, answer]
            answers += [np.zeros(len(question), bool), np.ones(len(answer), bool)]
        parts.append(np.array([self.end]))
        answers.append(np.ones(1, bool))
        return np.concatenate(parts), np.concatenate(answers)
