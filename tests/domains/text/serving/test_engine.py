"""Texts come and go, each is what it is alone, and what waits is bounded."""

from collections.abc import Callable, Sequence

import pytest

from app.module import TitansModule
from domains.text.sampling import Sampling
from domains.text.serving import engine as under_test
from domains.text.serving.engine import Engine, Full, Request

PROMPTS = ["Hello", "Once upon a time there was", "a", "Long " * 9, "There and back", "Lo" * 16]
GREEDY, WARM = Sampling(temperature=0), Sampling(temperature=1.0, top_p=0.9)


class Collected:
    """A request and what came of it."""

    def __init__(self, module: TitansModule, prompt: str, tokens: int = 9, **options: object) -> None:
        self.text = ""
        self.why: str | None = None
        chosen = {"sampling": GREEDY, "stops": (), "seed": 0, **options}
        self.request = Request(module.head.encode(prompt), tokens, emit=self.add, **chosen)

    def add(self, text: str, why: str | None) -> None:
        assert self.why is None, "nothing comes behind the end"
        self.text += text
        self.why = why


def finish(engine: Engine, wanted: Sequence[Collected]) -> list[str]:
    """The texts of requests, submitted together."""
    engine.submit(*(one.request for one in wanted))
    while engine.step():
        pass
    assert not any(engine.texts) and not engine.outstanding()
    return [one.text for one in wanted]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of more than 8 tokens are read before, in pieces of 7."""
    monkeypatch.setattr(under_test, "SHORT", 8)
    monkeypatch.setattr(under_test, "PIECE", 7)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "attention"])
def test_each_text_is_what_it_is_alone(variant: str, model: Callable, short: None) -> None:
    module = model(variant=variant)

    def wanted() -> list[Collected]:
        kinds = [GREEDY, WARM, WARM]
        return [Collected(module, p, 4 + i, sampling=kinds[i % 3], seed=i) for i, p in enumerate(PROMPTS)]

    together = finish(Engine(module, 3, 9, None), wanted())
    single = Engine(module, 1, 9, None)
    for text, one in zip(together, wanted(), strict=True):
        assert finish(single, [one]) == [text]
        assert one.why == ("stop" if one.request.written < one.request.tokens else "length")


def test_texts_that_come_together_are_begun_at_once(model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    module = model(variant="lmm")
    engine = Engine(module, 4, 9, None)
    begun = []
    put = engine.decoder.put
    monkeypatch.setattr(engine.decoder, "put", lambda rows, state: begun.append(rows.tolist()) or put(rows, state))
    texts = [Collected(module, "Hello", tokens) for tokens in (3, 9, 3, 9, 2, 2)]
    written = finish(engine, texts)
    assert begun == [[0, 1, 2, 3], [0, 2]]
    assert written[0] == written[2] and written[1] == written[3] and written[4] == written[5]


def test_a_text_is_what_generation_writes(model: Callable, short: None) -> None:
    from domains.text.generate import completions

    module = model(variant="mag")
    engine = Engine(module, 2, 9, None)
    for prompt in PROMPTS:
        ids = [module.head.end, *module.head.encode(prompt)]
        [(_, _, expected)] = completions(module, [ids], 1, 9, GREEDY, lambda *_: False)
        assert finish(engine, [Collected(module, prompt)]) == [expected.rstrip("\ufffd")]


def test_a_text_ends_before_a_stop_string_and_leaves_its_row(model: Callable) -> None:
    module = model(variant="lmm")
    engine = Engine(module, 1, 9, None)
    [whole] = finish(engine, [Collected(module, "Hello", 40)])
    stop = whole[3:5]
    stopped = Collected(module, "Hello", 40, stops=("never", stop))
    after = Collected(module, "Hello", 40)
    assert finish(engine, [stopped, after]) == [whole[: whole.index(stop)], whole]
    assert (stopped.why, after.why) == ("stop", "length")
    assert stopped.request.written < after.request.written == 40


def test_what_waits_is_bounded_and_what_is_dropped_makes_room(model: Callable) -> None:
    module = model(variant="lmm")
    engine = Engine(module, 1, 2, None)
    first, second, third = (Collected(module, "Hello", 500) for _ in range(3))
    engine.submit(first.request)
    engine.step()  # has the row now
    engine.submit(second.request, third.request)
    with pytest.raises(Full):
        engine.submit(Collected(module, "Hello").request)
    first.request.dropped = second.request.dropped = True
    for _ in range(5):
        engine.step()
    seen = len(first.text)
    assert [text and text.request for text in engine.texts] == [third.request]
    third.request.dropped = True
    assert finish(engine, [Collected(module, "Hello", 3)])
    assert len(first.text) == seen and not second.text


def test_a_text_whose_last_token_is_chosen_is_outstanding_when_the_engine_breaks(
    model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model(variant="lmm"), 2, 9, None)
    first, second = Collected(engine.module, "a", 1), Collected(engine.module, "Hello", 9)
    engine.submit(first.request, second.request)
    engine.step()
    monkeypatch.setattr(engine.decoder, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert engine.outstanding() == [second.request, first.request]
