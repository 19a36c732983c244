"""The engine behind HTTP: /v1/completions and /v1/models, as OpenAI has them.

The engine has a thread of its own. The event loop is given what texts have got in a step by one call, since at each the
two threads may wait for each other's turn at Python's lock; and pieces of a text that it has not sent yet are sent as
one.
"""

import argparse
import asyncio
import json
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from socket import AI_PASSIVE, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, getaddrinfo, socket
from threading import Event, Thread
from time import monotonic, time
from typing import Any, cast
from uuid import uuid4

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app.errors import UserError
from app.module import load_module
from domains.text.head import LanguageHead
from domains.text.serving.asked import Asked, Limits, Refused, understood
from domains.text.serving.engine import Engine, Full, Request

MOST_BYTES = 16 << 20  # of a body
PATIENCE = 1.0  # seconds between two looks whether a client is still there
FAILED = "error"  # why a text ends that the engine could not write


class Answer:
    """The texts of one HTTP request under way.

    Args:
        asked: what was asked for.
        name: the model's.
        say: is called with this answer, a text's number, a piece of it and why that is the last, by the engine.
    """

    def __init__(self, asked: Asked, name: str, say: Callable[["Answer", int, str, str | None], None]) -> None:
        self.asked = asked
        self.pieces: dict[int, tuple[str, str | None]] = {}  # of each text, what has come and was not taken yet
        self.called = asyncio.Event()
        self.shared = {"id": f"cmpl-{uuid4().hex}", "object": "text_completion", "created": int(time()), "model": name}
        self.requests = []
        for ids in asked.prompts:
            for _ in range(asked.n):
                index = len(self.requests)
                seed = asked.seed + index
                emit = partial(say, self, index)
                self.requests.append(Request(ids, asked.tokens, asked.sampling, asked.stops, seed, emit))

    def add(self, index: int, text: str, why: str | None) -> None:
        """Let a piece of a text wait, behind what waits of it already."""
        before, _ = self.pieces.get(index, ("", None))
        self.pieces[index] = before + text, why
        if self.asked.stream or why is not None:  # a text that is sent whole is of no use before its end
            self.called.set()

    async def each(self, http: HttpRequest) -> AsyncIterator[tuple[int, str, str | None]]:
        """Text, its number and why it ends, piece by piece, until all have ended or the client has gone."""
        left = len(self.requests)
        looked = monotonic()
        try:
            while left:
                if monotonic() - looked >= PATIENCE:
                    if await http.is_disconnected():
                        return
                    looked = monotonic()
                try:
                    await asyncio.wait_for(self.called.wait(), PATIENCE)
                except TimeoutError:
                    continue
                self.called.clear()
                pieces = self.pieces
                self.pieces = {}
                for index, (text, why) in pieces.items():
                    left -= why is not None
                    yield index, text, why
        finally:
            for request in self.requests:
                request.dropped = True  # where it has ended, this is nothing

    async def whole(self, http: HttpRequest) -> Response:
        """All texts in one answer."""
        texts = [""] * len(self.requests)
        reasons: list[str | None] = [None] * len(self.requests)
        async for index, text, why in self.each(http):
            texts[index] += text
            reasons[index] = why
        if FAILED in reasons:
            return error("the server could not go on", 500)
        choices = [choice(i, text, why) for i, (text, why) in enumerate(zip(texts, reasons, strict=True))]
        return JSONResponse(self.shared | {"choices": choices, "usage": self.usage()})

    async def stream(self, http: HttpRequest) -> AsyncIterator[str]:
        """Server-sent events, one for each piece."""
        async for piece in self.each(http):
            if piece[2] == FAILED:
                yield event({"error": content("the server could not go on", 500)})
                return
            yield event(self.shared | {"choices": [choice(*piece)]})
        if self.asked.usage:
            yield event(self.shared | {"choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def usage(self) -> dict[str, int]:
        """Tokens of prompts and of texts."""
        prompt = sum(map(len, self.asked.prompts))
        written = sum(request.written for request in self.requests)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class Worker(Thread):
    """Steps of the engine, one after the other, as long as there is something to do."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="engine", daemon=True)
        self.engine = engine
        self.called = Event()
        self.over = False  # told to stop, or broken
        self.loop: asyncio.AbstractEventLoop | None = None  # where answers wait; none before the thread starts
        self.said: list[tuple[Answer, int, str, str | None]] = []  # in the step under way

    def start(self) -> None:
        """Start the thread, whose answers wait in the event loop that runs here."""
        self.loop = asyncio.get_running_loop()
        super().start()

    def say(self, answer: Answer, index: int, text: str, why: str | None) -> None:
        """Take a piece of a text from the engine."""
        self.said.append((answer, index, text, why))

    def submit(self, requests: list[Request]) -> None:
        """Let requests wait.

        Raises:
            Refused: there are too many, or the engine has stopped.
        """
        try:
            self.engine.submit(*requests)
        except Full:
            if not self.over:
                raise Refused("too many requests wait; try again later", status=429) from None
        if self.over:  # looked at behind: what comes while the thread ends would wait for ever
            raise Refused("the server has stopped", status=503)
        self.called.set()

    def stop(self) -> None:
        """End the thread behind the step under way."""
        self.over = True
        self.called.set()
        self.join()

    def run(self) -> None:
        """What the thread does; texts that a broken engine cannot write end as failed."""
        try:
            while not self.over:
                busy = self.engine.step()
                self._deliver()
                if not busy:
                    self.called.wait()
                    self.called.clear()
        except Exception:
            traceback.print_exc()
        self.over = True
        for request in self.engine.outstanding():
            request.emit("", FAILED)
        self._deliver()

    def _deliver(self) -> None:
        """Give what was said to the event loop."""
        said = self.said
        self.said = []
        if said and self.loop is not None:
            self.loop.call_soon_threadsafe(add, said)


def add(said: list[tuple[Answer, int, str, str | None]]) -> None:
    """Let pieces of texts wait in their answers."""
    for answer, index, text, why in said:
        answer.add(index, text, why)


def application(engine: Engine, limits: Limits) -> Starlette:
    """What answers HTTP requests; the engine's thread lives as long as it does."""
    worker = Worker(engine)
    created = int(time())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        worker.start()
        yield
        await run_in_threadpool(worker.stop)

    async def models(_: HttpRequest) -> Response:
        model = {"id": limits.name, "object": "model", "created": created, "owned_by": "titans"}
        return JSONResponse({"object": "list", "data": [model]})

    async def completions(http: HttpRequest) -> Response:
        try:
            body = await read(http)
            asked = await run_in_threadpool(understood, body, limits)
            answer = Answer(asked, limits.name, worker.say)
            worker.submit(answer.requests)
        except Refused as refused:
            return error(str(refused), refused.status, refused.param)
        if asked.stream:
            return StreamingResponse(answer.stream(http), media_type="text/event-stream")
        return await answer.whole(http)

    async def failed(_: HttpRequest, exception: Exception) -> Response:
        wrong = cast(HTTPException, exception)
        return error(wrong.detail, wrong.status_code)

    routes = [Route("/v1/models", models), Route("/v1/completions", completions, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: failed})


async def read(http: HttpRequest) -> Any:
    """The JSON of a body.

    Raises:
        Refused: it is none, or too long, or does not come to its end.
    """
    body = b""
    try:
        async for piece in http.stream():
            body += piece
            if len(body) > MOST_BYTES:
                raise Refused(f"the body has more than {MOST_BYTES} bytes", status=413)
    except ClientDisconnect:
        raise Refused("the body ends too early") from None  # nobody reads this
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as wrong:
        raise Refused(f"the body is no JSON: {wrong}") from None


def choice(index: int, text: str, why: str | None) -> dict[str, Any]:
    """One text, or a piece of it."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": why}


def event(data: dict) -> str:
    """A server-sent event, in ASCII: some clients take U+0085 or U+2028 in a text for the end of its line."""
    return f"data: {json.dumps(data)}\n\n"


def content(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    """What OpenAI's clients read an error from."""
    kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
    return {"message": message, "type": kind, "param": param, "code": status}


def error(message: str, status: int, param: str | None = None) -> Response:
    """An error as an answer."""
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": content(message, status, param)}, status, headers)


def bound(host: str, port: int) -> socket:
    """A socket at an address, which refuses clients until a server listens.

    Raises:
        UserError: nothing can be served there.
    """
    try:
        family, kind, protocol, _, address = getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)[0]
        place = socket(family, kind, protocol)
        try:
            place.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)  # a port that a server has just left is free
            place.bind(address)
        except OSError:
            place.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: {why}; name an address of this machine and a free port"
        ) from error
    return place


def main(arguments: argparse.Namespace) -> None:
    """The verb `serve`.

    Raises:
        UserError: nothing can be served at the address, or rows of the model cannot stand apart.
    """
    place = bound(arguments.host, arguments.port)
    module = load_module(arguments.ckpt, LanguageHead)
    if not module.backbone.steps:
        variant = module.backbone.config.variant
        raise UserError(f"--ckpt {arguments.ckpt}: {variant} has no methods apart and step, which a server needs")
    if arguments.no_forgetting:
        module.backbone.stop_forgetting()
    precision = None if arguments.float32 else torch.bfloat16
    engine = Engine(module, arguments.rows, arguments.queue, precision)
    head = engine.head
    context = head.context if module.backbone.config.variant == "attention" else None
    limits = Limits(arguments.name, head.vocabulary, head.encode, arguments.queue, arguments.most_tokens, context)
    address = f"http://{arguments.host}:{arguments.port}/v1"
    print(f"{arguments.name}: {arguments.rows} texts at once, {arguments.queue} may wait; {address}", file=sys.stderr)
    uvicorn.Server(uvicorn.Config(application(engine, limits), log_level="warning")).run([place])
