"""Perceptual and no-reference metrics of the pyiqa package."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.metrics.images import exact_rgb


@METRIC_REGISTRY.register()
def calculate_pyiqa(
    img: np.ndarray,
    img2: np.ndarray | None = None,
    metric: str = 'lpips',
    float_img: Tensor | None = None,
    float_img2: Tensor | None = None,
    **kwargs: Any,
) -> float:
    """A metric of pyiqa by its name there (lpips, dists, niqe, musiq, ...).

    Those without a reference need no clean image. It works on the float images, clipped to [0, 1]; called with the
    8-bit images alone, as BasicSR's own models do, on the rounded ones. pyiqa downloads the weights of learnt
    metrics at their first use. Set ``better: lower`` beside ``metric`` for those of which less is better.

    Args:
        img, img2: The restored and the clean image, uint8, H x W x 3, BGR.
        metric: Name of the metric in pyiqa.
        float_img, float_img2: The same before rounding, 1 x 3 x H x W, RGB.

    Raises:
        InputError: pyiqa is missing, knows no such metric, cannot download its weights, or lacks the clean image.
    """
    scorer = load_pyiqa(metric)
    device = next((parameter.device for parameter in scorer.parameters()), torch.device('cpu'))
    images = [exact_rgb(img, float_img).to(device)]
    if scorer.metric_mode == 'FR':
        if img2 is None:
            raise InputError(f'metric {metric} of pyiqa compares with clean images, and this dataset has none')
        images.append(exact_rgb(img2, float_img2).to(device))
    with torch.inference_mode():
        return float(scorer(*images))


@lru_cache
def load_pyiqa(name: str) -> Any:
    """A metric of pyiqa with its weights, once for the process.

    Raises:
        InputError: pyiqa is missing, knows no such metric, or cannot download its weights.
    """
    try:
        import pyiqa
    except ImportError as error:
        raise InputError(
            f'calculate_pyiqa ({name}) needs the package pyiqa ({error}): pip install "airnet-basicsr[perceptual]", or '
            'leave the metric out'
        ) from error
    if name not in pyiqa.list_models():
        raise InputError(f'pyiqa knows no metric {name!r}. Known: {", ".join(pyiqa.list_models())}.')
    try:
        return pyiqa.create_metric(name, device='cuda' if torch.cuda.is_available() else 'cpu')
    except OSError as error:  # urllib's and huggingface_hub's errors are of this kind
        raise InputError(
            f"the weights of pyiqa's {name} cannot be loaded ({error}): they are downloaded at the first use, so this "
            'needs a network once; or leave the metric out'
        ) from error
