"""One round over a validation or test set: which process takes which image, and what is measured of it."""

import inspect
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, Subset

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.models.processes import gather
from airnet_basicsr.plugin.models.records import name_of
from airnet_basicsr.plugin.options import require


class Metrics:
    """The metrics of ``val: metrics``, of restored and of degraded images.

    Metrics with the parameters ``float_img`` and ``float_img2`` get the images before rounding too (1 x 3 x H x W,
    RGB).

    Raises:
        InputError: There is no such metric.
    """

    def __init__(self, described: Mapping[str, Any] | None) -> None:
        self.described = described or {}
        for name, metric in self.described.items():
            if require(metric, 'type', f'val:metrics:{name}') not in METRIC_REGISTRY:
                raise InputError(
                    f'option val:metrics:{name}:type: there is no metric {metric["type"]!r}. '
                    f'Known: {", ".join(METRIC_REGISTRY.keys())}.'
                )

    def check(self, dataset: str, has_clean_images: bool) -> None:
        """Raise InputError where a metric compares with clean images, and ``dataset`` has none."""
        for name, metric in self.described.items():
            reference = self._parameters(metric).get('img2')
            if reference is not None and reference.default is reference.empty and not has_clean_images:
                raise InputError(
                    f'dataset {dataset} has no clean images, which the metric {name} ({metric["type"]}) compares with: '
                    'leave it out, or test this dataset by itself'
                )

    def of(self, image: Tensor, clean: Tensor | None) -> dict[str, float]:
        """By name, of an image and its clean one (1 x 3 x H x W, RGB; both are clipped to [0, 1] in place)."""
        data = {'img': tensor2img([image])}
        if clean is not None:
            data['img2'] = tensor2img([clean])
        exact = {'float_img': image, 'float_img2': clean}
        return {
            name: float(
                calculate_metric({**data, **exact} if 'float_img' in self._parameters(metric) else data, metric)
            )
            for name, metric in self.described.items()
        }

    @staticmethod
    def _parameters(metric: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(METRIC_REGISTRY.get(metric['type'])).parameters


def share_of(loader: DataLoader, opt: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every Nth image of a set, each as a batch of its own and with its place in the set; N is the number of processes.

    Raises:
        InputError: The set has no images.
    """
    dataset: Any = loader.dataset
    if len(dataset) == 0:
        raise InputError(f'dataset {dataset.opt["name"]} has no images: look at its folders or LMDB, or leave it out')
    places = range(len(dataset))
    if opt['dist']:
        places = places[opt['rank'] :: opt['world_size']]
        loader = DataLoader(Subset(dataset, places))
    return zip(places, loader, strict=True)


def means(measured: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """By metric, over the images of all processes, from each one's places and values."""
    # Summed in the set's order, so that the number of processes changes not even the last digit.
    everywhere = [values for _, values in sorted(sum(gather(measured), []), key=lambda pair: pair[0])]
    return {name: sum(values[name] for values in everywhere) / len(everywhere) for name in everywhere[0]}


def warn_of_no_number(dataset: str, image: str, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            get_root_logger().warning(f'{dataset}: {name} of {image} is {value}, and so is the mean.')


def check_dataset_names(opt: Mapping[str, Any]) -> None:
    """Raise InputError where two validation or test sets have one name: their results would overwrite each other."""
    keys: dict[str, str] = {}
    for key, dataset in (opt.get('datasets') or {}).items():
        name = dataset.get('name')
        if key.partition('_')[0] == 'train' or name is None:
            continue
        if name in keys:
            raise InputError(
                f'option datasets: {keys[name]} and {key} are both named {name}, so that their results would overwrite '
                'each other: give each a name of its own'
            )
        keys[name] = key


def names_several_times(dataset: Any) -> frozenset[str]:
    """Names that several images of a set have, in different subfolders."""
    if hasattr(dataset, 'degradation'):
        paths = [dataset.degradation.path(index) for index in range(len(dataset))]
    else:  # BasicSR's own
        paths = [path['lq_path'] if isinstance(path, dict) else path for path in getattr(dataset, 'paths', [])]
    counts = Counter(name_of([path]) for path in paths)
    return frozenset(name for name, count in counts.items() if count > 1)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """``net`` in evaluation mode; afterwards as it was."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def share_statistics(*nets: nn.Module | None) -> None:
    """Give every process the buffers (BatchNorm's statistics) of the first one, which are those that get saved."""
    for net in nets:
        for buffer in net.buffers() if net is not None else ():
            distributed.broadcast(buffer, src=0)
