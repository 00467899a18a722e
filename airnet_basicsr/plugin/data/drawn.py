"""What degradations have in common that are made from clean pictures, with parameters that are drawn."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import cv2
import numpy as np

from airnet_basicsr.plugin.data.degradations import CleanImages
from airnet_basicsr.plugin.options import check_keys, check_number, check_range

_D = TypeVar('_D', bound='DrawnDegradation')


def draw_tone(rng: Any) -> np.ndarray:
    """A random exposure and tone curve: uint8, 256 x 1 x 3, the level that each level of each channel becomes."""
    level = np.linspace(0, 1, 256)[:, None]
    gain = np.exp(rng.uniform(np.log(0.6), np.log(1.3))) * rng.uniform(0.95, 1.05, 3)
    curve = np.clip(level * gain, 0, 1) ** np.exp(rng.uniform(np.log(0.7), np.log(1.5)))
    contrast = rng.uniform(-0.3, 0.3)  # an S where above 0, flatter where below
    curve = curve + contrast * curve * (1 - curve) * (2 * curve - 1)
    black, white = rng.uniform(0, 0.06), rng.uniform(0.92, 1)
    return np.rint(255 * (black + (white - black) * curve)).astype(np.uint8)[:, None]


def draw_below(rng: Any, end: int) -> int:
    """A whole number from 0 to ``end`` - 1, by a numpy Generator (training) or RandomState (testing)."""
    return int(rng.integers(end) if isinstance(rng, np.random.Generator) else rng.randint(end))


class DrawnDegradation(CleanImages):
    """A degradation of clean pictures whose parameters are drawn for each query and its key.

    A subclass has its own options (``keys``), draws in :meth:`settled`, and does its work in :meth:`apply`. In a test,
    what is drawn follows from the image's name.

    Options of each: ``dataroot_gt`` (a folder or LMDB, or a list of them), ``tone`` (share of the pictures, 0 to 1,
    that get a random exposure and tone curve first; default 0).

    Attributes:
        parameters: The options, for the records of a test.
    """

    def __init__(self, opt: Mapping[str, Any], where: str, keys: tuple[str, ...] = ()) -> None:
        check_keys(opt, ('dataroot_gt', 'tone', *keys), where)
        super().__init__(opt, where)
        self.protocol = None  # of noise
        self.parameters: dict[str, Any] = {}
        self.tone = self._number(opt, 'tone', 0.0, (0, 1), where)
        self.curve: np.ndarray | None = None

    def _number(
        self, opt: Mapping[str, Any], key: str, default: float, limits: tuple[float, float], where: str
    ) -> float:
        self.parameters[key] = check_number(opt, key, default, limits, where)
        return self.parameters[key]

    def _range(
        self, opt: Mapping[str, Any], key: str, default: list[float], limits: tuple[float, float], where: str
    ) -> list[float]:
        self.parameters[key] = check_range(opt, key, default, limits, where)
        return self.parameters[key]

    def settled(self: _D, rng: Any) -> _D:
        """With what query and key share drawn by ``rng``, a numpy Generator or RandomState."""
        settled = copy.copy(self)
        if rng.random() < self.tone:
            settled.curve = draw_tone(rng)
        return settled

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The degraded picture: float32, H x W x 3, RGB, on the scale of 0 to 255 but neither rounded nor clipped.

        Args:
            image: Of the same kind.
            planes: The part of :meth:`planes` that belongs to it.
            rng: Of what differs between query and key.
        """
        raise NotImplementedError

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The clean image (uint8, H x W x 3), and the same with its planes (H x W x (3 + N), uint8 or uint16)."""
        clean = super().load(index)[0]
        if self.curve is not None:
            clean = cv2.LUT(clean, self.curve.reshape(1, 256, 3))
        planes = self.planes(index, clean.shape[:2])
        if not planes.shape[2]:
            return clean, clean
        return clean, np.dstack((clean.astype(planes.dtype), planes))

    def degrade(self, image: np.ndarray, rng: Any) -> np.ndarray:
        """float32 in [0, 1], in steps of 1/255, for (a part of) the second image of :meth:`load`."""
        degraded = self.apply(image[..., :3].astype(np.float32), image[..., 3:], rng)
        return np.clip(np.rint(degraded), 0, 255) / np.float32(255)
