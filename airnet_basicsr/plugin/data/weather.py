"""Degradations made while training, from clean photographs: nothing at all, haze by depth maps, streaks by layers.

``prepare.py weather`` writes the depth maps and the layers, out of hazy and rainy pairs.
"""

import copy
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import DEGRADATION_REGISTRY, CleanImages
from airnet_basicsr.plugin.data.image_source import ImageSource
from airnet_basicsr.plugin.options import check_keys, check_number, check_range, require
from airnet_basicsr.stored_images import DEPTH_UNIT


def draw_tone(rng: np.random.Generator) -> np.ndarray:
    """A random exposure and tone curve: uint8, 256 x 1 x 3, the level that each level of each channel becomes."""
    level = np.linspace(0, 1, 256)[:, None]
    gain = np.exp(rng.uniform(np.log(0.6), np.log(1.3))) * rng.uniform(0.95, 1.05, 3)
    curve = np.clip(level * gain, 0, 1) ** np.exp(rng.uniform(np.log(0.7), np.log(1.5)))
    contrast = rng.uniform(-0.3, 0.3)  # an S where above 0, flatter where below
    curve = curve + contrast * curve * (1 - curve) * (2 * curve - 1)
    black, white = rng.uniform(0, 0.06), rng.uniform(0.92, 1)
    return np.rint(255 * (black + (white - black) * curve)).astype(np.uint8)[:, None]


class _Toned(CleanImages):
    """Clean images, a share of them (``tone``, 0 to 1) under random exposures and tone curves."""

    def __init__(self, opt: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> None:
        check_keys(opt, ('dataroot_gt', 'tone', *keys), where)
        super().__init__(opt, where)
        self.protocol = None  # of noise
        self.tone = check_number(opt, 'tone', 0.0, (0, 1), where)
        self.curve: np.ndarray | None = None

    def settled(self, rng: np.random.Generator) -> '_Toned':
        """With what query and key share."""
        settled = copy.copy(self)
        if rng.random() < self.tone:
            settled.curve = draw_tone(rng)
        return settled

    def _clean(self, index: int) -> np.ndarray:
        image = super().load(index)[0]
        return image if self.curve is None else cv2.LUT(image, self.curve.reshape(1, 256, 3))


def _for_training(where: str) -> None:
    if not where.startswith('datasets:train'):
        raise InputError(f'option {where}:type: this is drawn while training; test with PairedImages')


@DEGRADATION_REGISTRY.register()
class CleanPictures(_Toned):
    """Nothing is done to the pictures: the network learns to give them back.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``tone`` (share of the pictures, 0 to 1, that get a
    random exposure and tone curve; default 0; training only).
    """

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ())
        if self.tone:
            _for_training(where)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture twice: uint8, H x W x 3, RGB."""
        image = self._clean(index)
        return image, image

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """float32 in [0, 1]; nothing is drawn."""
        return np.float32(image) / np.float32(255)


@DEGRADATION_REGISTRY.register()
class Haze(_Toned):
    """Atmospheric scattering over stored depth maps, I = J t + A (1 - t) with t = exp(-beta d); for training.

    Airlight A and scattering coefficient beta are drawn evenly for each query and its key. RESIDE (Li et al.,
    "Benchmarking Single-Image Dehazing and Beyond", TIP 2019) has A from 0.8 to 1 and beta from 0.04 to 0.2.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``dataroot_depth`` (depth maps under the images'
    names: 16-bit grey, 4096 for a depth of 1), ``airlight`` (``[from, to]`` within 0 to 1; default 0.8 to 1), ``beta``
    (``[from, to]``, at least 0; default 0.04 to 0.2), ``tone`` (as :class:`CleanPictures` has it).
    """

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        _for_training(where)
        super().__init__(opt, where, ('dataroot_depth', 'airlight', 'beta'))
        self.depth = ImageSource(require(opt, 'dataroot_depth', where), f'{where}:dataroot_depth')
        self.airlights = check_range(opt, 'airlight', [0.8, 1.0], (0, 1), where)
        self.betas = check_range(opt, 'beta', [0.04, 0.2], (0, 10), where)
        known = set(self.depth.keys)
        missing = [source.describe(key) for source in self.sources for key in source.keys if key not in known]
        if missing:
            raise InputError(
                f'option {where}:dataroot_depth: {len(missing)} images have no depth map of their name in '
                f'{self.depth.root}, the first is {missing[0]}'
            )
        self.airlight = self.beta = 0.0

    def settled(self, rng: np.random.Generator) -> 'Haze':
        """With an airlight and a beta out of their ranges, too."""
        settled = super().settled(rng)
        settled.airlight, settled.beta = rng.uniform(*self.airlights), rng.uniform(*self.betas)
        return settled

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The clean image (uint8, H x W x 3), and the same with its depth as a fourth channel (uint16)."""
        clean = self._clean(index)
        source, key = self._locate(index)
        depth = self.depth.read_plane(key, np.uint16)
        if depth.shape != clean.shape[:2]:
            raise InputError(
                f'depth map {self.depth.describe(key)} has {depth.shape[1]}x{depth.shape[0]} pixels, its image '
                f'{source.describe(key)} {clean.shape[1]}x{clean.shape[0]}'
            )
        return clean, np.dstack((clean.astype(np.uint16), depth))

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """The hazy picture, float32 in [0, 1] in steps of 1/255, for (a part of) the second image of :meth:`load`."""
        t = np.exp(np.float32(-self.beta / DEPTH_UNIT) * image[..., 3:].astype(np.float32))
        hazy = image[..., :3].astype(np.float32) * t + np.float32(255 * self.airlight) * (1 - t)
        return np.rint(hazy) / np.float32(255)


@DEGRADATION_REGISTRY.register()
class RainStreaks(_Toned):
    """Stored streak layers added to pictures, O = B + S, as in Rain100L (Yang et al., CVPR 2017); for training.

    Which layer, how strong, how large and how it is flipped is drawn for each query and its key.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``dataroot_streaks`` (layers: 8-bit grey, of any
    size), ``strength`` (``[from, to]``, factor of a layer, at least 0; default 0.6 to 1.3), ``scale`` (``[from, to]``,
    factor of its size, 0.1 to 10; default 0.7 to 1.4; within 0.05 of 1 a layer stays as it is), ``tone`` (as
    :class:`CleanPictures` has it).
    """

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        _for_training(where)
        super().__init__(opt, where, ('dataroot_streaks', 'strength', 'scale'))
        self.streaks = ImageSource(require(opt, 'dataroot_streaks', where), f'{where}:dataroot_streaks')
        self.strengths = check_range(opt, 'strength', [0.6, 1.3], (0, 10), where)
        self.scales = check_range(opt, 'scale', [0.7, 1.4], (0.1, 10), where)
        self.layer, self.strength, self.scale, self.mode = '', 1.0, 1.0, 0

    def settled(self, rng: np.random.Generator) -> 'RainStreaks':
        """With a layer, its strength, its size and its flips, too."""
        settled = super().settled(rng)
        settled.layer = self.streaks.keys[int(rng.integers(len(self.streaks.keys)))]
        settled.strength, settled.scale = rng.uniform(*self.strengths), rng.uniform(*self.scales)
        settled.mode = int(rng.integers(4))
        return settled

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The clean image (uint8, H x W x 3), and the same with the streaks as a fourth channel."""
        clean = self._clean(index)
        layer = self.streaks.read_plane(self.layer, np.uint8)
        if abs(self.scale - 1) > 0.05:
            layer = cv2.resize(layer, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_LINEAR)
        layer = layer[:: 1 - 2 * (self.mode & 1), :: 1 - (self.mode & 2)]
        height, width = clean.shape[:2]
        missing = max(0, height - layer.shape[0]), max(0, width - layer.shape[1])
        layer = np.pad(layer, ((0, missing[0]), (0, missing[1])), mode='symmetric')[:height, :width]
        return clean, np.dstack((clean, layer))

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """The rainy picture, float32 in [0, 1] in steps of 1/255, for (a part of) the second image of :meth:`load`."""
        rainy = image[..., :3] + np.float32(self.strength) * image[..., 3:]
        return np.clip(np.rint(rainy), 0, 255) / np.float32(255)
