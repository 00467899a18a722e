"""Synthetic rain and haze, for people without the original datasets.

Random numbers come from numpy's legacy ``RandomState``, whose stream is frozen: a seed gives the same picture under
every version of numpy.
"""

import cv2
import numpy as np

# What RESIDE's outdoor training set was made with.
RESIDE_AIRLIGHTS = (0.8, 0.85, 0.9, 0.95, 1.0)
RESIDE_BETAS = (0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)

_NEAR, _FAR = 2.0, 20.0


def add_rain(
    image: np.ndarray,
    rng: np.random.RandomState,
    angle: float = 15.0,
    density: float = 0.0025,
    length: int = 30,
    intensity: float = 0.4,
) -> np.ndarray:
    """Add bright parallel rain streaks, in the manner of Rain100L (Yang et al., "Deep Joint Rain Detection and
    Removal from a Single Image", CVPR 2017): one direction in an image, added to the background, O = B + S.

    Args:
        image: uint8, H x W x 3.
        rng: Draws where the streaks lie, their lengths and their brightness.
        angle: Degrees from the vertical, between -90 and 90; above 0 the streaks lean to the right at the top.
        density: Streaks per pixel of the image, 0 to 1.
        length: Pixels of the longest streaks, at least 2; others have down to a third of it.
        intensity: Brightness of the brightest single streak in its middle, 0 to 1.

    Returns:
        uint8, H x W x 3; never darker than ``image``.
    """
    rows, columns = image.shape[:2]
    streaks = np.zeros((rows, columns), np.float32)
    margin = length  # Streaks that start outside reach into the picture.
    field = (rows + 2 * margin, columns + 2 * margin)
    for part in (1.0, 0.65, 0.35):
        count = rng.binomial(field[0] * field[1], density / 3)
        drops = np.zeros(field, np.float32)
        at = rng.randint(0, field[0], count), rng.randint(0, field[1], count)
        np.add.at(drops, at, rng.uniform(0.2, 1.0, count).astype(np.float32))
        layer = cv2.filter2D(drops, cv2.CV_32F, _streak_kernel(angle, length * part))
        streaks += layer[margin : margin + rows, margin : margin + columns]
    out = image + 255 * intensity * np.maximum(streaks, 0)[..., None]
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def _streak_kernel(angle: float, length: float) -> np.ndarray:
    """One streak of peak 1: float32, odd square; about 1.5 pixels wide, fading at its ends and edges."""
    radius = int(np.ceil(length / 2)) + 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    lean = np.deg2rad(angle)
    along = y * np.cos(lean) - x * np.sin(lean)
    across = y * np.sin(lean) + x * np.cos(lean)
    fade = np.clip((length / 2 - np.abs(along)) / (length / 4), 0, 1)
    return fade * np.exp(-0.5 * (across / 0.65) ** 2)


def add_haze(image: np.ndarray, depth: np.ndarray, airlight: float, beta: float) -> np.ndarray:
    """Atmospheric scattering, I = J t + A (1 - t) with t = exp(-beta d) (RESIDE: Li et al., "Benchmarking Single-Image
    Dehazing and Beyond", TIP 2019).

    Args:
        image: J, uint8, H x W x 3.
        depth: d, float, H x W, at least 0; infinity gives pure airlight. With RESIDE's values of ``beta`` a picture
            looks right where its depths lie between about 2 and 20.
        airlight: A, 0 to 1; RESIDE takes it from :data:`RESIDE_AIRLIGHTS`.
        beta: Scattering coefficient, above 0; RESIDE takes it from :data:`RESIDE_BETAS`.

    Returns:
        uint8, H x W x 3.
    """
    transmission = np.exp(-beta * depth.astype(np.float32))[..., None]
    out = image * transmission + 255 * airlight * (1 - transmission)
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def estimate_depth(image: np.ndarray) -> np.ndarray:
    """A guess at the depth of an outdoor photograph, good enough to make haze that varies plausibly.

    It measures nothing: it takes for far what is high up in the picture (as ground and sky are in a landscape) and
    what is bright and colourless (the colour attenuation prior with its published coefficients, Zhu et al., TIP 2015),
    half and half, smoothed along the picture's edges by a guided filter (He et al., TPAMI 2013). Indoors, in
    close-ups and for white things nearby it is wrong.

    Args:
        image: uint8, H x W x 3, BGR or RGB.

    Returns:
        float32, H x W, from 2 (near) to 20 (far): the scale on which RESIDE's ``beta`` values look right.
    """
    scaled = image.astype(np.float32) / 255
    value, lowest = scaled.max(axis=2), scaled.min(axis=2)
    saturation = (value - lowest) / np.maximum(value, 1 / 255)
    attenuation = np.clip(0.121779 + 0.959710 * value - 0.780245 * saturation, 0, 1)
    # A bright spot on a dark thing is no farther away than the thing.
    window = max(3, min(image.shape[:2]) // 32)
    attenuation = cv2.erode(attenuation, np.ones((window, window), np.uint8))
    height = np.linspace(1, 0, image.shape[0], dtype=np.float32)[:, None]
    farness = _guided_filter(scaled.mean(axis=2), (attenuation + height) / 2, radius=2 * window, eps=1e-3)
    # Depth grows faster than linearly with the height in the picture: the ground is seen in perspective.
    return _NEAR * (_FAR / _NEAR) ** np.clip(farness, 0, 1)


def _guided_filter(guide: np.ndarray, target: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Grey guided filter; float32 H x W arrays around 0..1."""

    def mean(array: np.ndarray) -> np.ndarray:
        return cv2.blur(array, (2 * radius + 1, 2 * radius + 1))

    mean_guide, mean_target = mean(guide), mean(target)
    slope = (mean(guide * target) - mean_guide * mean_target) / (mean(guide * guide) - mean_guide**2 + eps)
    return mean(slope) * guide + mean(mean_target - slope * mean_guide)
