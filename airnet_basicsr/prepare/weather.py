"""Real haze and rain to lay on other photographs: depth maps and streak layers, taken from pairs."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.prepare.images import Failure, inspect
from airnet_basicsr.prepare.layouts import Found, own_files
from airnet_basicsr.prepare.thumbnails import SAME, likeness, thumbnail
from airnet_basicsr.prepare.workers import Progress, ordered
from airnet_basicsr.restore.stored_images import DEPTH_UNIT, decode

RECORD = 'weather.json'
_LEAST_TRANSMISSION = 0.02


class HoldOut(NamedTuple):
    """How much is kept for validation: the last rainy pairs, hazy scenes, photographs of each folder but the first."""

    rain: int
    haze: int
    photos: int


class _Task(NamedTuple):
    """One file to make.

    Attributes:
        kind: ``copy``, ``streaks`` or ``depth``.
        target: Below the output folder, without suffix.
        sources: What it is made of: (picture,) or (clean, degraded).
        airlight: Of the hazy picture.
        beta: Its scattering coefficient.
    """

    kind: str
    target: str
    sources: tuple[str, ...]
    airlight: float = 0.0
    beta: float = 0.0


class _Made(NamedTuple):
    """What became of a task: how far (0 to 255, mean) the pair is from what was taken from it, or what failed."""

    kind: str
    residual: float = 0.0
    failure: Failure | None = None


def streak_layer(clean: np.ndarray, rainy: np.ndarray) -> np.ndarray:
    """The streaks (uint8, H x W) that were added to ``clean`` (both uint8, H x W x 3).

    The largest of the channels' differences: where a channel is clipped at white, another may not be.
    """
    return np.clip(rainy.astype(np.int16) - clean, 0, 255).max(2).astype(np.uint8)


def depth_of(clean: np.ndarray, hazy: np.ndarray, airlight: float, beta: float) -> np.ndarray:
    """Depth (float32, H x W) of a scene from a pair (uint8, H x W x 3, RGB), by I = J t + A (1 - t), t = exp(-beta d).

    t is found by least squares over the channels and a small window, then smoothed along the clean picture's edges
    (guided filter, He et al., TPAMI 2013). Where J is near A, t has no influence on I and follows its surroundings.
    """
    scene, seen = (image.astype(np.float32) / 255 - airlight for image in (clean, hazy))
    product, square = (scene * seen).sum(2), (scene * scene).sum(2)

    def mean(plane: np.ndarray, radius: int) -> np.ndarray:
        return cv2.boxFilter(plane, -1, (2 * radius + 1,) * 2)

    weight = mean(square, 3) + 1e-4
    t = np.clip(mean(product, 3) / weight, _LEAST_TRANSMISSION, 1)
    guide, radius = cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, 12
    total = mean(weight, radius)
    mean_guide, mean_t = mean(weight * guide, radius) / total, mean(weight * t, radius) / total
    variance = mean(weight * guide * guide, radius) / total - mean_guide**2
    slope = (mean(weight * guide * t, radius) / total - mean_guide * mean_t) / (variance + 1e-3)
    offset = mean_t - slope * mean_guide
    t = np.clip(mean(slope, radius) * guide + mean(offset, radius), _LEAST_TRANSMISSION, 1)
    return -np.log(t) / beta


def prepare_weather(
    photos: list[Path], rain: Found, haze: Found, out: Path, held: HoldOut, workers: int, progress: Progress
) -> None:
    """Write what the degradations RainStreaks, Haze and CleanPictures are trained with, as folders of pictures.

    ``clean`` has the photographs, without those that a held-out rainy picture shows; ``streaks`` the layers of rain
    (8-bit grey, rainy minus clean: Rain100L's are additive and grey); ``scenes`` and ``depth`` the clean pictures of
    the hazy ones and their depth (16-bit grey, :data:`DEPTH_UNIT`), each from its haziest picture. What is held out
    goes to ``val_rain_gt``, ``val_rain_lq``, ``val_haze_gt``, ``val_haze_lq`` and ``val_clean``.

    Files that are there from an interrupted run with the same arguments are kept.

    Args:
        photos: Folders of photographs.
        rain: Pairs, as :func:`~airnet_basicsr.prepare.layouts.recognise` finds them.
        haze: Pairs named as RESIDE's, with airlight and scattering coefficient.
        out: New or empty folder, or that of an interrupted run.
        held: What to hold out.
        workers: Number of processes.
        progress: Shows how far it is.

    Raises:
        InputError: An unusable picture, names without airlight, two photographs of one name, too few pictures to hold
            out so many, or an output folder of something else.
    """
    tasks = [*_rain_tasks(rain, held.rain), *_haze_tasks(haze, held.haze)]
    held_out = [task.sources[0] for task in tasks if task.target.startswith('val_rain_gt')]
    taken, left = _photo_tasks(photos, held.photos, held_out, workers, progress)
    tasks += taken
    _check_targets(tasks)
    _begin(out, tasks)
    todo = [task for task in tasks if not any((out / f'{task.target}{suffix}').is_file() for suffix in _suffixes(task))]
    if len(todo) < len(tasks):
        print(f'{len(tasks) - len(todo)} of {len(tasks)} files are there already')
    residuals: dict[str, list[float]] = {'streaks': [], 'depth': []}
    try:
        for made in progress(ordered(functools.partial(_make, out), todo, workers), len(todo)):
            if made.failure:
                raise InputError(
                    f'{made.failure.path} {made.failure.reason}. Repair it and run the same command again.'
                )
            residuals.setdefault(made.kind, []).append(made.residual)
    except OSError as error:
        raise InputError(f'writing to {out} failed: {error}; run the same command again to resume') from error
    for name in sorted({task.target.split('/')[0] for task in tasks}):
        print(f'{out / name}: {sum(task.target.startswith(f"{name}/") for task in tasks)} pictures')
    print(f'{left} photographs are left out: a held-out rainy picture shows the same')
    for kind, what in (('streaks', 'rainy pictures from clean ones and layers'), ('depth', 'hazy ones by depth')):
        if residuals[kind]:
            print(f'{what}: mean error {np.mean(residuals[kind]):.2f} of 255, at most {np.max(residuals[kind]):.2f}')


def _rain_tasks(rain: Found, held: int) -> Iterator[_Task]:
    degraded = {clean: path for path, _, clean in rain.files[1]}
    pairs = [(path, degraded[key]) for path, key, _ in rain.files[0] if key in degraded]
    _check_held('rainy pairs', len(pairs), held)
    for i, (gt, lq) in enumerate(pairs):
        if i < len(pairs) - held:
            yield _Task('streaks', f'streaks/{_stem(lq)}', (gt, lq))
        else:
            yield _Task('copy', f'val_rain_gt/{_stem(gt)}', (gt,))
            yield _Task('copy', f'val_rain_lq/{_stem(gt)}', (lq,))


def _haze_tasks(haze: Found, held: int) -> Iterator[_Task]:
    versions: dict[str, list[tuple[float, float, str]]] = {}
    for path, _, clean in haze.files[1]:
        parameters = re.fullmatch(r'.+?_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)', _stem(path))
        if not parameters or float(parameters[2]) == 0:
            raise InputError(f'{path}: its name does not end in airlight and scattering coefficient (0001_0.8_0.2)')
        versions.setdefault(clean, []).append((float(parameters[2]), float(parameters[1]), path))
    scenes = [(path, versions[key]) for path, key, _ in haze.files[0] if key in versions]
    _check_held('hazy scenes', len(scenes), held)
    for i, (gt, hazy) in enumerate(scenes):
        if i < len(scenes) - held:
            beta, airlight, lq = max(hazy)
            yield _Task('copy', f'scenes/{_stem(gt)}', (gt,))
            yield _Task('depth', f'depth/{_stem(gt)}', (gt, lq), airlight, beta)
        else:
            for _, _, lq in hazy:
                # Under one name, as PairedImages finds the two of a pair.
                yield _Task('copy', f'val_haze_gt/{_stem(lq)}', (gt,))
                yield _Task('copy', f'val_haze_lq/{_stem(lq)}', (lq,))


def _photo_tasks(
    photos: list[Path], held: int, held_out: list[str], workers: int, progress: Progress
) -> tuple[list[_Task], int]:
    """The photographs to take, and how many are left out because a held-out picture shows the same."""
    tasks, candidates = [], []
    for number, folder in enumerate(photos):
        files = [path for path, _ in own_files(folder)]
        kept = len(files) - (held if number else 0)
        if number:
            _check_held(f'photographs in {folder}', len(files), held)
        candidates += files[:kept]
        tasks += [_Task('copy', f'val_clean/{_stem(path)}', (path,)) for path in files[kept:]]
    if not held_out:
        return tasks + [_Task('copy', f'clean/{_stem(path)}', (path,)) for path in candidates], 0
    others = np.stack(list(ordered(_thumbnail, held_out, workers)))
    left = 0
    for path, small in zip(
        candidates, progress(ordered(_thumbnail, candidates, workers), len(candidates)), strict=True
    ):
        if likeness(small[None], others).max() > SAME:
            left += 1
        else:
            tasks.append(_Task('copy', f'clean/{_stem(path)}', (path,)))
    return tasks, left


def _thumbnail(path: str) -> np.ndarray:
    return thumbnail(_read(path))


def _read(path: str) -> np.ndarray:
    image = decode(Path(path).read_bytes(), cv2.IMREAD_COLOR, path)
    if image is None:
        raise InputError(f'{path} cannot be decoded: put a good copy in its place or remove it')
    return image


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _check_held(what: str, count: int, held: int) -> None:
    if held >= count:
        raise InputError(f'--hold-out: there are {count} {what}, of which {held} cannot be held out')


def _check_targets(tasks: list[_Task]) -> None:
    of: dict[str, _Task] = {}
    for task in tasks:
        other = of.setdefault(task.target, task)
        if other is not task:
            raise InputError(f'{other.sources[-1]} and {task.sources[-1]} have one name; rename one of them')


def _begin(out: Path, tasks: list[_Task]) -> None:
    plan = hashlib.sha256(repr(tasks).encode()).hexdigest()
    record = out / RECORD
    try:
        if record.is_file():
            if json.loads(record.read_text(encoding='utf-8')).get('plan') != plan:
                raise InputError(f'{out} was made from other folders or with other options; give another --out')
        elif out.exists() and any(out.iterdir()):
            raise InputError(f'{out} is not empty; give a new folder with --out')
        for folder in {task.target.split('/')[0] for task in tasks}:
            (out / folder).mkdir(parents=True, exist_ok=True)
        _write(record, json.dumps({'plan': plan, 'files': len(tasks)}).encode())
    except (OSError, ValueError) as error:
        raise InputError(f'{out} cannot be used: {error}') from error


def _suffixes(task: _Task) -> tuple[str, ...]:
    return ('.png', os.path.splitext(task.sources[0])[1]) if task.kind == 'copy' else ('.png',)


def _make(out: Path, task: _Task) -> _Made:
    """Write one file."""
    try:
        contents = [Path(path).read_bytes() for path in task.sources]
        remarks = [inspect(content, path).remark for content, path in zip(contents, task.sources, strict=True)]
    except (OSError, ValueError) as error:
        return _Made(task.kind, failure=Failure(task.sources[-1], f'or its clean picture cannot be decoded ({error})'))
    if task.kind == 'copy' and not remarks[0]:
        _write(out / f'{task.target}{os.path.splitext(task.sources[0])[1]}', contents[0])
        return _Made(task.kind)
    images = [cv2.cvtColor(_read(path), cv2.COLOR_BGR2RGB) for path in task.sources]
    if len({image.shape for image in images}) > 1:
        return _Made(task.kind, failure=Failure(task.sources[-1], 'has not the size of its clean picture'))
    residual = 0.0
    if task.kind == 'copy':
        made = cv2.cvtColor(images[0], cv2.COLOR_RGB2BGR)
    elif task.kind == 'streaks':
        clean, rainy = images
        made = streak_layer(clean, rainy)
        residual = float(np.abs(np.minimum(clean.astype(int) + made[..., None], 255) - rainy).mean())
    else:
        clean, hazy = images
        depth = depth_of(clean, hazy, task.airlight, task.beta)
        made = np.clip(depth * DEPTH_UNIT, 0, 65535).astype(np.uint16)
        t = np.exp(-task.beta * depth)[..., None]
        residual = float(np.abs(clean * t + 255 * task.airlight * (1 - t) - hazy).mean())
    _write(out / f'{task.target}.png', cv2.imencode('.png', made)[1].tobytes())
    return _Made(task.kind, residual)


def _write(path: Path, content: bytes) -> None:
    """In one step: an interrupted run leaves no half a file."""
    unfinished = path.with_name(f'.{path.name}.new')
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
