"""Several degradations of one picture, in the order in which light and camera make them."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import DEGRADATION_REGISTRY, NO_PLANES, build_degradation, noise_level
from airnet_basicsr.plugin.data.drawn import DrawnDegradation, draw_below
from airnet_basicsr.plugin.options import require


@DEGRADATION_REGISTRY.register()
class Composite(DrawnDegradation):
    """Some of several degradations: haze, rain, snow, low light, blur, noise, resizing, compression, in this order.

    Which are drawn is shared by query and key, as what each of them draws.

    Options: ``dataroot_gt`` and ``tone`` (as :class:`~airnet_basicsr.plugin.data.drawn.DrawnDegradation` has them),
    ``of`` (a list of degradations, described as elsewhere but for these two), ``any`` (how many of them: a number, or
    ``1-3``: evenly from 1 to 3; default all). Noise that is not clipped (``protocol``) has no place here.
    """

    def __init__(self, opt: Mapping[str, Any], where: str) -> None:
        super().__init__(opt, where, ('of', 'any'))
        described = require(opt, 'of', where)
        if not isinstance(described, list):
            raise InputError(f'option {where}:of: expected a list of degradations, found {described!r}')
        self.parts = [self._part(spec, opt, f'{where}:of:{place}') for place, spec in enumerate(described)]
        self.fewest, self.most = _bounds(opt.get('any', len(self.parts)), len(self.parts), where)
        self.parameters |= {'of': described, 'any': f'{self.fewest}-{self.most}'}
        self.chosen: list[Any] = []
        self.widths: list[int] = []

    def _part(self, spec: Any, opt: Mapping[str, Any], where: str) -> Any:
        if not isinstance(spec, Mapping):
            raise InputError(f'option {where}: expected a mapping with `type`, found {spec!r}')
        for key in ('dataroot_gt', 'tone', 'protocol', 'weight'):
            if key in spec:
                raise InputError(f'option {where}: `{key}` does not belong to a part of a Composite; leave it out')
        part = build_degradation({**spec, 'dataroot_gt': opt['dataroot_gt']}, where)
        if not getattr(part, 'order', 0):
            raise InputError(f'option {where}:type: {spec["type"]} cannot be part of a Composite')
        return part

    def settled(self, rng: Any) -> 'Composite':
        """With what is done to the picture, too."""
        settled = super().settled(rng)
        count = self.fewest + draw_below(rng, self.most - self.fewest + 1)
        which = rng.permutation(len(self.parts))[:count]
        parts = [self.parts[place].settled(rng) for place in sorted(which)]
        settled.chosen = sorted(parts, key=lambda part: part.order)
        # Of all parts together, before what comes after them changes it.
        settled.noise_level = math.hypot(*map(noise_level, settled.chosen))
        return settled

    def planes(self, index: int, shape: tuple[int, int]) -> np.ndarray:
        """Those of all parts, one after the other."""
        found = [part.planes(index, shape) for part in self.chosen]
        self.widths = [planes.shape[2] for planes in found]
        return np.dstack([planes for planes in found if planes.shape[2]] or [NO_PLANES])

    def apply(self, image: np.ndarray, planes: np.ndarray, rng: Any) -> np.ndarray:
        """The picture with all that was drawn."""
        ends = np.cumsum(self.widths)
        for part, width, end in zip(self.chosen, self.widths, ends, strict=True):
            image = part.apply(image, planes[..., end - width : end], rng)
        return image


def _bounds(value: Any, count: int, where: str) -> tuple[int, int]:
    """From ``2``, ``1-3`` or ``[1, 3]``."""
    text = '-'.join(map(str, value)) if isinstance(value, list) else str(value)
    match = re.fullmatch(r'(\d+)(?:-(\d+))?', text)
    fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= fewest <= most <= count:
        raise InputError(f'option {where}:any: expected how many of the {count} parts (2, or 1-3), found {value!r}')
    return fewest, most
