"""The definitions of PSNR and SSIM in use, measured on one pair of pictures; and whose published figures have which.

A value's key names its quantity, the values that it is taken of, and the crop: ``ssim_gaussian_y8_border4``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from airnet_basicsr.plugin.metrics.similarity import GAUSSIAN, UNIFORM, psnr, ssim_maps

QUANTITIES = {
    'psnr': 'PSNR in dB',
    'ssim_gaussian': "Gaussian 11x11 window: BasicSR's SSIM, and skimage's with use_sample_covariance=False",
    'ssim_gaussian_sample': "Gaussian 11x11 window, sample covariance: skimage's SSIM with gaussian_weights=True",
    'ssim_uniform': "uniform 7x7 window, sample covariance: skimage's SSIM by default",
}
VALUES = {
    'rgb8': 'RGB rounded to 8 bits: BasicSR',
    'rgb': "RGB with all of the file's bits: the AirNet release",
    'y8': "Y of YCbCr rounded to 8 bits: MATLAB's rgb2ycbcr of an 8-bit picture",
    'y': "Y of YCbCr not rounded: BasicSR's test_y_channel",
    'corrected': "RGB after the picture was given the clean one's mean brightness: low-light papers",
}
CROPS = {'': 'whole pictures', 'border4': 'without 4 pixels at each side', 'multiple16': 'middle of multiples of 16'}
USES_CLEAN = 'corrected'
"""These values look at the clean picture before they are measured: none of them is a result without it."""


@dataclass(frozen=True)
class Pair:
    """A PSNR and the SSIM beside it, under the name by which the field knows them."""

    name: str
    psnr: str
    ssim: str


DEFAULT = (
    Pair('BasicSR', 'psnr_rgb8', 'ssim_gaussian_rgb8'),
    Pair('AirNet release', 'psnr_rgb', 'ssim_uniform_rgb'),
)
DEFAULT_KEYS = tuple(key for pair in DEFAULT for key in (pair.psnr, pair.ssim))


@dataclass(frozen=True)
class Use:
    """How published figures were taken, and where that stands; ``noise`` says how their noise was made, if it was."""

    whose: str
    psnr: str
    ssim: str
    source: str
    noise: str | None = None


CLIPPED = 'noise clipped and truncated to 8 bits'
USES = (
    Use(
        'denoising baselines of the AirNet paper (CBM3D to FFDNet)',
        'psnr_rgb8',
        'ssim_gaussian_rgb8',
        'docs/evaluation.md',
        'unclipped noise',
    ),
    Use('AirNet release', 'psnr_rgb', 'ssim_uniform_rgb', 'utils/val_utils.py', CLIPPED),
    Use('PromptIR', 'psnr_rgb', 'ssim_uniform_rgb', 'utils/val_utils.py', CLIPPED),
    Use('AdaIR', 'psnr_rgb', 'ssim_uniform_rgb', 'utils/val_utils.py', CLIPPED),
    Use('MoCE-IR', 'psnr_rgb', 'ssim_gaussian_sample_rgb', 'src/test.py', CLIPPED),
    Use('InstructIR', 'psnr_rgb', 'ssim_gaussian_rgb', 'test.py', 'noise read from 8-bit PNGs'),
    Use('OneRestore (CDD-11)', 'psnr_rgb8', 'ssim_uniform_rgb8', 'img_file/cal_psnr_ssim.py'),
    Use('Restormer (deraining)', 'psnr_y8', 'ssim_gaussian_y8', 'Deraining/evaluate_PSNR_SSIM.m'),
    Use('Retinexformer', 'psnr_rgb', 'ssim_gaussian_rgb8', 'Enhancement/test_from_dataset.py'),
    Use('LLFlow', 'psnr_corrected', 'ssim_gaussian_corrected', 'code/test.py'),
    Use(
        'Retinexformer with --GT_mean',
        'psnr_corrected',
        'ssim_gaussian_corrected',
        'Enhancement/test_from_dataset.py',
    ),
)
"""``source`` is a file of the authors' repository, or of this one."""


def split_key(key: str) -> tuple[str, str, str]:
    """Quantity, values and crop of a key."""
    quantity = max((name for name in QUANTITIES if key.startswith(f'{name}_')), key=len)
    values, _, crop = key[len(quantity) + 1 :].partition('_')
    return quantity, values, crop


def describe(key: str, brief: bool = False) -> str:
    """A key in words; ``brief``: without whose it is."""
    quantity, values, crop = split_key(key)
    words = [QUANTITIES[quantity], VALUES[values], CROPS[crop]]
    return words[quantity == 'psnr'].partition(':')[0] if brief else '; '.join(words)


def standing(pair: Pair, eight_bits: bool) -> tuple[list[str], list[str]]:
    """Beside whose figures a pair of values may stand; and beside whose not, with the reason.

    Args:
        eight_bits: Whether all files have 8 bits: rounding to 8 bits then changes none of their values.
    """

    def same(key: str) -> str:
        return key.replace('rgb8', 'rgb') if eight_bits else key

    beside: list[str] = []
    reasons: dict[str, list[str]] = {}
    for use in USES:
        if (same(use.psnr), same(use.ssim)) == (same(pair.psnr), same(pair.ssim)):
            beside.append(f'{use.whose} ({use.noise})' if use.noise else use.whose)
            continue
        if same(use.psnr) != same(pair.psnr):
            reason = f'PSNR measured on {describe(use.psnr, brief=True)}'
        else:
            reason = f'SSIM with a {describe(use.ssim, brief=True)} (PSNR alone may)'
        reasons.setdefault(reason, []).append(use.whose)
    return beside, [f'{"; ".join(names)}, because: {reason}' for reason, names in reasons.items()]


def measure(restored: np.ndarray, clean: np.ndarray, everything: bool = False) -> dict[str, float]:
    """All values of a pair of pictures by key; the default ones alone unless ``everything``.

    Args:
        restored, clean: H x W x 3, RGB, of one size: uint8, uint16, or float in [0, 1] (clipped here).

    Raises:
        InputError: They are smaller than an SSIM's window.
    """
    exact = _to_float(restored), _to_float(clean)
    rounded = _to_8_bits(restored), _to_8_bits(clean)
    if not everything:
        found = _values('rgb8', *rounded, 255, ['psnr', 'ssim_gaussian'], [''])
        return found | _values('rgb', *exact, 1, ['psnr', 'ssim_uniform'], [''])
    found = _values('rgb8', *rounded, 255, QUANTITIES, CROPS)
    if all(image.dtype == np.uint8 for image in (restored, clean)):
        found |= {key.replace('rgb8', 'rgb'): value for key, value in found.items()}
    else:
        found |= _values('rgb', *exact, 1, QUANTITIES, CROPS)
    found |= _values('y8', np.round(_luma(rounded[0])), np.round(_luma(rounded[1])), 255, QUANTITIES, CROPS)
    found |= _values('y', _luma(exact[0] * 255), _luma(exact[1] * 255), 255, QUANTITIES, CROPS)
    return found | _values('corrected', correct_brightness(*exact), exact[1], 1, ['psnr', 'ssim_gaussian'], [''])


def correct_brightness(restored: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The restored picture, scaled to the clean one's mean brightness and clipped, as low-light papers do.

    Args:
        restored, clean: H x W x 3, RGB, float in [0, 1].
    """
    brightness = [float(image.mean((0, 1)) @ (0.299, 0.587, 0.114)) for image in (restored, clean)]
    return np.clip(restored * (brightness[1] / brightness[0]), 0, 1) if brightness[0] else restored


def _values(
    kind: str, restored: np.ndarray, clean: np.ndarray, peak: float, quantities: Iterable[str], crops: Iterable[str]
) -> dict[str, float]:
    maps: dict[str, np.ndarray] = {}
    if any(name.startswith('ssim_gaussian') for name in quantities):
        of_sample = (False, True) if 'ssim_gaussian_sample' in quantities else (False,)
        found = ssim_maps(restored, clean, peak, GAUSSIAN, of_sample)
        maps |= dict(zip(('ssim_gaussian', 'ssim_gaussian_sample'), found, strict=False))
    if 'ssim_uniform' in quantities:
        (maps['ssim_uniform'],) = ssim_maps(restored, clean, peak, UNIFORM, (True,))
    values = {}
    for crop in crops:
        rows, columns = (_kept(side, crop) for side in clean.shape[:2])
        if any(part.stop - part.start < 2 * GAUSSIAN.radius + 1 for part in (rows, columns)):
            continue  # a crop that is smaller than the window has no SSIM
        ending = f'{kind}_{crop}' if crop else kind
        values[f'psnr_{ending}'] = psnr(restored[rows, columns], clean[rows, columns], peak)
        for name, map_ in maps.items():
            cut = clean.shape[0] - map_.shape[0]  # the map begins half a window inside the image
            part = map_[rows.start : rows.stop - cut, columns.start : columns.stop - cut]
            values[f'{name}_{ending}'] = float(part.mean())
    return values


def _luma(image: np.ndarray) -> np.ndarray:
    """Y in [16, 235] of RGB in [0, 255]; in float64, as MATLAB: BasicSR's float32 rounds now and then otherwise."""
    return image @ (65.481, 128.553, 24.966) / 255 + 16


def _kept(side: int, crop: str) -> slice:
    if crop == 'border4':
        return slice(4, side - 4)
    kept = side - side % 16 if crop == 'multiple16' else side
    return slice((side - kept) // 2, (side - kept) // 2 + kept)


def _to_float(image: np.ndarray) -> np.ndarray:
    if image.dtype.kind == 'f':
        return np.clip(image.astype(np.float64), 0, 1)
    return image / np.iinfo(image.dtype).max


def _to_8_bits(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    return np.round(_to_float(image) * 255).astype(np.uint8)


def to_bgr8(image: np.ndarray) -> np.ndarray:
    """As BasicSR's metrics take it: uint8, BGR."""
    return np.ascontiguousarray(cv2.cvtColor(_to_8_bits(image), cv2.COLOR_RGB2BGR))
