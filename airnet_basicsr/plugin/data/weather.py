"""Weather laid on clean photographs: haze by depth maps, streaks by layers; and photographs that stay clean.

``prepare.py weather`` writes the depth maps and the layers, out of hazy and rainy pairs.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import DEGRADATION_REGISTRY
from airnet_basicsr.plugin.data.drawn import DrawnDegradation, draw_below
from airnet_basicsr.plugin.data.image_source import ImageSource
from airnet_basicsr.plugin.options import require
from airnet_basicsr.restore.stored_images import DEPTH_UNIT


@DEGRADATION_REGISTRY.register()
class CleanPictures(DrawnDegradation):
    """Nothing is done to the pictures: the network learns to give them back.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``tone`` (share of the pictures, 0 to 1, that get a
    random exposure and tone curve; default 0).
    """

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """``image`` as it is."""
        return image


@DEGRADATION_REGISTRY.register()
class Haze(DrawnDegradation):
    """Atmospheric scattering over stored depth maps, I = J t + A (1 - t) with t = exp(-beta d).

    Airlight A and scattering coefficient beta are drawn evenly for each query and its key. RESIDE (Li et al.,
    "Benchmarking Single-Image Dehazing and Beyond", TIP 2019) has A from 0.8 to 1 and beta from 0.04 to 0.2.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``dataroot_depth`` (depth maps under the images'
    names: 16-bit grey, 4096 for a depth of 1), ``airlight`` (``[from, to]`` within 0 to 1; default 0.8 to 1), ``beta``
    (``[from, to]``, at least 0; default 0.04 to 0.2), ``tone`` (as :class:`CleanPictures` has it).
    """

    order = 1

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('dataroot_depth', 'airlight', 'beta'))
        self.depth = ImageSource(require(opt, 'dataroot_depth', where), f'{where}:dataroot_depth')
        self.airlights = self._range(opt, 'airlight', [0.8, 1.0], (0, 1), where)
        self.betas = self._range(opt, 'beta', [0.04, 0.2], (0, 10), where)
        known = set(self.depth.keys)
        missing = [source.describe(key) for source in self.sources for key in source.keys if key not in known]
        if missing:
            raise InputError(
                f'option {where}:dataroot_depth: {len(missing)} images have no depth map of their name in '
                f'{self.depth.root}, the first is {missing[0]}'
            )
        self.airlight = self.beta = 0.0

    def settled(self, rng: Any) -> 'Haze':
        """With an airlight and a beta out of their ranges, too."""
        settled = super().settled(rng)
        settled.airlight, settled.beta = rng.uniform(*self.airlights), rng.uniform(*self.betas)
        return settled

    def planes(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """The depth map: uint16, H x W x 1."""
        source, key = self._locate(index)
        depth = self.depth.read_plane(key, np.uint16)
        if depth.shape != shape:
            raise InputError(
                f'depth map {self.depth.describe(key)} has {depth.shape[1]}x{depth.shape[0]} pixels, its image '
                f'{source.describe(key)} {shape[1]}x{shape[0]}'
            )
        return depth[..., None]

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The hazy picture."""
        t = np.exp(np.float32(-self.beta / DEPTH_UNIT) * planes.astype(np.float32))
        return image * t + np.float32(255 * self.airlight) * (1 - t)


@DEGRADATION_REGISTRY.register()
class RainStreaks(DrawnDegradation):
    """Stored streak layers added to pictures, O = B + S, as in Rain100L (Yang et al., CVPR 2017).

    Which layer, how strong, how large and how it is flipped is drawn for each query and its key.

    Options: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``dataroot_streaks`` (layers: 8-bit grey, of any
    size), ``strength`` (``[from, to]``, factor of a layer, at least 0; default 0.6 to 1.3), ``scale`` (``[from, to]``,
    factor of its size, 0.1 to 10; default 0.7 to 1.4; within 0.05 of 1 a layer stays as it is), ``tone`` (as
    :class:`CleanPictures` has it).
    """

    order = 2

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('dataroot_streaks', 'strength', 'scale'))
        self.streaks = ImageSource(require(opt, 'dataroot_streaks', where), f'{where}:dataroot_streaks')
        self.strengths = self._range(opt, 'strength', [0.6, 1.3], (0, 10), where)
        self.scales = self._range(opt, 'scale', [0.7, 1.4], (0.1, 10), where)
        self.layer, self.strength, self.scale, self.mode = '', 1.0, 1.0, 0

    def settled(self, rng: Any) -> 'RainStreaks':
        """With a layer, its strength, its size and its flips, too."""
        settled = super().settled(rng)
        settled.layer = self.streaks.keys[draw_below(rng, len(self.streaks.keys))]
        settled.strength, settled.scale = rng.uniform(*self.strengths), rng.uniform(*self.scales)
        settled.mode = draw_below(rng, 4)
        return settled

    def planes(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """The layer, of the picture's size: uint8, H x W x 1."""
        layer = self.streaks.read_plane(self.layer, np.uint8)
        if abs(self.scale - 1) > 0.05:
            # OpenCV refuses to make nothing of a tiny layer.
            scale = max(self.scale, 1 / min(layer.shape))
            layer = cv2.resize(layer, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        layer = layer[:: 1 - 2 * (self.mode & 1), :: 1 - (self.mode & 2)]
        missing = max(0, shape[0] - layer.shape[0]), max(0, shape[1] - layer.shape[1])
        return np.pad(layer, ((0, missing[0]), (0, missing[1])), mode='symmetric')[: shape[0], : shape[1], None]

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The rainy picture."""
        return image + np.float32(self.strength) * planes
