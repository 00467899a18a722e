"""The steps of the optimizer: precision, gradients in parts, clipping, and leaving out what is not finite."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from airnet_basicsr.errors import InputError

AMP_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class Steps:
    """What a training step needs beside losses and optimizer.

    Keys of ``train``: ``amp`` (``bf16`` or ``fp16``: the forward pass in this precision), ``accumulate`` (batches of
    ``batch_size_per_gpu`` in an iteration, worked on one after the other; their gradients are averaged), ``grad_clip``
    (largest norm of the gradient), ``nonfinite_limit`` (steps in a row whose gradients may be infinite or not a number;
    each is skipped. Default: 20).

    Attributes:
        skipped: Steps that were skipped so far.
        in_a_row: Those of them since the last one that was not.
    """

    def __init__(self, train_opt: Mapping[str, Any], device: torch.device) -> None:
        amp = train_opt.get('amp')
        if amp not in (None, *AMP_DTYPES):
            raise InputError(f'option train:amp: expected `bf16`, `fp16` or nothing, found {amp!r}')
        self.dtype = None if amp is None else AMP_DTYPES[amp]
        self.parts = accumulated(train_opt)
        self.grad_clip = train_opt.get('grad_clip')
        self.limit = train_opt.get('nonfinite_limit', 20)
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.skipped = self.in_a_row = 0

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def split(self, batch: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], float]]:
        """The parts of a batch, and each one's share of its images."""
        count = len(next(iter(batch.values())))
        for part in zip(*(tensor.chunk(self.parts) for tensor in batch.values()), strict=True):
            yield dict(zip(batch, part, strict=True)), len(part[0]) / count

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def take(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Step, unless the gradient is not finite. Returns its norm before clipping."""
        self.scaler.unscale_(optimizer)
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if norm.isfinite():
            if self.grad_clip:
                nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm)
            self.scaler.step(optimizer)
            self.in_a_row = 0
        else:
            self.in_a_row += 1
            self.skipped += 1
        self.scaler.update()
        return norm

    def complain(self, current_iter: int, norm: Tensor) -> None:
        """Say that the step was skipped.

        Raises:
            InputError: Too many were.
        """
        get_root_logger().warning(
            f'Iteration {current_iter}: the gradient is not finite (norm {norm.item()}); the step is skipped '
            f'({self.in_a_row} in a row, {self.skipped} in all).'
        )
        if self.in_a_row >= self.limit:
            raise InputError(
                f'training stopped at iteration {current_iter}: {self.limit} steps in a row had gradients that are not '
                'finite (train:nonfinite_limit). Look for broken images in the training set; lower train:optim_g:lr, '
                'set train:grad_clip, or leave train:amp out. The last checkpoint is from before and holds no NaN.'
            )

    def state_dict(self) -> dict[str, Any]:
        return {'scaler': self.scaler.state_dict(), 'skipped': self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped = state['skipped']
        if state['scaler'] and self.scaler.is_enabled():  # train:amp may have changed
            self.scaler.load_state_dict(state['scaler'])


def accumulated(train_opt: Mapping[str, Any]) -> int:
    """``train: accumulate``, checked."""
    parts = train_opt.get('accumulate', 1)
    if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
        raise InputError(f'option train:accumulate: expected a whole number from 1 on, found {parts!r}')
    return parts
