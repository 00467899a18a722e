"""PSNR and SSIM as the official release's test takes them: of float images, clipped to [0, 1] but not quantised."""

from typing import Any

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.metrics.images import exact_rgb
from airnet_basicsr.plugin.metrics.similarity import UNIFORM, psnr, ssim_maps


@METRIC_REGISTRY.register()
def calculate_psnr_release(
    img: np.ndarray,
    img2: np.ndarray,
    float_img: Tensor | None = None,
    float_img2: Tensor | None = None,
    **kwargs: Any,
) -> float:
    """PSNR in dB of the official release's test: data range 1, over R, G and B.

    Called with the 8-bit images alone, as BasicSR's own models do, it is the PSNR of the rounded images: lower by
    about 0.006 dB at 30 dB and 0.05 dB at 40 dB.

    Args:
        img: The restored image, uint8, H x W x 3, BGR.
        img2: The clean image, likewise.
        float_img: The restored image before rounding, 1 x 3 x H x W, RGB; clipped to [0, 1] here. Models derived from
            :class:`~airnet_basicsr.plugin.models.restoration_model.RestorationModel` give it.
        float_img2: The clean image, likewise.
        **kwargs: Ignored: BasicSR hands on all keys of the metric.

    Raises:
        InputError: The two images differ in size.
    """
    restored, clean = _pair(img, img2, float_img, float_img2)
    return psnr(restored, clean, peak=1)


@METRIC_REGISTRY.register()
def calculate_ssim_release(
    img: np.ndarray,
    img2: np.ndarray,
    float_img: Tensor | None = None,
    float_img2: Tensor | None = None,
    **kwargs: Any,
) -> float:
    """SSIM (0 to 1) of the official release's test: skimage's, uniform 7 x 7 window, mean over R, G and B.

    The literature's (and BasicSR's) has a Gaussian window and is lower by some thousandths. Called with the 8-bit
    images alone, as BasicSR's own models do, it is the SSIM of the rounded images.

    Args:
        img: As in :func:`calculate_psnr_release`.
        img2: Likewise.
        float_img: Likewise.
        float_img2: Likewise.
        **kwargs: Ignored.

    Raises:
        InputError: The two images differ in size, or are smaller than the window.
    """
    restored, clean = _pair(img, img2, float_img, float_img2)
    (found,) = ssim_maps(restored, clean, 1, UNIFORM, (True,))
    return float(found.mean())


def _pair(
    img: np.ndarray, img2: np.ndarray, float_img: Tensor | None, float_img2: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, H x W x 3, in [0, 1]."""
    restored, clean = (
        exact_rgb(rounded, exact)[0].permute(1, 2, 0).double().numpy()
        for rounded, exact in ((img, float_img), (img2, float_img2))
    )
    if restored.shape != clean.shape:
        sizes = ' and '.join(f'{image.shape[1]}x{image.shape[0]}' for image in (restored, clean))
        raise InputError(f'the restored and the clean image differ in size: {sizes} pixels')
    return restored, clean
