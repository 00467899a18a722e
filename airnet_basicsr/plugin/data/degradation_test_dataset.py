"""Whole images for validation and testing, with noise that is the same in every run."""

import re
import zlib
from pathlib import PurePath
from typing import Any, TypedDict

import numpy as np
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import build_degradation, noise_level
from airnet_basicsr.plugin.data.multi_degradation_dataset import to_tensor
from airnet_basicsr.plugin.options import DATASET_KEYS, check_keys, require
from airnet_basicsr.restore.stored_images import key_of


class Sample(TypedDict):
    """An item, under BasicSR's keys."""

    lq: Tensor
    gt: Tensor
    noise_level: float
    lq_path: str
    gt_path: str


@DATASET_REGISTRY.register()
class DegradationTestDataset(Dataset):
    """One degradation on every image of a set.

    Items are ``lq`` and ``gt`` (3 x H x W, float32, RGB, values in [0, 1] but for unclipped noise), ``lq_path`` and
    ``gt_path`` (of the clean image, which several degraded ones may share), and ``noise_level`` (the standard deviation
    of the noise on the scale 0 to 255; nan where the degradation does not know it).

    What is drawn (noise) depends only on the image's key (see :func:`~airnet_basicsr.restore.stored_images.key_of`),
    on the options of the degradation and on ``seed``: never on order, workers, ``crop_multiple``, or whether the image
    lies in a folder or an LMDB. It comes from numpy's RandomState, whose stream no numpy version changes.

    Options (beside BasicSR's): ``degradation``, a mapping as in :mod:`airnet_basicsr.plugin.data.degradations`;
    ``seed`` (default 0); ``crop_multiple``: both sides are cut, around the centre, to multiples of it (16 in the
    official release's tests; default 1).

    Attributes:
        record: What a test says about each image's making: ``degradation`` (its type and parameters), ``protocol``,
            ``seed`` and ``crop_multiple``.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        where = f'datasets:{opt["phase"]} ({opt["name"]})'
        check_keys(opt, DATASET_KEYS | {'degradation', 'seed', 'crop_multiple'}, where)
        self.opt = opt
        self.degradation = build_degradation(require(opt, 'degradation', where), f'{where}:degradation')
        self.seed = opt.get('seed', 0)
        self.multiple = opt.get('crop_multiple', 1)
        if not isinstance(self.multiple, int) or isinstance(self.multiple, bool) or self.multiple < 1:
            raise InputError(f'option {where}:crop_multiple: expected a whole number above 0, found {self.multiple!r}')
        parameters = getattr(self.degradation, 'parameters', {})
        self.record = {
            'degradation': {'type': opt['degradation']['type'], **parameters},
            'protocol': getattr(self.degradation, 'protocol', None),
            'seed': self.seed,
            'crop_multiple': self.multiple,
        }
        sigmas = parameters.get('sigmas', parameters.get('sigma', 0))
        sigmas = sigmas if isinstance(sigmas, list) else [sigmas]
        self.drawn_for = f'{"/".join(f"{sigma:g}" for sigma in sigmas)}|{self.seed}'

    def __len__(self) -> int:
        return len(self.degradation)

    def __getitem__(self, index: int) -> Sample:
        path = self.degradation.path(index)
        rng = np.random.RandomState(zlib.crc32(f'{self._drawn_by(index)}|{self.drawn_for}'.encode()))
        degradation = self.degradation.settled(rng) if hasattr(self.degradation, 'settled') else self.degradation
        clean, source = degradation.load(index)
        if min(clean.shape[:2]) < self.multiple:
            raise InputError(
                f'image {self.degradation.describe(index)} has {clean.shape[1]}x{clean.shape[0]} pixels, of which '
                f'crop_multiple: {self.multiple} leaves nothing: remove it, or choose a smaller crop_multiple'
            )
        window = tuple(self._centre(side) for side in clean.shape[:2])
        return {
            # Cut when it is degraded: what a pixel gets must not depend on how much is cut.
            'lq': to_tensor(degradation.degrade(source, rng)[window]),
            'gt': to_tensor(clean[window].astype(np.float32) / np.float32(255)),
            'noise_level': noise_level(degradation),
            'lq_path': path,
            'gt_path': self.degradation.gt_path(index) if hasattr(self.degradation, 'gt_path') else path,
        }

    def _drawn_by(self, index: int) -> str:
        if not hasattr(self.degradation, 'key'):
            return key_of(PurePath(self.degradation.path(index)).stem)
        # Urban100 circulates under two names, and has one in an LMDB.
        return re.sub(r'_SRF_\d+_HR$', '', self.degradation.key(index))

    def _centre(self, side: int) -> slice:
        kept = side - side % self.multiple
        start = (side - kept) // 2
        return slice(start, start + kept)
