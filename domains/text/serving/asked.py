"""What the body of a request to /v1/completions asks for, or why it cannot be had."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from secrets import randbits
from typing import Any, NoReturn

from app.errors import UserError
from domains.text.sampling import Sampling

MOST_STOPS = 16
IGNORED = {"user", "store", "metadata"}  # they say who asks, not for what
NEUTRAL = {  # what this server does not do, and the values that do not ask for it
    "suffix": (None, ""),
    "echo": (None, False),
    "logprobs": (None, False),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
}


class Refused(Exception):
    """A request that gets an error for an answer.

    Args:
        message: what is wrong and how to put it right.
        param: the key of the body that is wrong, if one is.
        status: of HTTP.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param = param
        self.status = status


@dataclass(frozen=True)
class Asked:
    """A body that was understood.

    Args:
        prompts: ids of each, without the token before a document.
        n: texts behind each prompt.
        tokens: most tokens of a text.
        sampling: how they are chosen.
        stops: texts that end one.
        seed: of the first text; each further one has the next.
        stream: whether pieces are sent as they come.
        usage: whether the end of a stream says how many tokens there were.
    """

    prompts: list[list[int]]
    n: int
    tokens: int
    sampling: Sampling
    stops: list[str]
    seed: int
    stream: bool
    usage: bool


@dataclass(frozen=True)
class Limits:
    """What a server can serve.

    Args:
        name: the model's.
        vocabulary: its ids are below this.
        encode: from a text to ids.
        texts: most of a request.
        tokens: most that may be asked for behind a prompt.
        context: most tokens of prompt and text together; None for no bound.
    """

    name: str
    vocabulary: int
    encode: Callable[[str], list[int]]
    texts: int
    tokens: int
    context: int | None


def understood(body: Any, limits: Limits) -> Asked:
    """What a body asks for.

    Raises:
        Refused: it asks for nothing, or for what cannot be had; the message names the key.
    """
    if not isinstance(body, dict):
        _refuse(None, "the body must be a JSON object")
    left = {key: value for key, value in body.items() if key not in IGNORED}
    for key, neutral in NEUTRAL.items():
        value = left.pop(key, None)
        if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral):
            _refuse(key, f"{key} is not supported; leave it out")  # 0 is not false: logprobs of 0 asks for some
    take = partial(_take, left)
    if (name := take("model", str, limits.name)) != limits.name:
        raise Refused(f"there is no model {name!r}; this server has {limits.name!r}", "model", 404)
    prompts = _prompts(left.pop("prompt", None), limits)
    options = {**take("stream_options", dict, {})}
    usage = _take(options, "include_usage", bool, False)
    if options:
        _refuse("stream_options", f"there is no {next(iter(options))!r} in stream_options; it takes include_usage")
    asked = Asked(
        prompts,
        n=take("n", int, 1, lambda n: n >= 1, "at least 1"),
        tokens=take("max_tokens", int, 16, lambda n: 1 <= n <= limits.tokens, f"from 1 to {limits.tokens}"),
        sampling=_sampling(take),
        stops=_stops(left.pop("stop", None)),
        seed=take("seed", int, randbits(32)),
        stream=take("stream", bool, False),
        usage=usage,
    )
    if left:
        key = next(iter(left))
        _refuse(None, f"there is no {key!r}; see /v1/completions in the documentation")
    if len(prompts) * asked.n > limits.texts:
        _refuse("n", f"{len(prompts)} prompts times n {asked.n} are more than the {limits.texts} texts of a request")
    longest = max(map(len, prompts)) + 1 + asked.tokens
    if limits.context is not None and longest > limits.context:
        _refuse("max_tokens", f"prompt and text may have {limits.context} tokens, and these are {longest}")
    return asked


def _take(body: dict, key: str, kind: type, default: Any, holds: Callable = lambda _: True, bounds: str = "") -> Any:
    """The value of a key, which is taken out; null is the default."""
    value = body.pop(key, None)
    if value is None:
        return default
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind or not holds(value):  # True is no int here
        names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "an object"}
        _refuse(key, f"{key} must be {names[kind]}{' ' + bounds if bounds else ''}")
    return value


def _sampling(take: Callable) -> Sampling:
    chosen = {
        "temperature": take("temperature", float, 1.0),
        "top_k": take("top_k", int, 0),
        "top_p": take("top_p", float, 1.0),
        "min_p": take("min_p", float, 0.0),
    }
    try:
        return Sampling(**chosen)
    except UserError as error:
        message = str(error)
        raise Refused(message, message.split()[0]) from error  # which begins with the key


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        _refuse("stop", "stop must be a string or a list of strings, none of them empty")
    if len(stops) > MOST_STOPS:
        _refuse("stop", f"stop has {len(stops)} strings; give at most {MOST_STOPS}")
    return stops


def _prompts(value: Any, limits: Limits) -> list[list[int]]:
    """Ids of each prompt: a string, a list of ids, or a list of either."""
    several = isinstance(value, list) and value and not all(type(item) is int for item in value)
    prompts = [_ids(prompt, limits) for prompt in (value if several else [value])]
    if not all(prompts):
        _refuse("prompt", "prompt is empty; give at least one token")
    return prompts


def _ids(value: Any, limits: Limits) -> list[int]:
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            _refuse("prompt", "prompt holds half of a surrogate pair, which is no character")
        return limits.encode(value)
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < limits.vocabulary for item in value):
        _refuse("prompt", f"prompt must be a string, a list of ids below {limits.vocabulary}, or a list of either")
    return value


def _refuse(param: str | None, message: str) -> NoReturn:
    raise Refused(message, param)
