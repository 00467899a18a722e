"""Kinds of degradation, as named under ``degradations`` (training) or ``degradation`` (testing) in option files.

A kind is a class in ``DEGRADATION_REGISTRY``; registering one's own makes it available to the datasets. Built from its
options and their place in the file (for messages), it has ``__len__``, ``path(i)``, ``describe(i)``, ``shape(i)``,
``load(i)`` and ``degrade`` as the classes below. It may have ``gt_path(i)``, where the clean image is another file, and
``parameters`` (a mapping: all that, beside ``protocol``, says what was done to an image), which goes into the records
of a test. ``settled(rng)``, where query and key must share something that is drawn, gives the degradation of one such
pair; it is asked before ``load``. ``noise_level``, asked after ``settled``, is the standard deviation of the Gaussian
noise that ``degrade`` adds, on the scale 0 to 255, for networks that are told it; nan, or no such attribute, where it
is not known.
"""

import copy
import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from basicsr.utils import get_root_logger
from basicsr.utils.registry import Registry

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.image_source import ImageSource
from airnet_basicsr.plugin.options import check_keys, require
from airnet_basicsr.restore.stored_images import key_of

DEGRADATION_REGISTRY = Registry('degradation')
NOISE_PROTOCOLS = ('uint8', 'float')
NO_PLANES = np.zeros((1, 1, 0), np.uint8)


def build_degradation(opt: Mapping[str, Any], where: str) -> Any:
    """The degradation that ``opt`` (a mapping with ``type``) describes; ``where`` is its place in the option file."""
    kind = require(opt, 'type', where)
    if kind not in DEGRADATION_REGISTRY:
        raise InputError(
            f'option {where}:type: there is no degradation {kind!r}. Known: {", ".join(DEGRADATION_REGISTRY.keys())}.'
        )
    return DEGRADATION_REGISTRY.get(kind)({key: value for key, value in opt.items() if key != 'type'}, where)


def noise_level(degradation: Any) -> float:
    """The standard deviation of the noise that a (settled) degradation adds, on the scale 0 to 255; nan if unknown."""
    return float(getattr(degradation, 'noise_level', math.nan))


def _is_sigma(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 255


def add_gaussian_noise(image: np.ndarray, sigma: float | np.ndarray, rng: Any, protocol: str) -> np.ndarray:
    """Additive white Gaussian noise.

    Args:
        image: uint8, H x W x C.
        sigma: Standard deviation on the scale 0 to 255: of the image, or of each pixel (H x W x 1).
        rng: Source of ``standard_normal(shape)``: a numpy Generator or RandomState.
        protocol: ``float``: left as it is, as the literature's denoisers are tested; ``uint8``: clipped to 0..255 and
            truncated to whole numbers, as in the official release.

    Returns:
        float32, H x W x C, with 1 for 255; outside [0, 1] in places with the ``float`` protocol.
    """
    # RandomState, whose numbers are the same in every version of numpy, knows float64 only; training has no need of it.
    precision = {'dtype': np.float32} if isinstance(rng, np.random.Generator) else {}
    noisy = rng.standard_normal(image.shape, **precision)
    noisy *= sigma
    noisy += image
    if protocol == 'uint8':
        noisy = np.clip(noisy, 0, 255).astype(np.uint8)
    return noisy.astype(np.float32) / np.float32(255)


class CleanImages:
    """The images of one or several folders or LMDBs, to which something is done.

    Attributes:
        order: Place among the parts of a Composite, as light and camera have them: haze 1, rain 2, snow 3, too little
            light 4, blur 5, noise 6, resizing 7, compression 8; 0 for what cannot be part of one.
        noise_level: See above; 0 for what adds no Gaussian noise.
    """

    order = 0
    noise_level = 0.0

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        roots = require(opt, 'dataroot_gt', where)
        self.sources = [
            ImageSource(root, f'{where}:dataroot_gt') for root in (roots if isinstance(roots, list) else [roots])
        ]
        self.ends = list(accumulate(len(source.keys) for source in self.sources))
        self.protocol = opt.get('protocol', 'uint8')
        if self.protocol not in NOISE_PROTOCOLS:
            raise InputError(f'option {where}:protocol: expected `uint8` or `float`, found {self.protocol!r}')

    def __len__(self) -> int:
        return self.ends[-1]

    def _locate(self, index: int) -> tuple[ImageSource, str]:
        which = bisect_right(self.ends, index)
        source = self.sources[which]
        return source, source.keys[index - self.ends[which] + len(source.keys)]

    def describe(self, index: int) -> str:
        source, key = self._locate(index)
        return source.describe(key)

    def path(self, index: int) -> str:
        """The clean image's path, as BasicSR's datasets give it."""
        source, key = self._locate(index)
        return source.path(key)

    def key(self, index: int) -> str:
        """The key that the image has in an LMDB, whether it lies in one or in a folder."""
        return key_of(self._locate(index)[1])

    def shape(self, index: int) -> tuple[int, ...]:
        """(h, w, c) where known without reading, else ()."""
        source, key = self._locate(index)
        return source.shape(key)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The clean image and what ``degrade`` is given, here the same: uint8, H x W x 3, RGB."""
        source, key = self._locate(index)
        image = source.read(key)
        return image, image

    def planes(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """What is done to image ``index`` (of that height and width) needs this beside its pixels: H x W x N."""
        return NO_PLANES


@DEGRADATION_REGISTRY.register()
class GaussianNoise(CleanImages):
    """Clean images that get noise of one sigma.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``sigma`` (0..255; in training and as a part of a
    Composite also ``[from, to]``: drawn evenly for each query and its key), ``protocol`` (``uint8``, the default, or
    ``float``; see :func:`add_gaussian_noise`).
    """

    order = 6

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        check_keys(opt, ('dataroot_gt', 'sigma', 'protocol'), where)
        super().__init__(opt, where)
        self.sigma = require(opt, 'sigma', where)
        if isinstance(self.sigma, list):
            # Results of a test stand beside those of one sigma. Those of a Composite stand beside nothing.
            if not where.startswith('datasets:train') and ':of:' not in where:
                raise InputError(f'option {where}:sigma: a range is for training; test with one sigma')
            if len(self.sigma) != 2 or not all(map(_is_sigma, self.sigma)) or self.sigma[0] > self.sigma[1]:
                raise InputError(f'option {where}:sigma: expected [from, to], both 0 to 255, found {self.sigma!r}')
        elif not _is_sigma(self.sigma):
            raise InputError(f'option {where}:sigma: expected a number from 0 to 255, found {self.sigma!r}')
        self.noise_level = math.nan if isinstance(self.sigma, list) else self.sigma
        self.parameters = {'sigma': self.sigma}

    def settled(self, rng: Any) -> 'GaussianNoise':
        """With a sigma out of the range, if there is one."""
        if not isinstance(self.sigma, list):
            return self
        settled = copy.copy(self)
        settled.sigma = settled.noise_level = rng.uniform(*self.sigma)
        return settled

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """The degraded image, float32, for (a part of) the second image of :meth:`load`."""
        return add_gaussian_noise(image, self.sigma, rng, self.protocol)

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """As a part of a Composite: float32, on the scale of 0 to 255, as ``image``; neither rounded nor clipped."""
        return image + np.float32(self.sigma) * rng.standard_normal(image.shape).astype(np.float32)


@DEGRADATION_REGISTRY.register()
class SpatiallyVariantNoise(CleanImages):
    """Clean images whose four quarters get noise of different sigmas (paper Sec. 4.5, Table 6); for testing only.

    The quarters in reading order: upper left, upper right, lower left, lower right. Of an odd side the first part is
    the smaller one. (The paper names the sigmas, not which quarter gets which.)

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``sigmas`` (four, 0..255; default 0, 15, 25, 50),
    ``protocol`` (``uint8``, the default, or ``float``; see :func:`add_gaussian_noise`).
    """

    noise_level = math.nan  # it has four

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        if where.startswith('datasets:train'):
            raise InputError(f'option {where}: SpatiallyVariantNoise is for test images; train with GaussianNoise')
        check_keys(opt, ('dataroot_gt', 'sigmas', 'protocol'), where)
        super().__init__(opt, where)
        self.sigmas = opt.get('sigmas', [0, 15, 25, 50])
        if not isinstance(self.sigmas, list) or len(self.sigmas) != 4 or not all(map(_is_sigma, self.sigmas)):
            raise InputError(f'option {where}:sigmas: expected four numbers from 0 to 255, found {self.sigmas!r}')
        self.parameters = {'sigmas': self.sigmas}

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """The degraded image, float32, for the second image of :meth:`load`."""
        height, width = image.shape[:2]
        quarter = 2 * (np.arange(height)[:, None] >= height // 2) + (np.arange(width) >= width // 2)
        sigma = np.array(self.sigmas, float)[quarter][..., None]
        return add_gaussian_noise(image, sigma, rng, self.protocol)


def _matching(keys: list[str], pattern: Any, where: str) -> list[str]:
    try:
        taken = [key for key in keys if re.fullmatch(pattern, key)]
    except (re.error, TypeError) as error:
        raise InputError(f'option {where}:only: {pattern!r} is no regular expression: {error}') from error
    if not taken:
        raise InputError(f'option {where}:only: no image is called {pattern!r}; the first is called {keys[0]!r}')
    return taken


@DEGRADATION_REGISTRY.register()
class PairedImages:
    """Degraded images and their clean ones.

    Options: ``dataroot_gt``, ``dataroot_lq`` (folders or LMDBs) and ``filename_tmpl`` (default ``'{}'``): the degraded
    image's name for the clean one's, both without suffix. In an LMDB whose ``meta_info.txt`` names the clean image in
    a fourth column, several degraded images may share one clean image. ``only``: a regular expression for the whole key
    (or name) of the degraded images to take, where a set has several degradations (``haze_.*`` of CDD-11).
    """

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        check_keys(opt, ('dataroot_gt', 'dataroot_lq', 'filename_tmpl', 'only'), where)
        self.gt = ImageSource(require(opt, 'dataroot_gt', where), f'{where}:dataroot_gt')
        self.lq = ImageSource(require(opt, 'dataroot_lq', where), f'{where}:dataroot_lq')
        template = opt.get('filename_tmpl', '{}')
        by_name = {template.format(key): key for key in self.gt.keys}
        taken = _matching(self.lq.keys, opt.get('only', '.*'), where)
        clean = set(self.gt.keys)
        found = {key: self.lq.partners.get(key, by_name.get(key)) for key in taken}
        self.pairs = [(key, partner) for key, partner in found.items() if partner is not None and partner in clean]
        alone = [key for key, partner in found.items() if partner not in clean]
        if alone:
            raise InputError(
                f'option {where}: {len(alone)} of the {len(found)} degraded images have no clean one in '
                f'{self.gt.root}, the first is {self.lq.describe(alone[0])}. Is filename_tmpl right ({template!r})?'
            )
        unused = len(clean) - len({partner for _, partner in self.pairs})
        if unused and 'only' not in opt:
            get_root_logger().warning(f'{where}: {unused} clean images in {self.gt.root} have no degraded one.')
        for index in range(len(self.pairs)):
            key, partner = self.pairs[index]
            self._check_sizes(index, self.gt.shape(partner), self.lq.shape(key))

    def _check_sizes(self, index: int, clean: tuple[int, ...], degraded: tuple[int, ...]) -> None:
        if clean and degraded and clean[:2] != degraded[:2]:
            key, partner = self.pairs[index]
            raise InputError(
                f'image {self.lq.describe(key)} has {degraded[1]}x{degraded[0]} pixels, its clean image '
                f'{self.gt.describe(partner)} {clean[1]}x{clean[0]}: the two of a pair must be of one size'
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def describe(self, index: int) -> str:
        return self.lq.describe(self.pairs[index][0])

    def path(self, index: int) -> str:
        """The degraded image's path, as BasicSR's datasets give it."""
        return self.lq.path(self.pairs[index][0])

    def gt_path(self, index: int) -> str:
        """The clean image's path, which several degraded ones may share."""
        return self.gt.path(self.pairs[index][1])

    def shape(self, index: int) -> tuple[int, ...]:
        """(h, w, c) where known without reading, else ()."""
        return self.lq.shape(self.pairs[index][0])

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The clean and the degraded image: uint8, H x W x 3, RGB, of one size."""
        key, partner = self.pairs[index]
        clean, degraded = self.gt.read(partner), self.lq.read(key)
        self._check_sizes(index, clean.shape, degraded.shape)
        return clean, degraded

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """float32 in [0, 1]; nothing is drawn."""
        return image.astype(np.float32) / np.float32(255)
