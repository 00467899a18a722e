"""Training samples per second: our LMDBs through MultiDegradationDataset against the official release's way.

    python benchmarks/bench_reading.py FOLDER_OF_CLEAN_IMAGES [--sub-images SIZE STEP]

A sample is a query and a key patch of one image (128 pixels), degraded, with the clean query patch, as float tensors:
Gaussian noise of sigma 25, or pairs (rain is added here). One process, no data loader. The release opens and decodes
the loose images for every sample; our datasets are prepared here by datasets_prep/prepare.py.
"""

import argparse
import cProfile
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import Compose, RandomCrop, ToPILImage, ToTensor

from airnet_basicsr.plugin.data.multi_degradation_dataset import MultiDegradationDataset

PREPARE = [sys.executable, str(Path(__file__).resolve().parents[1] / 'datasets_prep' / 'prepare.py')]
PATCH = 128
SIGMA = 25


class ReleaseReader:
    """What the release does for each sample (its utils/dataset_utils.py): PIL, whole images, numpy noise."""

    def __init__(self, clean: list[Path], degraded: list[Path] | None) -> None:
        self.clean, self.degraded = clean, degraded
        self.crop = Compose([ToPILImage(), RandomCrop(PATCH)])

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        clean = self._open(self.clean[index])
        if self.degraded:
            degraded = self._open(self.degraded[index])
            patches = [patch for _ in range(2) for patch in self._augmented(*self._crops(degraded, clean))]
        else:
            pieces = self._augmented(*(np.array(self.crop(clean)) for _ in range(2)))
            patches = [patch for piece in pieces for patch in (self._noisy(piece), piece)]
        return [ToTensor()(np.ascontiguousarray(patch)) for patch in patches]

    @staticmethod
    def _open(path: Path) -> np.ndarray:
        image = np.array(Image.open(path).convert('RGB'))
        top, left = image.shape[0] % 16, image.shape[1] % 16
        return image[top // 2 : image.shape[0] - top + top // 2, left // 2 : image.shape[1] - left + left // 2]

    @staticmethod
    def _crops(degraded: np.ndarray, clean: np.ndarray) -> list[np.ndarray]:
        top, left = (random.randint(0, side - PATCH) for side in clean.shape[:2])
        return [image[top : top + PATCH, left : left + PATCH] for image in (degraded, clean)]

    @staticmethod
    def _augmented(*patches: np.ndarray) -> list[np.ndarray]:
        mode = random.randint(0, 7)
        turned = [np.rot90(patch, mode % 4) for patch in patches]
        return [np.flipud(patch) for patch in turned] if mode >= 4 else turned

    @staticmethod
    def _noisy(patch: np.ndarray) -> np.ndarray:
        return np.clip(patch + np.random.randn(*patch.shape) * SIGMA, 0, 255).astype(np.uint8)


def our_dataset(degradation: dict) -> MultiDegradationDataset:
    """The training dataset with one degradation."""
    return MultiDegradationDataset(
        {
            'phase': 'train',
            'name': 'bench',
            'type': 'MultiDegradationDataset',
            'gt_size': PATCH,
            'degradations': {'only': degradation},
        }
    )


def rates(readers: dict[str, Callable[[int], object]], lengths: list[int], samples: int) -> dict[str, float]:
    """Samples per second of each reader: the best of three rounds, in random order; the readers take turns.

    Every image is read once before, so that files and LMDBs alike are in memory, as after the first epochs.
    """
    best = dict.fromkeys(readers, 0.0)
    for read, length in zip(readers.values(), lengths, strict=True):
        for index in range(length):
            read(index)
    for _ in range(3):
        for (name, read), length in zip(readers.items(), lengths, strict=True):
            order = np.random.randint(0, length, samples)
            start = time.perf_counter()
            for index in order:
                read(int(index))
            best[name] = max(best[name], samples / (time.perf_counter() - start))
    return best


def profile(read: Callable[[int], object], length: int, samples: int) -> str:
    """Where the time goes: the functions that take most of it, in milliseconds for each sample."""
    profiler = cProfile.Profile()
    profiler.enable()
    for index in np.random.randint(0, length, samples):
        read(int(index))
    profiler.disable()
    rows = sorted(pstats.Stats(profiler).stats.items(), key=lambda row: -row[1][2])[:6]
    return ', '.join(f'{name.split(".")[-1].strip("<>")} {own / samples * 1000:.2f}' for (_, _, name), (_, _, own, *_)
                     in rows)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='clean images, such as BSD400')
    parser.add_argument('--sub-images', nargs=2, default=('256', '128'), metavar=('SIZE', 'STEP'))
    parser.add_argument('--samples', type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def prepare(*words: str | Path) -> None:
        subprocess.run([*PREPARE, *map(str, words)], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        prepare('synthesize', 'rain', '--source', arguments.source, '--out', base / 'rain')
        roots = {}
        for name, options in (('whole', ()), ('sub', ('--sub-images', *arguments.sub_images))):
            prepare('clean', '--name', 'clean', '--source', arguments.source, '--out', base / name, *options)
            prepare('rain100l-train', '--source', base / 'rain', '--out', base / name, *options)
            roots[name] = base / name
        clean = sorted(path for path in arguments.source.iterdir() if path.is_file())
        rainy = sorted((base / 'rain/rainy').iterdir())
        partners = [base / 'rain/gt' / f'no{path.name}' for path in rainy]
        for kind, release in (('noise', ReleaseReader(clean, None)), ('pairs', ReleaseReader(partners, rainy))):
            readers = {'release': release.__getitem__}
            lengths = [len(release.clean)]
            for name, root in roots.items():
                pairs = {f'dataroot_{side}': str(root / f'Rain100L_train_{side}.lmdb') for side in ('gt', 'lq')}
                noise = {'type': 'GaussianNoise', 'sigma': SIGMA, 'dataroot_gt': str(root / 'clean.lmdb')}
                dataset = our_dataset(noise if kind == 'noise' else {'type': 'PairedImages', **pairs})
                readers[f'ours, {name} images'] = dataset.__getitem__
                lengths.append(len(dataset))
            measured = rates(readers, lengths, arguments.samples)
            for (name, read), length in zip(readers.items(), lengths, strict=True):
                times = measured[name] / measured['release']
                print(f'{kind}: {name}: {measured[name]:.0f} samples/s, {times:.2f} times')
                print(f'    ms for each sample: {profile(read, length, 300)}')


if __name__ == '__main__':
    main()
