"""A language model as lm-evaluation-harness sees one; only this file needs the harness installed."""

import json
from itertools import groupby

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.progress import track

from app.errors import UserError
from app.module import TitansModule
from domains.text.generate import completions
from domains.text.sampling import Sampling
from domains.text.scoring import Scored, log_likelihoods

TOKENS = 256  # that a task without max_gen_toks may write


class TitansLM(TemplateLM):
    """A checkpoint's model: it scores texts of any length, and writes.

    Every text begins with the token before a document, as in training. `attention` alone is kept to the length that it
    was trained on, as the harness does: what is before is cut off, and long documents are cut into windows.

    Args:
        module: a trained `TitansModule` with a `LanguageHead`.
        batch: texts at a time.
    """

    def __init__(self, module: TitansModule, batch: int = 32) -> None:
        super().__init__()
        self.module, self.head, self.batch = module, module.head, batch
        self.longest = self.head.context if module.backbone.config.variant == "attention" else None

    @property
    def eot_token_id(self) -> int:
        """Id of the token before every document."""
        return self.head.end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Ids of a text; the token before a document is put there when it is scored."""
        return self.head.encode(string)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        return self._score([self._scored(context, target) for _, context, target in requests])

    def _scored(self, context: list[int], target: list[int]) -> Scored:
        before = context if context[:1] == [self.head.end] else [self.head.end, *context]
        if self.longest:  # the last token is never read
            room = self.longest + 1 - len(target)
            if room < 1:
                raise UserError(f"a text of {len(target)} tokens is longer than attention's context of {self.longest}")
            before = before[-room:]
        return [*before, *target], len(before)

    def _score(self, scored: list[Scored]) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = [(0.0, True)] * len(scored)
        for number, nats, greedy in track(log_likelihoods(self.module, scored, self.batch), "scoring", len(scored)):
            found[number] = nats, greedy
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents, read in one go: the memory carries what is before."""
        pieces: list[tuple[int, Scored]] = []
        for number, request in enumerate(requests):
            ids = self.head.encode(request.args[0])
            if self.longest is None:
                pieces.append((number, ([self.head.end, *ids], 1)))
                continue
            for window in get_rolling_token_windows(ids, self.head.end, self.longest, context_len=1):
                context, target = make_disjoint_window(window)
                pieces.append((number, ([*context, *target], len(context))))
        totals = [0.0] * len(requests)
        for (number, _), (nats, _) in zip(pieces, self._score([piece for _, piece in pieces]), strict=True):
            totals[number] += nats
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to the first of the task's stop strings."""
        texts = [""] * len(requests)
        options = [json.dumps(request.args[1], sort_keys=True) for request in requests]
        for _, group in groupby(sorted(range(len(requests)), key=options.__getitem__), key=options.__getitem__):
            self._write(requests, list(group), texts)
        return texts

    def _write(self, requests: list[Instance], numbers: list[int], texts: list[str]) -> None:
        """Fill in the texts of requests with equal options."""
        options = requests[numbers[0]].args[1]
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        tokens = int(options.get("max_gen_toks", TOKENS))
        if self.longest and tokens >= self.longest:
            raise UserError(f"{tokens} tokens to write leave no room in attention's context of {self.longest}")
        prompts = [[self.head.end, *self.head.encode(requests[number].args[0])] for number in numbers]
        prompts = [prompt[tokens - self.longest :] if self.longest else prompt for prompt in prompts]
        sampling = Sampling(
            options.get("temperature", 1.0) if options.get("do_sample") else 0.0,
            **{name: options[name] for name in ("top_k", "top_p", "min_p") if name in options},
        )

        def stop(_: int, text: str) -> bool:
            return any(string in text for string in until)

        written = completions(self.module, prompts, self.batch, tokens, sampling, stop)
        for i, _, text in track(written, "writing", len(prompts)):
            texts[numbers[i]] = text[: min((text.index(string) for string in until if string in text), default=None)]
