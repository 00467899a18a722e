"""The training-only half of contrastive learning: key encoder and queue (MoCo)."""

import copy

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import DegradationEncoder


class MomentumContrast(nn.Module):
    """A slowly moving copy of the query encoder, and a queue of the keys that it gave lately.

    Its state dict (``key_encoder.*``, ``queue``, ``queue_ptr``) is part of the training state, not of the network.

    Args:
        encoder: The query encoder, copied.
        queue_size: Keys in the queue, K. The release has 256 for each degradation.
        momentum: Share of the key encoder's own parameters that stays at each update.
        labelled: Also keep the degradation of each key in the queue (``queue_kinds``).
    """

    queue_kinds: Tensor | None
    """K numbers; -1 where a place has not been filled yet."""

    def __init__(self, encoder: DegradationEncoder, queue_size: int, momentum: float, labelled: bool = False) -> None:
        super().__init__()
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum
        channels = encoder.mlp[-1].out_features
        self.register_buffer('queue', F.normalize(torch.randn(channels, queue_size), dim=0))
        self.register_buffer('queue_ptr', torch.zeros(1, dtype=torch.long))
        # Not there unless asked for: training states have it then and only then.
        self.register_buffer('queue_kinds', torch.full((queue_size,), -1) if labelled else None)

    def agree(self) -> None:
        """Give every process that trains along the queue of the first one; they were seeded differently."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(self.queue, src=0)

    @torch.no_grad()
    def follow(self, encoder: DegradationEncoder) -> None:
        """Move the key encoder towards ``encoder``.

        BatchNorm statistics are not moved: the key encoder gathers its own, as in MoCo and the release.
        """
        for key_parameter, parameter in zip(self.key_encoder.parameters(), encoder.parameters(), strict=True):
            key_parameter.mul_(self.momentum).add_(parameter, alpha=1 - self.momentum)

    @torch.no_grad()
    def keys(self, x: Tensor) -> Tensor:
        """The keys (B x C, unit length) of images ``x``."""
        return F.normalize(self.key_encoder(x).projection)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, kinds: Tensor) -> None:
        """Put ``keys`` (B x C), and those of the other processes, in the place of the oldest ones.

        Args:
            keys: B x C, of unit length.
            kinds: The degradation of each, B numbers; used where the queue is labelled.

        Raises:
            InputError: Together they are more than the queue's K.
        """
        keys = _of_all_processes(keys)
        size = self.queue.shape[1]
        if len(keys) > size:
            raise InputError(f'option train:queue_size is {size}, less than the {len(keys)} keys of one batch')
        slots = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        self.queue[:, slots] = keys.T
        if self.queue_kinds is not None:
            self.queue_kinds[slots] = _of_all_processes(kinds.to(keys.device))
        self.queue_ptr.copy_((self.queue_ptr + len(keys)) % size)


def _of_all_processes(rows: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
