"""A model divided over several processes by FSDP2 (Zhao et al. 2023): each holds some rows of every tensor.

A block is gathered when it computes, forward and backward, and let go again. What is saved and loaded is whole.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from fathom.model.norm import LayerNorm
from fathom.model.transformer import Transformer
from fathom.quant.linear import QuantLinear
from fathom.training.loss import Learner


class Shards(Learner):
    """A part of every parameter in each process: a block is whole only while it computes.

    Each micro-batch sends its gradients to the processes that hold the parameters: kept back until the last one, as DDP
    keeps them, they would take the memory that sharding is for.
    """

    divided = True

    def __init__(self, model: Transformer, device: torch.device, dtype: torch.dtype, reason: str) -> None:
        super().__init__(model, reason)
        shard_packed(model)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        lowered = dtype if all(p.requires_grad for p in model.parameters()) and dtype != torch.float32 else None
        if device.type == "cpu" and any(isinstance(part, LayerNorm) for part in model.modules()):
            lowered = None  # its kernel wants weights in the dtype of the stream; autocast rounds those of products
        self.lowered = lowered is not None
        # the stream between blocks stays as autocast has it, and the two ends fp32: as one process computes them
        in_blocks = MixedPrecisionPolicy(lowered, torch.float32, cast_forward_inputs=False)
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=in_blocks)
        at_ends = MixedPrecisionPolicy(cast_forward_inputs=False)
        # the loss reads unembed after the forward pass, so the two ends stay whole until the backward pass is done
        self.sharded = fully_shard(model, mesh=mesh, mp_policy=at_ends, reshard_after_forward=False)
        register_fsdp_forward_method(model, "hidden")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        model.to(device)  # buffers of no block

    def whole(self, x: Tensor) -> Tensor:
        return x.full_tensor() if isinstance(x, DTensor) else x

    def own(self, whole: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return whole
        mesh, placements, local = like.device_mesh, like.placements, like.to_local()
        first = own_rows(len(whole), mesh.get_local_rank(), mesh.size()).start
        part = whole[first : first + len(local)].to(local.device, copy=True)
        return DTensor.from_local(part, mesh, placements, shape=whole.shape, stride=whole.stride())

    @contextmanager
    def assembled(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        parts = dict.fromkeys(part for module in modules for part in module.modules())
        places = [(part, name, p) for part in parts for name, p in part.named_parameters(recurse=False)]
        wholes = {
            p: nn.Parameter(self.whole(p).detach(), p.requires_grad) for p in dict.fromkeys(p for *_, p in places)
        }
        try:
            for part, name, p in places:
                part.register_parameter(name, wholes[p])
            yield
        finally:
            for part, name, p in places:
                part.register_parameter(name, p)

    def let_go(self) -> None:
        self.sharded.reshard()


def shard_packed(model: nn.Module) -> None:
    """Make packed tensors frozen parameters, of which FSDP gives each process a part, as it does with no buffer."""
    for layer in model.modules():
        if isinstance(layer, QuantLinear):
            for field in layer.scheme.fields:
                if (x := layer.get_buffer(field)).ndim:
                    delattr(layer, field)
                    layer.register_parameter(field, nn.Parameter(x, requires_grad=False))


def own_rows(rows: int, rank: int, size: int) -> slice:
    """Which rows of a tensor a process holds: as torch.chunk divides them, the last ones fewer or none."""
    each = -(-rows // size)
    return slice(min(rank * each, rows), min((rank + 1) * each, rows))
