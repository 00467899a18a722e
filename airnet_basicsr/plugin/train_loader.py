"""The training data as BasicSR's train loop takes it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data_order import data_order
from airnet_basicsr.plugin.models.interruption import held
from airnet_basicsr.plugin.models.steps import accumulated


class TrainLoader:
    """A data loader whose worker processes outlive a signal to the whole group of processes.

    torchrun, SLURM and a terminal send SIGTERM and SIGINT to all of it; training then needs its workers for one more
    iteration.

    Raises:
        InputError: An epoch has fewer items than one batch.
    """

    def __init__(self, loader: Any, opt: Mapping[str, Any]) -> None:
        self.loader, self.sampler, self.batch_size = loader, loader.sampler, loader.batch_size
        if len(loader) == 0:
            data = opt['datasets']['train']
            parts = accumulated(opt['train'])
            raise InputError(
                f'option datasets:train: {len(loader.dataset)} items, of which each process sees {len(self.sampler)} '
                f'in an epoch, give no batch of {self.batch_size} (batch_size_per_gpu: {data["batch_size_per_gpu"]}'
                + (f', train:accumulate: {parts}' if parts > 1 else '')
                + '). Raise dataset_enlarge_ratio, or make the batch smaller.'
            )

    @staticmethod
    @contextmanager
    def batches(opt: Mapping[str, Any]) -> Iterator[None]:
        """Meanwhile, BasicSR builds loaders whose batches hold all that an iteration uses (``train: accumulate``)."""
        data = opt['datasets'].get('train')
        if not data:
            raise InputError('option datasets: there is no `train`, the set to train on')
        size = data['batch_size_per_gpu']
        data['batch_size_per_gpu'] = size * accumulated(opt['train'])
        try:
            yield
        finally:
            data['batch_size_per_gpu'] = size

    def __iter__(self) -> Iterator[Any]:
        with held():
            return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def last_epoch(self, total_iter: int) -> int:
        """The epoch in which iteration ``total_iter`` comes, for a new run as for one that is resumed."""
        epoch, drawn = data_order.start
        missing = total_iter - data_order.iteration
        missing -= max(0, len(self.sampler) - drawn) // self.batch_size
        return epoch + max(0, -(-missing // len(self.loader)))
