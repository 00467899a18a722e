"""Which of the networks of a training run is the best, by the mean of a metric over the validation sets."""

import math
from collections.abc import Mapping
from typing import Any

from airnet_basicsr.errors import InputError


class BestNetwork:
    """Key of ``logger``: ``keep_best``, a name in ``val: metrics``, whose ``better`` says which values are.

    Attributes:
        metric: The metric's name, or None.
        mean: The best mean so far, or None.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.metric = opt['logger'].get('keep_best')
        self.mean: float | None = None
        self.sets = sum(phase.split('_')[0] == 'val' for phase in opt.get('datasets') or {})
        self._validated: dict[str, float] = {}
        if self.metric is None:
            return
        metrics = (opt.get('val') or {}).get('metrics') or {}
        if self.metric not in metrics:
            raise InputError(f'option logger:keep_best: there is no metric {self.metric!r} under val:metrics')
        better = metrics[self.metric].get('better', 'higher')
        if better not in ('higher', 'lower'):
            raise InputError(f'option val:metrics:{self.metric}:better: expected `higher` or `lower`, found {better!r}')
        self._sign = 1 if better == 'higher' else -1

    def improved(self, dataset: str, values: Mapping[str, float]) -> bool:
        """Take the means of a validation set; whether, with those of the other sets, it is the best network so far."""
        if self.metric is None:
            return False
        self._validated[dataset] = values[self.metric]
        if len(self._validated) < self.sets:
            return False
        mean = sum(self._validated.values()) / len(self._validated)
        self._validated = {}
        if math.isnan(mean) or (self.mean is not None and not self._sign * mean > self._sign * self.mean):
            return False
        self.mean = mean
        return True
