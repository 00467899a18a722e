"""PSNR and SSIM of two images, in the definitions that the field's papers use under these two names.

SSIM is Wang et al.'s (IEEE TIP 2004) with K1 = 0.01, K2 = 0.03. Its map is taken where the whole window lies in the
image, as BasicSR and scikit-image do. So the SSIM of an image with its border cut off is the mean of the map's middle:
one filtering serves every crop. The windows are separable, which makes this twice as fast as either library.
"""

from typing import NamedTuple

import cv2
import numpy as np

from airnet_basicsr.errors import InputError


class Window(NamedTuple):
    """The window of an SSIM: its radius in pixels, and the deviation of its Gaussian, or None for a uniform one."""

    radius: int
    sigma: float | None


UNIFORM = Window(3, None)
"""7 x 7, the default of scikit-image."""
GAUSSIAN = Window(5, 1.5)
"""11 x 11: Wang et al.'s, BasicSR's, and scikit-image's with ``gaussian_weights=True``."""


def psnr(restored: np.ndarray, clean: np.ndarray, peak: float) -> float:
    """PSNR in dB of two arrays of one shape; infinite where they are equal.

    Args:
        peak: The value of white.
    """
    difference = np.subtract(restored, clean, dtype=np.float64)
    error = float(np.mean(np.square(difference, out=difference)))
    return 10 * float(np.log10(peak**2 / error)) if error else float('inf')


def ssim_maps(
    restored: np.ndarray, clean: np.ndarray, peak: float, window: Window, of_sample: tuple[bool, ...]
) -> list[np.ndarray]:
    """The SSIM wherever the window lies within the image, H - 2r x W - 2r (x C): a map for each ``of_sample``.

    Args:
        restored, clean: H x W or H x W x C.
        peak: The value of white.
        of_sample: Whether variances are estimated with n - 1 as scikit-image does, or with n as BasicSR does.

    Raises:
        InputError: The images are smaller than the window.
    """
    side = 2 * window.radius + 1
    if min(clean.shape[:2]) < side:
        raise InputError(
            f'the image has {clean.shape[1]}x{clean.shape[0]} pixels, less than the window of {side}x{side} of its SSIM'
        )
    x, y = restored.astype(np.float64), clean.astype(np.float64)
    mean_x, mean_y = _mean(x, window), _mean(y, window)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _mean(x * y, window) - product
    # Both variances are needed as their sum alone.
    variances = _mean(x * x + y * y, window) - squares
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * product + c1) / (squares + c1)
    scales = (side**2 / (side**2 - 1) if sample else 1.0 for sample in of_sample)
    return [luminance * ((2 * scale * covariance + c2) / (scale * variances + c2)) for scale in scales]


def _mean(image: np.ndarray, window: Window) -> np.ndarray:
    radius = window.radius
    if window.sigma is None:
        filtered = cv2.blur(image, (2 * radius + 1, 2 * radius + 1))
    else:
        kernel = cv2.getGaussianKernel(2 * radius + 1, window.sigma)
        filtered = cv2.sepFilter2D(image, -1, kernel, kernel)
    return filtered[radius:-radius, radius:-radius]
