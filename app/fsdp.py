"""Fully sharded training: every device keeps its part of parameters, gradients and optimiser states (FSDP2)."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from app.module import TitansModule


class FSDPStrategy(DDPStrategy):
    """FSDP2 in the place of DDP: for models whose parameters and optimiser states do not fit one device.

    A block of the backbone is gathered while it computes, the head from a step's forward to the end of its backward.
    Checkpoints are those of one device, so that any strategy on any number of devices goes on from them; the first
    process gathers them in its main memory. (Lightning's ModelParallelStrategy numbers the optimiser's states in the
    order of the model, not of the optimiser's groups, and does not read back what a head keeps beside tensors.)
    `validate` and `test` do not shard.
    """

    def configure_ddp(self) -> None:
        """Shard the model, instead of wrapping it in DDP."""
        model = cast(TitansModule, self.lightning_module)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for block in model.backbone.blocks:
            fully_shard(block, mesh=mesh)
            # `begin` reads M_0 and the persistent tokens, so FSDP must gather them before it.
            register_fsdp_forward_method(block, "begin")
        fully_shard(model, mesh=mesh)
        for step in ("training_step", "validation_step"):
            register_fsdp_forward_method(model, step)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Everything that the module keeps, whole on the first device; all devices must ask."""
        return tree_map(_gathered, super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's states, whole on the first device; all devices must ask."""
        return tree_map(_gathered, super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this device's part of states that are whole."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            ids = [i for group in saved["param_groups"] for i in group["params"]]
            states = {
                i: {name: _part(value, p) for name, value in saved["state"][i].items()}
                for i, p in zip(ids, parameters, strict=True)
                if i in saved["state"]
            }
            optimizer.load_state_dict({**saved, "state": states})


def _gathered(x: Any) -> Any:
    """A sharded tensor, whole in the first process's main memory and empty in the others'; anything else as it is."""
    if not isinstance(x, DTensor):
        return x
    everything = x.full_tensor()
    return everything.cpu() if dist.get_rank() == 0 else everything.new_empty(0)


def _part(value: Any, parameter: DTensor) -> Any:
    """A state of a parameter, sharded as the parameter is; Adam's count of steps as it is."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
