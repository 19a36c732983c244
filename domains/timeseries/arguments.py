"""Arguments of Python, held to the types by which the command line reads keys."""

from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from app.errors import plain


def checked(
    of: Callable[..., Any], given: Mapping[str, Any], place: str = "", without: Sequence[str] = ()
) -> dict[str, Any]:
    """Arguments of the types that a class or a function declares, as values of Python alone.

    A text is a text, also where the command line would read `null` or `12` as something else.

    Args:
        of: what takes the arguments.
        given: some of them by name; they may be scalars, arrays or indices of numpy and pandas.
        place: what stands before a name in a message, such as `data.`.
        without: names that are not given here.

    Raises:
        ValueError: one is unknown or of another type.
    """
    parser = _parser(of, tuple(without))
    values = {name: of_python(value) for name, value in given.items()}
    known = [name for name, _ in parser.get_defaults().items()]
    for name in values:
        if name not in known:
            raise ValueError(f'key "{place}{name}" is not accepted; choose {", ".join(known)}')
    try:
        read = _read(parser, values)
        for name, value in values.items():
            if isinstance(value, str) and read[name] != value:
                _read(parser, {name: f"the text {value}"})
    except (ArgumentError, TypeError) as error:
        message = plain(str(error)).replace('Parser key "', f'key "{place}')
        raise ValueError(message) from error
    return {name: value if isinstance(value, str) else of_python(read[name]) for name, value in values.items()}


def of_python(value: Any) -> Any:
    """A value without numpy, pandas or tuples, which a configuration can hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: of_python(one) for name, one in value.items()}
    return [of_python(one) for one in value] if isinstance(value, list | tuple) else value


@cache
def _parser(of: Callable[..., Any], without: tuple[str, ...]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    skipped: set[int | str] = set(without)
    add = parser.add_class_arguments if isinstance(of, type) else parser.add_function_arguments
    add(of, skip=skipped)
    return parser


def _read(parser: ArgumentParser, values: dict[str, Any]) -> Namespace:
    read = parser.parse_object(values)
    # Without this check a parser takes None for every key, as if the key had not been given.
    parser.validate(read, False)
    return read
