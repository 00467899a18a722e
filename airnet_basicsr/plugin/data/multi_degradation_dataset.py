"""Training patches of several degradations, each equally often in every batch."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import build_degradation, noise_level
from airnet_basicsr.plugin.data_order import Draw
from airnet_basicsr.plugin.options import DATASET_KEYS, check_keys, require


def to_tensor(image: np.ndarray) -> Tensor:
    """float32 H x W x C to C x H x W."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def augment(patch: np.ndarray, mode: int) -> np.ndarray:
    """One of the 8 flips and rotations (``mode`` 0 to 7) of a H x W x C patch."""
    patch = np.rot90(patch, mode % 4)
    return patch[:, ::-1] if mode >= 4 else patch


@DATASET_REGISTRY.register()
class MultiDegradationDataset(Dataset):
    """Random patches of images with any number of degradations (paper Sec. 3.2 and 4.1).

    An item holds one query and one key for each of the D degradations, so a batch of B items holds B of each whatever
    the sampler, the workers or the processes do. (One of ``weight`` 3 counts as three of the D.) Query and key are two
    crops of one image with the same degradation; noise is drawn anew for each, and each gets its own of the 8 flips and
    rotations, as in the official release:

    - ``lq``: D x 3 x P x P, the degraded query crops (float32, RGB, values in [0, 1] but for unclipped noise);
    - ``key``: the degraded key crops;
    - ``gt``: the clean query crops;
    - ``degradation``: D numbers, the place of each one's degradation in the option file;
    - ``noise_level``: D numbers (float32), the standard deviation of the noise in each query and key, as drawn, on the
      scale 0 to 255; nan where the degradation does not know it.

    With ``contrastive: false`` an item is a plain ``lq``/``gt`` pair of 3 x P x P with one ``degradation`` and one
    ``noise_level``, for BasicSR's SRModel. They take turns, so a batch whose size is a multiple of D holds each equally
    often.

    Under BasicSR's sampler every patch follows from the seed, the epoch and its place in it, not from the number
    of workers. Indexed by plain integers, the dataset draws from torch's global random state.

    Options (beside BasicSR's): ``degradations``, named mappings as in
    :mod:`airnet_basicsr.plugin.data.degradations`, which may each have a ``weight`` (a whole number, default 1);
    ``gt_size``, the patch size P (128 in the paper); ``contrastive`` (default true).

    Raises:
        InputError: For options and images that cannot be used. An image smaller than the patch is refused, not padded:
            at the start for LMDBs, whose ``meta_info.txt`` has the sizes, else when it is read.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        where = f'datasets:{opt["phase"]}'
        check_keys(opt, DATASET_KEYS | {'degradations', 'gt_size', 'contrastive'}, where)
        self.opt = opt
        self.patch_size = require(opt, 'gt_size', where)
        self.contrastive = opt.get('contrastive', True)
        described = opt.get('degradations')
        if not described:
            raise InputError(f'option {where}:degradations is empty: name at least one degradation')
        check_keys(described, described, f'{where}:degradations')
        self.degradations = {}
        self.slots: list[int] = []
        for place, (name, spec) in enumerate(described.items()):
            at = f'{where}:degradations:{name}'
            check_keys(spec, spec, at)
            weight = spec.get('weight', 1)
            if not isinstance(weight, int) or isinstance(weight, bool) or weight < 1:
                raise InputError(f'option {at}:weight: expected a whole number above 0, found {weight!r}')
            self.slots += [place] * weight
            self.degradations[name] = build_degradation({k: v for k, v in spec.items() if k != 'weight'}, at)
        for degradation in self.degradations.values():
            for index in range(len(degradation)):
                self._check_size(degradation, index, degradation.shape(index))
        self.largest = max(len(degradation) for degradation in self.degradations.values())
        # BasicSR seeds each process with manual_seed + rank; all must agree on the order of the images.
        self.seed = torch.initial_seed() - get_dist_info()[0]

    def _check_size(self, degradation: Any, index: int, shape: tuple[int, ...]) -> None:
        if shape and min(shape[:2]) < self.patch_size:
            raise InputError(
                f'image {degradation.describe(index)} has {shape[1]}x{shape[0]} pixels, less than a patch '
                f'(gt_size: {self.patch_size}). Remove it or choose a smaller gt_size.'
            )

    def __len__(self) -> int:
        return self.largest * (1 if self.contrastive else len(self.slots))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if isinstance(index, Draw):
            epoch, turn = index.epoch, index.ordinal
            rng = np.random.default_rng((self.seed, epoch, index.position))
        else:
            epoch, turn = 0, index
            rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        count = len(self.slots)
        if self.contrastive:
            patches = [self._patches(which, index, epoch, rng) for which in range(count)]
            return {
                **{name: torch.stack([patch[name] for patch in patches]) for name in patches[0]},
                'degradation': torch.tensor(self.slots),
            }
        which = turn % count
        return {**self._patches(which, index // count, epoch, rng), 'degradation': self.slots[which]}

    def _patches(self, which: int, index: int, epoch: int, rng: np.random.Generator) -> dict[str, Tensor]:
        degradation = list(self.degradations.values())[self.slots[which]]
        # Own order for each degradation: those on the same clean images must not show the same one in one batch.
        image = int(_order(self.seed, epoch, which, self.largest)[index]) % len(degradation)
        if hasattr(degradation, 'settled'):
            degradation = degradation.settled(rng)
        clean, source = degradation.load(image)
        self._check_size(degradation, image, clean.shape)
        patches = {'noise_level': torch.tensor(noise_level(degradation))}
        for lq_name, gt_name in (('lq', 'gt'), ('key', None))[: 2 if self.contrastive else 1]:
            top, left = (int(rng.integers(side - self.patch_size + 1)) for side in clean.shape[:2])
            window = (slice(top, top + self.patch_size), slice(left, left + self.patch_size))
            mode = int(rng.integers(8))
            patches[lq_name] = to_tensor(degradation.degrade(augment(source[window], mode), rng))
            if gt_name:
                patches[gt_name] = to_tensor(augment(clean[window], mode).astype(np.float32) / np.float32(255))
        return patches


@lru_cache(maxsize=32)
def _order(seed: int, epoch: int, which: int, length: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, which)).permutation(length)
