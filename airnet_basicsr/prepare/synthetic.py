"""Degraded images made from clean ones: synthetic rain and haze, and the noisy test sets as files."""

import functools
import itertools
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin.data.degradation_test_dataset import DegradationTestDataset
from airnet_basicsr.plugin.data.degradations import add_gaussian_noise
from airnet_basicsr.plugin.data.synthesis import RESIDE_AIRLIGHTS, RESIDE_BETAS, add_haze, add_rain, estimate_depth
from airnet_basicsr.prepare.images import Failure, inspect
from airnet_basicsr.prepare.layouts import Found
from airnet_basicsr.prepare.workers import Progress, ordered
from airnet_basicsr.restore.stored_images import decode

# RESIDE's hazy images are JPEGs; this quality leaves no visible blocks for a network to learn.
_JPEG_QUALITY = 95
_DEEPEST = 20.0


class Recipe(NamedTuple):
    """What :func:`synthesize` puts into images; ranges are (from, to).

    Attributes:
        what: Of rain, haze, noise.
        seed: Of everything drawn.
        angle: Degrees from the vertical.
        density: Rain streaks per pixel.
        length: Pixels of the longest streaks.
        per_image: Hazy images of each clean one.
        depth: Folder of depth maps, or None to estimate them.
        sigma: Of the noise.
    """

    what: frozenset[str]
    seed: int
    angle: tuple[float, float]
    density: tuple[float, float]
    length: tuple[int, int]
    per_image: int
    depth: Path | None
    sigma: tuple[float, float]


def synthesize(recipe: Recipe, found: Found, out: Path, workers: int, progress: Progress) -> None:
    """Make degraded images of clean ones.

    With haze among ``recipe.what`` the files are named and laid out as in RESIDE OTS (haze/part1/IIII_A_B.jpg with
    clear/IIII.*), else as in Rain100L (rainy/rain-N.png with gt/norain-N.png). ``names.txt`` says which file each
    number comes from. What is drawn for an image depends on its name and the seed alone.

    Args:
        recipe: What to put in.
        found: The clean images.
        out: New or empty folder.
        workers: Number of processes.
        progress: Shows how far it is.

    Raises:
        InputError: A damaged image, a missing or misshapen depth map, a folder that is not empty.
    """
    if recipe.what == {'noise'}:
        raise InputError('noise alone needs no files: training adds it. For test sets as files there is `noisy`.')
    folders = ('haze/part1', 'clear') if 'haze' in recipe.what else ('rainy', 'gt')
    _new_folders(out, folders)
    files = [(number, path, key) for number, (path, key, _) in enumerate(found.files[0], 1)]
    (out / 'names.txt').write_text(''.join(f'{number} {path}\n' for number, path, _ in files), encoding='utf-8')
    make = functools.partial(_make, recipe, out, folders)
    for failure in progress(ordered(make, files, workers), len(files)):
        if failure:
            raise InputError(f'{failure.path} {failure.reason}')
    print(f'Ready: {out}, degraded images of {len(files)} clean ones')


def _make(recipe: Recipe, out: Path, folders: tuple[str, str], file: tuple[int, str, str]) -> Failure | None:
    """Write one clean image and its degraded ones."""
    number, path, key = file
    degraded_folder, clean_folder = out / folders[0], out / folders[1]
    try:
        data = Path(path).read_bytes()
        found = inspect(data, path)
    except (OSError, ValueError) as error:
        return Failure(path, f'cannot be decoded ({error})')
    image = cv2.cvtColor(found.pixels, cv2.COLOR_RGB2BGR)
    rng = np.random.RandomState(zlib.crc32(f'{key}|{recipe.seed}'.encode()))
    if 'haze' not in recipe.what:
        _write(clean_folder / f'norain-{number}.png', image)
        _write(degraded_folder / f'rain-{number}.png', _rain_and_noise(recipe, image, rng))
        return None
    if found.remark or found.suffix == 'webp':
        _write(clean_folder / f'{number:04d}.png', image)
    else:
        (clean_folder / f'{number:04d}.{found.suffix}').write_bytes(data)
    try:
        depth = _read_depth(recipe.depth, path, image.shape[:2]) if recipe.depth else estimate_depth(image)
    except (OSError, ValueError) as error:
        return Failure(path, f'has no usable depth map: {error}')
    settings = list(itertools.product(RESIDE_AIRLIGHTS, RESIDE_BETAS))
    for which in rng.permutation(len(settings))[: recipe.per_image]:
        airlight, beta = settings[which]
        hazy = _rain_and_noise(recipe, add_haze(image, depth, airlight, beta), rng)
        _write(degraded_folder / f'{number:04d}_{airlight:g}_{beta:g}.jpg', hazy)
    return None


def _rain_and_noise(recipe: Recipe, image: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    if 'rain' in recipe.what:
        angle, density = rng.uniform(*recipe.angle), rng.uniform(*recipe.density)
        image = add_rain(image, rng, angle, density, int(round(rng.uniform(*recipe.length))))
    if 'noise' in recipe.what:
        image = _noisy(image, rng.uniform(*recipe.sigma), rng)
    return image


def _noisy(image: np.ndarray, sigma: float, rng: np.random.RandomState) -> np.ndarray:
    return np.round(add_gaussian_noise(image, sigma, rng, 'uint8') * 255).astype(np.uint8)


def _read_depth(folder: Path, path: str, size: tuple[int, int]) -> np.ndarray:
    """The depth map of image ``path``: float32, H x W."""
    stem = folder / os.path.splitext(os.path.basename(path))[0]
    if os.path.exists(f'{stem}.npy'):
        depth = np.load(f'{stem}.npy')
    else:
        file = Path(f'{stem}.png')
        levels = decode(file.read_bytes(), cv2.IMREAD_UNCHANGED) if file.is_file() else None
        if levels is None or levels.ndim != 2:
            raise ValueError(f'there is neither {stem}.npy nor a grey image {stem}.png')
        depth = levels * (_DEEPEST / np.iinfo(levels.dtype).max)
    if depth.shape != size or not (depth >= 0).all():
        raise ValueError(f'{stem}.* has shape {depth.shape} where the image has {size}, or negative values')
    return depth.astype(np.float32)


def export_noisy(source: Path, out: Path, sigmas: tuple[float, ...], spatial: bool, seed: int) -> None:
    """Write the noisy test sets as PNG files: gt/, sigmaN/ and, with ``spatial``, spatial/.

    The noise is that of :class:`~airnet_basicsr.plugin.data.degradation_test_dataset.DegradationTestDataset` with the
    ``uint8`` protocol; in spatial/ that of
    :class:`~airnet_basicsr.plugin.data.degradations.SpatiallyVariantNoise` at its default levels. Files have the
    images' keys as names, so that their noise is the same again when they are read from gt/.

    Args:
        source: Folder or LMDB of clean images.
        out: New or empty folder.
        sigmas: Noise levels.
        spatial: Whether to write spatial/ as well.
        seed: Of the noise.

    Raises:
        InputError: Nothing to write, a folder that is not empty, or two images of one key.
    """
    sets = {f'sigma{sigma:g}': {'type': 'GaussianNoise', 'sigma': sigma} for sigma in sigmas}
    if spatial:
        sets['spatial'] = {'type': 'SpatiallyVariantNoise'}
    if not sets:
        raise InputError('nothing to write: give a noise level with --sigma, or --spatial')
    of_each = {'protocol': 'uint8', 'dataroot_gt': str(source)}
    datasets = {
        name: DegradationTestDataset({'phase': 'test', 'name': name, 'seed': seed, 'degradation': {**noise, **of_each}})
        for name, noise in sets.items()
    }
    _new_folders(out, ('gt', *sets))
    written: dict[str, str] = {}
    for folder, dataset in datasets.items():
        for index in range(len(dataset)):
            item = dataset[index]
            name = f'{dataset.degradation.key(index)}.png'
            if written.setdefault(name, item['gt_path']) != item['gt_path']:
                raise InputError(f'{written[name]} and {item["gt_path"]} would both be {name}; rename one of them')
            for into, tensor in (('gt', item['gt']), (folder, item['lq'])):
                image = np.round(tensor.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
                _write(out / into / name, image[..., ::-1])
    print(f'Ready: {", ".join(str(out / folder) for folder in sets)}, {len(written)} images each; clean: {out}/gt')


def _new_folders(out: Path, folders: tuple[str, ...]) -> None:
    try:
        if out.exists() and any(out.iterdir()):
            raise InputError(f'{out} is not empty; give a new folder with --out')
        for folder in folders:
            (out / folder).mkdir(parents=True)
    except OSError as error:
        raise InputError(f'{out} cannot be written: {error.strerror}') from error


def _write(path: Path, image: np.ndarray) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == '.jpg' else []
    write_whole(path, cv2.imencode(path.suffix, image, quality)[1].tobytes())
