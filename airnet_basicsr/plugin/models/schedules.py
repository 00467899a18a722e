"""Learning rates as functions of the iteration."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from airnet_basicsr.errors import InputError


class WarmupCosineLR(LRScheduler):
    """Linear warm-up, then half a cosine down to ``eta_min`` at the end of training (Loshchilov & Hutter 2017).

    Args:
        optimizer: Whose rates are set.
        total_iter: Iterations of the whole training run.
        warmup: Iterations in which the rate rises from 1 / ``warmup`` of it to the optimizer's.
        eta_min: The rate at the end.

    Raises:
        InputError: The warm-up takes the whole training run.
    """

    def __init__(self, optimizer: Optimizer, total_iter: int, warmup: int = 0, eta_min: float = 0) -> None:
        if not 0 <= warmup < total_iter:
            raise InputError(
                f'option train:scheduler:warmup: {warmup} iterations of warm-up in a training run of {total_iter}'
            )
        self.total_iter, self.warmup, self.eta_min = total_iter, warmup, eta_min
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        done = self.last_epoch  # iterations before this one
        if done < self.warmup:
            return [rate * (done + 1) / self.warmup for rate in self.base_lrs]
        progress = min(1, (done - self.warmup) / (self.total_iter - self.warmup))
        share = (1 + math.cos(math.pi * progress)) / 2
        return [self.eta_min + (rate - self.eta_min) * share for rate in self.base_lrs]
