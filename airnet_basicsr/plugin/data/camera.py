"""What light, lens, sensor and file do to a picture: low light, blur, noise, resizing, compression; and snow."""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from basicsr.data.degradations import bivariate_Gaussian

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import DEGRADATION_REGISTRY
from airnet_basicsr.plugin.data.drawn import DrawnDegradation, draw_below

_ENCODERS = {'jpeg': ('.jpg', cv2.IMWRITE_JPEG_QUALITY), 'webp': ('.webp', cv2.IMWRITE_WEBP_QUALITY)}
_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


def _choices(opt: Mapping[str, Any], key: str, known: tuple[str, ...], where: str) -> list[str]:
    """``opt[key]``, a list of some of ``known``; all of them without it."""
    chosen = opt.get(key, list(known))
    if not isinstance(chosen, list) or not chosen or not set(map(str, chosen)) <= set(known):
        raise InputError(f'option {where}:{key}: expected a list of some of {", ".join(known)}, found {chosen!r}')
    return chosen


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """The path of a point that moves by ``length`` pixels at ``angle`` (radians): float32, odd square, sum 1."""
    radius = int(np.ceil((length + 1) / 2))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    beyond = np.maximum(np.abs(along) - (length - 1) / 2, 0)
    kernel = np.clip(1 - np.hypot(beyond, across), 0, 1)
    return kernel / kernel.sum()


def defocus_kernel(radius: float) -> np.ndarray:
    """A disk of ``radius`` pixels with a smooth rim of one pixel: float32, odd square, sum 1."""
    reach = int(np.ceil(radius + 0.5))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    return kernel / kernel.sum()


@DEGRADATION_REGISTRY.register()
class Snow(DrawnDegradation):
    """Snowflakes of three distances that fall one way, O = I (1 - z m) + 255 z m.

    The model is Snow100K's (Liu et al., "DesnowNet", TIP 2018) with white flakes, which are blurred dots here. Their
    number, size, way and opacity are shared by query and key.

    Options: ``density`` (flakes for each 1,000 pixels, ``[from, to]``, default 0.5 to 5), ``size`` (pixels across the
    nearest flakes, default 3 to 8; others have down to a third), ``opacity`` (z, 0 to 1; default 0.6 to 1).
    """

    order = 3

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('density', 'size', 'opacity'))
        self.densities = self._range(opt, 'density', [0.5, 5], (0, 100), where)
        self.sizes = self._range(opt, 'size', [3, 8], (1, 50), where)
        self.opacities = self._range(opt, 'opacity', [0.6, 1.0], (0, 1), where)
        self.density = self.size = self.opacity = self.angle = 0.0

    def settled(self, rng: Any) -> 'Snow':
        """With number, size, opacity and way of the flakes, too."""
        settled = super().settled(rng)
        settled.density, settled.size = rng.uniform(*self.densities), rng.uniform(*self.sizes)
        settled.opacity, settled.angle = rng.uniform(*self.opacities), rng.uniform(np.pi / 4, 3 * np.pi / 4)
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The picture in snow."""
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.float32)
        margin = int(np.ceil(self.size))  # flakes that lie outside reach into the picture
        field = height + 2 * margin, width + 2 * margin
        for nearness, share in ((1.0, 0.2), (0.6, 0.3), (0.34, 0.5)):
            count = int(rng.poisson(self.density / 1000 * share * field[0] * field[1]))
            dots = np.zeros(field, np.float32)
            rows, columns = (rng.uniform(0, side, count) for side in field)
            dots[rows.astype(int), columns.astype(int)] = rng.uniform(0.7, 1, count)
            flake = defocus_kernel(nearness * self.size / 2)
            flake = cv2.filter2D(flake, -1, motion_kernel(1 + nearness * self.size / 2, self.angle))
            layer = cv2.filter2D(dots, -1, flake / flake.max(), borderType=cv2.BORDER_CONSTANT)
            mask = np.maximum(mask, layer[margin : margin + height, margin : margin + width])
        opacity = np.float32(self.opacity) * np.minimum(mask, 1)[..., None]
        return image * (1 - opacity) + 255 * opacity


@DEGRADATION_REGISTRY.register()
class LowLight(DrawnDegradation):
    """Too little light: O = 255 beta (alpha I / 255) ^ gamma.

    The model and its values are those of Lv et al., "Attention Guided Low-light Image Enhancement", IJCV 2021.

    Options, ``[from, to]``: ``alpha`` (default 0.9 to 1), ``beta`` (default 0.5 to 1), ``gamma`` (default 1.5 to 5).
    Its noise is CameraNoise's.
    """

    order = 4

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('alpha', 'beta', 'gamma'))
        self.alphas = self._range(opt, 'alpha', [0.9, 1.0], (0, 1), where)
        self.betas = self._range(opt, 'beta', [0.5, 1.0], (0, 1), where)
        self.gammas = self._range(opt, 'gamma', [1.5, 5.0], (0.1, 10), where)
        self.alpha = self.beta = self.gamma = 1.0

    def settled(self, rng: Any) -> 'LowLight':
        """With its three parameters, too."""
        settled = super().settled(rng)
        settled.alpha, settled.beta = rng.uniform(*self.alphas), rng.uniform(*self.betas)
        settled.gamma = rng.uniform(*self.gammas)
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The dark picture."""
        light = np.float32(self.alpha / 255) * np.clip(image, 0, 255)
        return np.float32(255 * self.beta) * light ** np.float32(self.gamma)


@DEGRADATION_REGISTRY.register()
class Blur(DrawnDegradation):
    """Blur by one kernel, at the border by what the picture mirrors there.

    Options: ``kinds`` (a list of ``gaussian``, ``motion`` and ``defocus``; default all, equally often), ``sigma`` (of
    Gaussian kernels, pixels, ``[from, to]``, default 0.5 to 3; drawn for both axes, which lie anyhow), ``length`` (of
    straight motion, pixels, default 5 to 20), ``radius`` (of the disk out of focus, pixels, default 1 to 5).
    """

    order = 5

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('kinds', 'sigma', 'length', 'radius'))
        self.kinds = self.parameters['kinds'] = _choices(opt, 'kinds', ('gaussian', 'motion', 'defocus'), where)
        self.sigmas = self._range(opt, 'sigma', [0.5, 3], (0.1, 20), where)
        self.lengths = self._range(opt, 'length', [5, 20], (1, 100), where)
        self.radii = self._range(opt, 'radius', [1, 5], (0, 50), where)
        self.kernel = np.ones((1, 1), np.float32)

    def settled(self, rng: Any) -> 'Blur':
        """With a kernel, too."""
        settled = super().settled(rng)
        kind = self.kinds[draw_below(rng, len(self.kinds))]
        if kind == 'gaussian':
            (first, second), angle = rng.uniform(*self.sigmas, 2), rng.uniform(0, np.pi)
            side = 2 * int(np.ceil(3 * max(first, second))) + 1
            settled.kernel = bivariate_Gaussian(side, first, second, angle, isotropic=False).astype(np.float32)
        elif kind == 'motion':
            settled.kernel = motion_kernel(rng.uniform(*self.lengths), rng.uniform(0, np.pi))
        else:
            settled.kernel = defocus_kernel(rng.uniform(*self.radii))
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The blurred picture."""
        return cv2.filter2D(image, -1, self.kernel)


@DEGRADATION_REGISTRY.register()
class CameraNoise(DrawnDegradation):
    """A sensor's noise: its variance grows with the signal, and demosaicing correlates it.

    Each pixel of a Bayer pattern gets noise of variance ``shot`` x + ``read`` ^ 2, x being its own colour's value (0 to
    255; Foi et al., "Practical Poissonian-Gaussian Noise Modeling and Fitting", TIP 2008); bilinear demosaicing spreads
    it over the pixels that have other colours. The picture itself is not demosaiced. Values are those of the picture,
    not of linear light.

    Options: ``shot`` (``[from, to]``, default 0 to 2), ``read`` (``[from, to]``, default 0 to 10), ``demosaic``
    (default true; false: independent noise in each pixel and channel).
    """

    order = 6
    noise_level = math.nan  # each pixel has its own

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('shot', 'read', 'demosaic'))
        self.shots = self._range(opt, 'shot', [0, 2], (0, 255), where)
        self.reads = self._range(opt, 'read', [0, 10], (0, 255), where)
        self.demosaic = self.parameters['demosaic'] = opt.get('demosaic', True)
        if not isinstance(self.demosaic, bool):
            raise InputError(f'option {where}:demosaic: expected true or false, found {self.demosaic!r}')
        self.shot = self.read = 0.0

    def settled(self, rng: Any) -> 'CameraNoise':
        """With the two parts of the variance, too."""
        settled = super().settled(rng)
        settled.shot, settled.read = rng.uniform(*self.shots), rng.uniform(*self.reads)
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The noisy picture."""
        noise = rng.standard_normal(image.shape).astype(np.float32)
        noise *= np.sqrt(np.float32(self.shot) * np.maximum(image, 0) + np.float32(self.read**2))
        return image + (_demosaiced(noise, draw_below(rng, 4)) if self.demosaic else noise)


def _demosaiced(noise: np.ndarray, phase: int) -> np.ndarray:
    """H x W x 3 of which each pixel of a Bayer pattern keeps one colour, and gets the others from its neighbours."""
    colour = np.array([[0, 1], [1, 2]])
    colour = np.roll(colour, (phase // 2, phase % 2), (0, 1))
    height, width = noise.shape[:2]
    colour = np.tile(colour, (height // 2 + 1, width // 2 + 1))[:height, :width]
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4
    planes = [np.where(colour == which, noise[..., which], np.float32(0)) for which in range(3)]
    return np.dstack([cv2.filter2D(planes[which], -1, cross if which == 1 else square) for which in range(3)])


@DEGRADATION_REGISTRY.register()
class Resizing(DrawnDegradation):
    """Made smaller and as large as before again, each by area, bilinear or bicubic interpolation (OpenCV's), drawn.

    Options: ``scale`` (of the smaller one's sides, ``[from, to]``, default 0.25 to 1).
    """

    order = 7

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('scale',))
        self.scales = self._range(opt, 'scale', [0.25, 1.0], (0.01, 1), where)
        self.scale, self.interpolations = 1.0, _INTERPOLATIONS[:2]

    def settled(self, rng: Any) -> 'Resizing':
        """With a scale and two interpolations, too."""
        settled = super().settled(rng)
        settled.scale = rng.uniform(*self.scales)
        settled.interpolations = _INTERPOLATIONS[draw_below(rng, 3)], _INTERPOLATIONS[draw_below(rng, 3)]
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The picture with less detail."""
        height, width = image.shape[:2]
        down, up = self.interpolations
        size = max(1, round(self.scale * width)), max(1, round(self.scale * height))
        return cv2.resize(cv2.resize(image, size, interpolation=down), (width, height), interpolation=up)


@DEGRADATION_REGISTRY.register()
class Compression(DrawnDegradation):
    """JPEG or WebP, by OpenCV with its own sampling of colours. Where its blocks begin is drawn for query and key.

    Options: ``formats`` (a list of ``jpeg`` and ``webp``; default both, equally often), ``quality`` (1 to 100,
    ``[from, to]``, default 20 to 90; a whole number is drawn).
    """

    order = 8

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('formats', 'quality'))
        self.formats = self.parameters['formats'] = _choices(opt, 'formats', ('jpeg', 'webp'), where)
        self.qualities = self._range(opt, 'quality', [20, 90], (1, 100), where)
        self.format, self.quality = 'jpeg', 100

    def settled(self, rng: Any) -> 'Compression':
        """With format and quality, too."""
        settled = super().settled(rng)
        settled.format = self.formats[draw_below(rng, len(self.formats))]
        settled.quality = round(rng.uniform(*self.qualities))
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The compressed picture."""
        top, left = draw_below(rng, 8), draw_below(rng, 8)
        picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        picture = cv2.copyMakeBorder(picture, top, 0, left, 0, cv2.BORDER_REFLECT)
        suffix, key = _ENCODERS[self.format]
        data = cv2.imencode(suffix, picture[..., ::-1], [key, self.quality])[1]
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        return decoded[top:, left:, ::-1].astype(np.float32)
