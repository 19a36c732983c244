"""One model that writes behind many prompts at once, whose texts come and go between two tokens.

Each text has a row of the batch. One that ends leaves its row to the next that waits, whatever the others have read by
then, since each row stands at a place of its own (`memory.rows`).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from threading import Lock
from typing import cast

import torch
from torch import Tensor

from app.module import TitansModule
from domains.text.decoder import Decoder
from domains.text.detokenizer import Detokenizer
from domains.text.generate import Stops
from domains.text.head import LanguageHead
from domains.text.reader import PIECE, Reader
from domains.text.sampling import Sampling
from memory import BackboneState

SHORT = 64  # tokens of a prompt that is read a token a step, beside the texts under way; a longer one is read before


class Full(Exception):
    """Too many requests wait already."""


@dataclass(eq=False)
class Request:
    """A prompt, and what is to be written behind it.

    Args:
        ids: the prompt, one token or more, without the one before a document.
        tokens: how many to write at most, at least one.
        sampling: how they are chosen, without a penalty on repetition.
        stops: texts that end what is written, none of them empty.
        seed: of the choice, which does not depend on other requests.
        emit: called with each piece of the text, at the last one with why it is the last: `stop` or `length`.
        dropped: set to True once nobody waits for the rest.
        written: tokens so far, with the one that ends a document.
    """

    ids: list[int]
    tokens: int
    sampling: Sampling
    stops: Sequence[str]
    seed: int
    emit: Callable[[str, str | None], None]
    dropped: bool = False
    written: int = 0


class Text:
    """A request that has a row.

    Args:
        request: what is asked for.
        row: its place in the batch.
        head: of the model that writes it.
    """

    def __init__(self, request: Request, row: int, head: LanguageHead) -> None:
        self.request = request
        self.row = row
        self.given = 0  # tokens of the prompt that the model has been given
        self.chosen = 0  # tokens that the device has chosen
        self.ended = False  # whether all has been handed out
        self.random = Random(str(request.seed))  # the numbers -1 and 1 would begin the same sequence
        self.decoder = Detokenizer(head.tokenizer, request.ids)
        self.end = head.end
        self.held = Stops(request.stops)

    def hand_out(self, token: int) -> None:
        """Give on what is known of the text with one token more."""
        request = self.request
        request.written += 1
        if token == self.end:
            return self._finish(self.held.waiting, "stop")
        text, stopped = self.held.more(self.decoder.more(token))
        if stopped:
            self._finish(text, "stop")
        elif request.written == request.tokens:
            self._finish(text + self.held.waiting, "length")
        elif text:
            request.emit(text, None)

    def _finish(self, text: str, why: str) -> None:
        self.ended = True
        self.request.emit(text, why)


@dataclass
class Chosen:
    """The tokens of a step, perhaps not chosen yet.

    Args:
        texts: that have got one.
        ids: of all rows, [B] int64, on the host.
        done: what to wait for before they are read; None on a CPU.
    """

    texts: list[Text]
    ids: Tensor
    done: torch.cuda.Event | None


class Engine:
    """Writes behind prompts, as many at once as it has rows.

    `submit` may be called from any thread, `step` from one.

    Args:
        module: a trained `TitansModule` with a `LanguageHead`.
        rows: texts that are written at once.
        queue: most requests that wait for a row.
        precision: autocast dtype on a GPU; None for float32.
    """

    def __init__(self, module: TitansModule, rows: int, queue: int, precision: torch.dtype | None) -> None:
        self.module = module
        self.head = cast(LanguageHead, module.head)
        self.queue = queue
        self.waiting: deque[Request] = deque()
        self.lock = Lock()
        self.texts: list[Text | None] = [None] * rows
        self.reading: tuple[Text, Reader] | None = None  # a long prompt, which has its row already
        self.chosen: Chosen | None = None
        first = Reader(module, precision)
        self.precision = first.precision
        self.device = first.device
        first.advance(torch.tensor([[self.head.end]]))
        self.start = self._apart(first)  # every document begins with the same token
        self.decoder = Decoder(module, self.start, rows, self.precision)

    def submit(self, *requests: Request) -> None:
        """Let requests wait for rows.

        Raises:
            Full: not all of them may wait.
        """
        with self.lock:
            self.waiting = deque(request for request in self.waiting if not request.dropped)  # nobody waits with these
            if len(self.waiting) + len(requests) > self.queue:
                raise Full
            self.waiting.extend(requests)

    def step(self) -> bool:
        """Give rows to those that wait, let each text go on by one token, and hand out the tokens of the step before.

        While the host hands out, a GPU chooses the next tokens.

        Returns:
            whether there was anything to do.
        """
        self._admit()
        before = self.chosen
        self.chosen = self._advance()
        if before is not None:
            self._hand_out(before)
        return any(work is not None for work in (before, self.chosen, self.reading))

    def outstanding(self) -> list[Request]:
        """Requests whose text has not ended."""
        chosen = [] if self.chosen is None else self.chosen.texts  # the last token of a text may lie here alone
        under_way = dict.fromkeys(text for text in (*self.texts, *chosen) if text is not None and not text.ended)
        return [*(text.request for text in under_way), *self.waiting]

    @torch.inference_mode()
    def _admit(self) -> None:
        """Free the rows of what is over, and give them to those that wait; read on in a long prompt."""
        for text in filter(None, self.texts):
            if text.ended or text.request.dropped or text.chosen == text.request.tokens:
                self.texts[text.row] = None
                if self.reading is not None and self.reading[0] is text:
                    self.reading = None
        if self.reading is not None:
            self._read_on(*self.reading)
        begun = []
        for row in [row for row, text in enumerate(self.texts) if text is None]:
            if (request := self._next()) is None:
                break
            text = Text(request, row, self.head)
            self.texts[row] = text
            if len(request.ids) > SHORT:
                reader = Reader(self.module, self.precision)
                self.reading = text, reader
                self._read_on(text, reader)
            else:
                begun.append(row)
        if begun:  # together: a state has a hundred tensors, each of which is a launch
            self.decoder.put(self._moved(begun), self.start)

    def _next(self) -> Request | None:
        """The request that comes next, if it may come now: prompts that are long are read one behind the other."""
        with self.lock:
            while self.waiting and self.waiting[0].dropped:
                self.waiting.popleft()
            if not self.waiting or (len(self.waiting[0].ids) > SHORT and self.reading is not None):
                return None
            return self.waiting.popleft()

    def _read_on(self, text: Text, reader: Reader) -> None:
        """Read a piece of a long prompt, all of which but its last token is read before its row goes on."""
        ids = [self.head.end, *text.request.ids[:-1]]
        reader.advance(torch.tensor([ids[reader.read_tokens : reader.read_tokens + PIECE]]))
        reader.read_tokens += PIECE
        if reader.read_tokens >= len(ids):
            self.decoder.put(slice(text.row, text.row + 1), self._apart(reader))
            text.given = len(text.request.ids) - 1
            self.reading = None

    @torch.inference_mode()
    def _apart(self, reader: Reader) -> BackboneState:
        state = cast(BackboneState, reader.state)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            return self.module.backbone.apart(state, self.head.context)

    @torch.inference_mode()
    def _advance(self) -> Chosen | None:
        """Let each text go on by one token: the next of its prompt, or the newest that was chosen."""
        reading = None if self.reading is None else self.reading[0]
        texts = [text for text in self.texts if text is not None and text is not reading]
        if not texts:
            return None
        given = [-1] * len(self.texts)
        writing = []
        for text in texts:
            prompt = text.request.ids
            if text.given < len(prompt):
                given[text.row] = prompt[text.given]
                text.given += 1
            if text.given == len(prompt):
                text.chosen += 1
                writing.append(text)
        ids = self.decoder.ids
        if max(given) >= 0:
            tokens = self._moved(given)
            ids.copy_(torch.where(tokens >= 0, tokens, ids))
        logits = self.decoder.step()
        for sampling in {text.request.sampling for text in writing if text.request.sampling.temperature}:
            drawn = [text for text in writing if text.request.sampling == sampling]
            rows = self._moved([text.row for text in drawn])
            at = self._moved([text.random.random() for text in drawn])
            ids[rows] = sampling.drawn(logits[rows], at)
        if self.device.type != "cuda":
            return Chosen(writing, ids.clone(), None)
        host = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True).copy_(ids, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return Chosen(writing, host, done)

    def _moved(self, values: list) -> Tensor:
        """Numbers on the device, without waiting for it."""
        numbers = torch.tensor(values, pin_memory=self.device.type == "cuda")
        return numbers.to(self.device, non_blocking=True)

    def _hand_out(self, chosen: Chosen) -> None:
        if chosen.done is not None:
            chosen.done.synchronize()
        ids = chosen.ids.tolist()
        for text in chosen.texts:
            if not (text.ended or text.request.dropped):
                text.hand_out(ids[text.row])
