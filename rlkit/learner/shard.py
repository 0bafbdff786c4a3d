"""One model on several ranks, by torch: copied (DDP), or divided (FSDP2, arXiv:2304.11277 and torch's fully_shard).

Divided, a rank holds its part of every weight, gradient and moment; a decoder layer's weights are gathered when it is
computed and freed after. torch's own wrappers and not accelerate's `prepare`, which would also impose the precision of
`accelerate launch`, or of a warm start in the same process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rlkit.config import LearnerConfig
from rlkit.ranks import Ranks

from .compiled import decoder_layers
from .policy import Policy


def spread(policy: Policy, cfg: LearnerConfig, ranks: Ranks, device: torch.device, autocast: bool) -> Any:
    """The policy on its device or devices, as the module to call. Its parameters are new ones when it is divided."""
    if cfg.shard == "fsdp2":
        _divide(policy, cfg, ranks, device, autocast)
        return policy
    policy.to(device)
    if ranks.world == 1 or not any(p.requires_grad for p in policy.parameters()):
        return policy
    return nn.parallel.DistributedDataParallel(
        policy,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        # Tables of rotations, the same everywhere. So a forward waits for nobody, and a rank whose memory ran out can say so.
        broadcast_buffers=False,
    )


def _divide(policy: Policy, cfg: LearnerConfig, ranks: Ranks, device: torch.device, autocast: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    # Gathered in bfloat16, summed in float32; the parts stay float32. What goes in is a Batch, which keeps its types.
    half = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (ranks.world,)),
        "mp_policy": half if autocast else MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if cfg.cpu_offload and device.type != "cpu" else OffloadPolicy(),
    }
    for layer in decoder_layers(policy.model, "--learner.shard fsdp2"):
        fully_shard(layer, **settings)
    fully_shard(policy, **settings)  # the rest: embedding, last norm, head


def is_copied(module: Any) -> bool:
    """Whether each rank holds a copy, whose gradients meet when a backward pass runs outside `unsynced`."""
    return isinstance(module, nn.parallel.DistributedDataParallel)


@contextmanager
def unsynced(module: Any) -> Iterator[None]:
    """Gradients stay on this rank until they are asked for together (`gradient.gradient`).

    Only of copies: FSDP2 would keep the whole gradient on every rank instead of its part.
    """
    if is_copied(module):
        with module.no_sync():
            yield
    else:
        yield


def reshard(module: Any) -> None:
    """Free what a forward pass without backward left gathered: until then the module's parameters are not its parts."""
    if hasattr(module, "reshard"):
        module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A weight with all its parts; every rank asks for it at the same time."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        on_device: Any = tensor.to(tensor.device_mesh.device_type)  # with cpu_offload it lies on the host
        gathered: Tensor = on_device.full_tensor()
        return gathered
    return tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a whole tensor, divided as the parameter is, on its device."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        divided: Tensor = distribute_tensor(
            tensor, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        return divided
    return tensor
