"""Generated data in the place of real ones: who may take them, and that nobody overlooks it."""

from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

# `auto` takes the local files, else downloads them, else generates data; `file` and `sample` insist
Source = Literal["auto", "file", "sample"]
FRAME = "*" * 100


def refuse_or_announce(source: Source, name: str, why: str, missing: OSError) -> None:
    """Say loudly that generated data take the place of real ones, unless the user insists on these.

    Args:
        source: what the user asked for.
        name: the data set that is missing.
        why: what became of it, a predicate: `could not be downloaded (no network)`.
        missing: the error for a user who insists on files; it names the place and the cure.

    Raises:
        OSError: `missing`, where the source is `file`.
    """
    if source == "file":
        raise missing
    if source == "auto":
        rank_zero_warn(
            f"\n{FRAME}\n{name} {why}.\nGENERATED DATA TAKE ITS PLACE: "
            f"no score of this run says anything about {name}.\n{FRAME}"
        )
