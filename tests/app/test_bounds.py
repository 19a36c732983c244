"""Values of a configuration that cannot be: one line with the key, before anything is built or started."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.optim import OptimConfig
from memory import BackboneConfig, MemoryConfig
from memory.bounds import check_bounds, leaves

TOY = ("--config", "toy.yaml")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("model.backbone.dim=-1", "backbone.dim is -1; it must be at least 1"),
        ("model.backbone.dim=9223372036854775808", "dim is 9223372036854775808; it must be at most 2147483647"),
        ("model.backbone.memory.head_dim=0", "memory.head_dim is 0; it must be at least 1"),
        ("model.backbone.dim=null", "key \"model.backbone.dim\": Expected a <class 'int'>. Got value: None"),
        ("data.samples=null", "data.samples is null; it must have a value"),
        ("model.backbone.dropout=2", "backbone.dropout is 2.0; it must be from 0 to 1"),
        ("model.backbone.dropout=.nan", "model.backbone.dropout is nan; give a finite number"),
        ("model.backbone.memory.forgetting_start=1e999", "forgetting_start is inf; give a finite number"),
        ("model.backbone.memory.forgetting_start=[-4, .inf]", "forgetting_start[1] is inf; give a finite number"),
        ("model.backbone.memory.depth=5", "memory.depth is 5; it must be from 1 to 4"),
        ("model.optim.warmup=1e400", "model.optim.warmup is inf; give a finite number"),
        ("model.optim.weight_decay=-1", "optim.weight_decay is -1.0; it must be at least 0"),
        ("model.optim.betas=[2, 3]", "optim.betas are (2.0, 3.0); give two numbers from 0 to below 1"),
        ("data.share=-.inf", "data.init_args.share is -inf; give a finite number"),
        ("data.batch_size=0", "data.batch_size is 0; it must be at least 1"),
        ("trainer.devices=-1", "the configuration cannot be built: `devices` selected with `CPUAccelerator`"),
        ("trainer.devices=99999", "trainer.devices is 99999; this machine has room for"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is 0; it must be at least 1"),
        ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps is 0; it must be at least 1"),
        ("trainer.save_minutes=-1", "trainer.save_minutes is -1.0; it must be at least 0"),
        ("trainer.max_skipped=0", "trainer.max_skipped is 0; it must be at least 1"),
        ("trainer.gradient_clip_val=.inf", "trainer.gradient_clip_val is inf; give a finite number"),
        (
            "trainer.max_time={a: 1}",
            "trainer.max_time is {'a': 1}; give DD:HH:MM:SS, or days, hours, minutes and seconds",
        ),
        ("trainer.max_time={days: 99999999999}", "trainer.max_time is {'days': 99999999999}; give DD:HH:MM:SS"),
        ("model.init_from=nope", "model.init_from nope: there is no file nope; give a checkpoint file"),
        ("trainer.max_time=12:30", "trainer.max_time is '12:30'; give DD:HH:MM:SS"),
        ("trainer.max_time={hours: -1}", "trainer.max_time is {'hours': -1}; give DD:HH:MM:SS"),
        ("seed_everything=-1", "seed_everything is -1; it must be from 0 to 4294967295"),
        ("seed_everything=99999999999", "seed_everything is 99999999999; it must be from 0 to 4294967295"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(refused: Callable, value: str, says: str) -> None:
    assert says in refused("fit", *TOY, f"--{value}")


TREES = st.recursive(
    st.integers() | st.text(), lambda inside: st.dictionaries(st.text("ab", min_size=1), inside), max_leaves=12
)


@given(TREES)
def test_a_number_is_found_wherever_it_stands(tree: object) -> None:
    assert not any(isinstance(value, float) for _, value in leaves(tree))
    check_bounds("x", {"a": tree}, {})
    for wrong in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=r"x.z.y\[1\] is -?(inf|nan); give a finite number"):
            check_bounds("x", {"a": tree, "z": {"y": [0, wrong]}}, {})


@pytest.mark.parametrize("config", [MemoryConfig, BackboneConfig, OptimConfig])
def test_no_number_of_a_model_is_infinite(config: type) -> None:
    for name, value in vars(config()).items():
        if isinstance(value, float):
            for wrong in (math.inf, math.nan):
                with pytest.raises(ValueError, match=name):
                    config(**{name: wrong})
