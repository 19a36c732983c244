"""The server as a client sees it: completions whole and streamed, and an error that says what to change."""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from starlette.requests import Request as HttpRequest
from starlette.testclient import TestClient

from app.errors import UserError
from app.module import TitansModule
from domains.text import serving
from domains.text.sampling import Sampling
from domains.text.serving import server
from domains.text.serving.asked import Asked, Limits, Refused
from domains.text.serving.engine import Engine, Full, Request
from domains.text.serving.server import Answer
from domains.text.verbs import serve_options

QUEUE = 6
GREEDY = {"temperature": 0, "max_tokens": 9}


def limits(module: TitansModule, context: int | None = None) -> Limits:
    return Limits("tiny", module.head.vocabulary, module.head.encode, QUEUE, 200, context)


@pytest.fixture
def engine(model: Callable) -> Engine:
    return Engine(model(variant="mag"), 2, QUEUE, None)


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(server.application(engine, limits(engine.module))) as client:
        yield client


def asked(client: TestClient, **body: Any) -> dict:
    answer = client.post("/v1/completions", json=GREEDY | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(client: TestClient, **body: Any) -> list[dict]:
    """The events of a stream, which ends as OpenAI's do."""
    with client.stream("POST", "/v1/completions", json=GREEDY | {"stream": True} | body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_it_has_one_model(client: TestClient) -> None:
    [model] = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["object"] == "model"


def test_a_completion_and_the_same_as_a_stream(client: TestClient) -> None:
    whole = asked(client, prompt="Hello", model="tiny")
    [choice] = whole["choices"]
    assert whole["object"] == "text_completion" and whole["model"] == "tiny" and whole["id"].startswith("cmpl-")
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    assert choice["finish_reason"] == "length" and choice["index"] == 0 and choice["text"]
    events = streamed(client, prompt="Hello", stream_options={"include_usage": True})
    assert events.pop()["usage"] == whole["usage"]
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["length"]


def test_prompts_may_be_several_and_ids(client: TestClient, engine: Engine) -> None:
    texts = ["Hello", "Once upon", "a"]
    alone = [asked(client, prompt=text)["choices"][0]["text"] for text in texts]
    together = asked(client, prompt=[texts[0], engine.head.encode(texts[1]), texts[2]])
    assert [choice["text"] for choice in together["choices"]] == alone
    assert asked(client, prompt=engine.head.encode("Hello"))["choices"][0]["text"] == alone[0]
    pieces = [""] * 3
    for event in streamed(client, prompt=texts):
        [choice] = event["choices"]
        pieces[choice["index"]] += choice["text"]
    assert pieces == alone


def test_a_seed_gives_the_same_texts_again_and_each_of_n_another(client: TestClient) -> None:
    def texts(seed: int) -> list[str]:
        answer = asked(client, prompt="Hello", n=3, temperature=1.5, seed=seed, top_k=50)
        return [choice["text"] for choice in answer["choices"]]

    first = texts(5)
    assert texts(5) == first != texts(6)
    assert len(set(first)) == len(set(texts(-1))) == 3


def test_a_stop_string_ends_a_text(client: TestClient) -> None:
    whole = asked(client, prompt="Hello", max_tokens=40)["choices"][0]["text"]
    stop = whole[4:6]
    [choice] = asked(client, prompt="Hello", max_tokens=40, stop=[stop, "never"])["choices"]
    assert choice["text"] == whole[: whole.index(stop)] and choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([], 400, "must be a JSON object"),
        ({}, 400, "prompt must be a string, a list of ids below 257, or a list of either"),
        ({"prompt": ""}, 400, "prompt is empty"),
        ({"prompt": ["a", []]}, 400, "prompt is empty"),
        ({"prompt": [257]}, 400, "prompt must be"),
        ({"prompt": [[1], 2.5]}, 400, "prompt must be"),
        ({"prompt": "a\ud800"}, 400, "half of a surrogate pair"),
        ({"prompt": "a", "model": "other"}, 404, "there is no model 'other'; this server has 'tiny'"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be an integer from 1 to 200"),
        ({"prompt": "a", "max_tokens": 201}, 400, "from 1 to 200"),
        ({"prompt": "a", "max_tokens": True}, 400, "max_tokens must be an integer"),
        ({"prompt": "a", "temperature": "hot"}, 400, "temperature must be a number"),
        ({"prompt": "a", "temperature": -1}, 400, "temperature is -1.0; it must be 0, or finite and at least 1e-06"),
        ({"prompt": "a", "temperature": 10**400}, 400, "temperature must be a number"),
        ({"prompt": "a", "top_p": 2}, 400, "top_p is 2.0; it must be above 0 and at most 1"),
        ({"prompt": "a", "stop": ["x", ""]}, 400, "none of them empty"),
        ({"prompt": "a", "stop": ["x"] * 17}, 400, "at most 16"),
        ({"prompt": "a", "stop": {}}, 400, "stop must be a string or a list of strings"),
        ({"prompt": "a", "stop": False}, 400, "stop must be a string or a list of strings"),
        ({"prompt": "a", "logprobs": 3}, 400, "logprobs is not supported"),
        ({"prompt": "a", "logprobs": 0}, 400, "logprobs is not supported"),
        ({"prompt": "a", "presence_penalty": False}, 400, "presence_penalty is not supported"),
        ({"prompt": "a", "stream_options": {"include": True}}, 400, "there is no 'include' in stream_options"),
        ({"prompt": "a", "stream_options": {"include_usage": 1}}, 400, "include_usage must be true or false"),
        ({"prompt": "a", "tempreature": 1}, 400, "there is no 'tempreature'"),
        ({"prompt": "a", "\ud800": 1}, 400, "there is no '\\ud800'"),
        ({"prompt": ["a", "b"], "n": 4}, 400, "more than the 6 texts"),
    ],
)
def test_what_cannot_be_had_is_said(client: TestClient, body: Any, status: int, said: str) -> None:
    answer = client.post("/v1/completions", content=json.dumps(body))
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_what_is_no_request_is_said_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_BYTES", 50)
    for content, status in ((b"{", 400), (b"\xff", 400), (b"[" * 40, 400), (b" " * 51, 413)):
        assert client.post("/v1/completions", content=content).status_code == status
    assert "line 1 column 2" in client.post("/v1/completions", content=b"{").json()["error"]["message"]
    assert client.get("/v1/completions").status_code == 405
    assert client.post("/v1/chat/completions", json={}).json()["error"]["message"] == "Not Found"


def test_attention_is_held_to_its_context(model: Callable) -> None:
    module = model(variant="attention")
    engine = Engine(module, 1, QUEUE, None)
    with TestClient(server.application(engine, limits(module, module.head.context))) as client:
        assert asked(client, prompt="x" * 54)["usage"]["total_tokens"] == 63  # and the token before a document
        answer = client.post("/v1/completions", json=GREEDY | {"prompt": "x" * 55})
    assert answer.status_code == 400
    assert "prompt and text may have 64 tokens, and these are 65" in answer.json()["error"]["message"]


def test_a_full_queue_is_said_at_once(model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model(variant="lmm"), 1, 1, None)
    step, held = engine.step, [True]
    monkeypatch.setattr(engine, "step", lambda: True if held[0] and not time.sleep(0.001) else step())
    with TestClient(server.application(engine, limits(engine.module))) as client:
        waiting = {"prompt": "Hello", "max_tokens": 3}
        with client.stream("POST", "/v1/completions", json=waiting | {"stream": True, "n": 1}) as first:
            answer = client.post("/v1/completions", json=waiting)
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            assert "too many requests" in answer.json()["error"]["message"]
            held[0] = False
            assert first.read()
        assert asked(client, **waiting)


def test_a_client_that_goes_leaves_its_row(client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: not time.sleep(0.02) and step())
    body = {"prompt": "Hello", "max_tokens": 200, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    end = time.monotonic() + 3  # 200 tokens would take longer
    while engine.outstanding() and time.monotonic() < end:
        time.sleep(0.01)
    assert not engine.outstanding()


def test_places_of_clients_that_have_gone_are_free(engine: Engine) -> None:
    requests = [Request([1], 1, Sampling(), [], 0, print) for _ in range(QUEUE)]
    engine.submit(*requests)
    with pytest.raises(Full):
        engine.submit(requests[0])
    requests[-1].dropped = True  # in the middle of the queue, behind others that wait
    engine.submit(requests[0])


def test_an_event_is_one_line_whatever_a_client_takes_for_its_end() -> None:
    text = "a\u0085b\u2028c\u2029d\x1ce\nf"
    line, *rest = server.event({"text": text}).splitlines()
    assert json.loads(line.removeprefix("data: ")) == {"text": text} and rest == [""]


def test_a_client_that_goes_is_seen_while_pieces_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.05)
    asks = Asked([[1]], 1, 200, Sampling(), [], 0, stream=True, usage=False)

    class Gone:
        async def is_disconnected(self) -> bool:
            return True

    async def read() -> tuple[int, bool]:
        answer = Answer(asks, "tiny", lambda *_: None)
        pieces = 0
        answer.add(0, "a", None)
        async for _ in answer.each(cast(HttpRequest, Gone())):
            pieces += 1
            answer.add(0, "a", "length" if pieces == 200 else None)
            await asyncio.sleep(0.005)
        return pieces, answer.requests[0].dropped

    pieces, dropped = asyncio.run(read())
    assert pieces < 100 and dropped


def test_what_has_come_since_is_sent_together() -> None:
    class There:
        async def is_disconnected(self) -> bool:
            return False

    async def read(stream: bool) -> list[tuple[int, str, str | None]]:
        answer = Answer(Asked([[1], [2]], 1, 9, Sampling(), [], 0, stream, usage=False), "tiny", lambda *_: None)
        said = [(0, "a", None), (1, "b", None), (0, "c", None), (0, "d", "length")]
        server.add([(answer, *piece) for piece in said])
        got = []
        async for piece in answer.each(cast(HttpRequest, There())):
            if not got:
                answer.add(1, "e", None)
                answer.add(1, "", "stop")
            got.append(piece)
        return got

    assert asyncio.run(read(True)) == [(0, "acd", "length"), (1, "b", None), (1, "e", "stop")]
    assert asyncio.run(read(False)) == asyncio.run(read(True))


def test_a_step_calls_the_event_loop_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = server.add, []
    monkeypatch.setattr(server, "add", lambda said: calls.append(len(said)) or add(said))
    asked(client, prompt=["Hello", "Hello"])
    assert len(calls) <= 9 and set(calls) == {2}


def test_a_client_that_goes_before_its_request_is_whole_is_no_error_of_ours() -> None:
    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with pytest.raises(Refused, match="ends too early"):
        asyncio.run(server.read(HttpRequest({"type": "http"}, receive)))


def test_what_comes_while_the_thread_ends_does_not_wait(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = server.Worker(engine)
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda *requests: (setattr(worker, "over", True), submit(*requests)))
    with pytest.raises(Refused, match="has stopped"):
        worker.submit([])


def served(module: TitansModule, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    """What the verb gives to uvicorn."""
    parser, given = argparse.ArgumentParser(), {}
    parser.add_argument("--ckpt")
    serve_options(parser)
    monkeypatch.setattr(server, "load_module", lambda *_: module)
    monkeypatch.setattr(server, "bound", lambda host, port: (host, port))
    monkeypatch.setattr(
        server.uvicorn.Server, "run", lambda self, sockets: given.update(address=sockets, app=self.config.app)
    )
    serving.main(parser.parse_args(["--ckpt", "best.ckpt", *options]))
    return given


def test_an_address_that_cannot_be_had_is_said_before_a_model_is_read() -> None:
    with server.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for host, said in (
            ("127.0.0.1", "[Aa]ddress already in use; name an address of this machine and a free port"),
            ("198.51.100.1", "--host 198.51.100.1 .*[Cc]annot assign requested address"),
            ("." * 80, "label empty or too long"),
        ):
            with pytest.raises(UserError, match=said):
                server.bound(host, port)


def test_the_verb_listens_to_this_machine_alone(model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    given = served(model(variant="lmm"), monkeypatch, "--rows", "2", "--name", "mine", "--float32", "--no_forgetting")
    assert given["address"] == [("127.0.0.1", 8000)]
    with TestClient(given["app"]) as client:
        assert asked(client, prompt="Hello", model="mine")["usage"]["completion_tokens"] == 9
    for wrong in (("--rows", "0"), ("--port", "70000")):
        with pytest.raises(SystemExit):
            served(model(variant="lmm"), monkeypatch, *wrong)
    with pytest.raises(UserError, match="Sum has no methods apart and step"):
        served(model(variant="tests.memory.test_backbone.Sum"), monkeypatch)


def test_a_broken_engine_ends_what_is_under_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def breaks() -> bool:
        if engine.outstanding():  # the thread may still ask whether there is more to write of the text before
            raise RuntimeError("out of memory")
        return False

    with TestClient(server.application(engine, limits(engine.module))) as client:
        asked(client, prompt="Hello")
        monkeypatch.setattr(engine, "step", breaks)
        answer = client.post("/v1/completions", json={"prompt": "Hello"})
        assert answer.status_code == 500
        assert client.post("/v1/completions", json={"prompt": "Hello"}).status_code == 503
    assert "out of memory" in capsys.readouterr().err
