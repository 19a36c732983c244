"""What the tables of forecasting read, made up."""

from collections.abc import Callable

import pytest


@pytest.fixture
def result() -> Callable[..., dict]:
    """Makes what a finished run leaves, as far as a table reads it."""

    def result(mse: float, seed: int, look_back: int = 96, variant: str = "lmm", **more) -> dict:
        head = {"look_back": look_back, "loss": "mae", "patch": 16}
        trainer = {"limit_train_batches": None, "limit_val_batches": None}
        return {
            "metrics": {"test/mse": mse, "test/mae": mse + 0.1},
            "data": {"look_back": look_back},
            "config": {"model": {"head": {"init_args": head}, "backbone": {"variant": variant}}, "trainer": trainer},
            "seed": seed,
            "device": "cpu",
            "versions": {"commit": "abc"},
            "parameters": 47094,
            "partial": False,
            "seconds": 60.0,
            "validation": 0.7,
            **more,
        }

    return result
