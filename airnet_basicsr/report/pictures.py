"""The best, the median and the worst image of each dataset, as the page shows them."""

import base64
import io
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

import airnet_basicsr.plugin  # noqa: F401  (before BasicSR: 1.4.2 cannot be imported without its repairs)

# ruff: isort: split
from basicsr.data import build_dataset
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from PIL import Image

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.runs import Run
from airnet_basicsr.restore.stored_images import decode

BYTES = 11_000_000  # of all pictures of a page; in text (base64) they take a third more
# From what a picture is at best to what always fits: longest side in pixels, JPEG quality.
SETTINGS = ((1024, 95), (768, 92), (640, 90), (512, 85), (384, 80), (256, 75), (160, 60), (96, 50), (64, 30))


class Pairs(Protocol):
    """What a test reads its pairs of images from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def choose_pictures(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """The pictures of each dataset that any run has, chosen by the gain in PSNR of the first run that kept its own.

    Returns:
        Of each dataset ``{dataset, chosen_by, metric, reason, choices}``: the ``reason`` why there is nothing to see
        (or None) and for each choice ``{rank, image, gains, size, layers}``, a layer being ``{name, psnr,
        picture}`` with the picture in uint8, H x W x 3, BGR. And notes on what was found on the way.
    """
    found, notes = [], []
    for dataset in dict.fromkeys(name for run in runs for name in run.images):
        entry, more = _of_dataset([run for run in runs if dataset in run.images], dataset)
        found.append(entry)
        notes += more
    return found, notes


def _of_dataset(runs: Sequence[Run], dataset: str) -> tuple[dict[str, Any], list[str]]:
    entry: dict[str, Any] = {'dataset': dataset, 'chosen_by': None, 'metric': None, 'reason': None, 'choices': []}
    kept = [run for run in runs if (run.folder / 'visualization' / dataset).is_dir()]
    keeping = [run for run in kept if run.pairs]
    names = ', '.join(run.name for run in kept or runs)
    if kept and not keeping:
        entry['reason'] = (
            f'Pictures are chosen by their gain in PSNR, and {names} measured none: add calculate_psnr to val:metrics '
            'and test again.'
        )
        return entry, []
    if not keeping:
        entry['reason'] = (
            f'No restored pictures of {dataset} were kept by {names}: test again with `--force_yml val:save_img=true`.'
        )
        return entry, []
    # Pictures that nothing was done to are the inputs, which are there in any case.
    keeping = [run for run in keeping if run.info.get('model_type') != 'NoRestoration'] or keeping
    first = keeping[0]
    metric = first.pairs[0].psnr
    entry |= {'chosen_by': first.name, 'metric': metric}
    gains = {key: gain for key, gain in first.values(dataset, metric, 'gain').items() if math.isfinite(gain)}
    ranked = sorted(gains, key=gains.__getitem__)
    if not ranked:
        entry['reason'] = f'No image of {dataset} has a finite gain in PSNR.'
        return entry, []
    places = {'best': -1, 'median': (len(ranked) - 1) // 2, 'worst': 0}
    chosen: dict[str, list[str]] = {}  # the ranks of each image: of one or two images one is several
    for rank, place in places.items():
        chosen.setdefault(ranked[place], []).append(rank)
    try:
        source = _rebuild(first, dataset)
        for key, ranks in chosen.items():
            entry['choices'].append(_choice(keeping, dataset, key, source, metric) | {'rank': ' and '.join(ranks)})
    except InputError as error:
        entry['choices'] = []
        entry['reason'] = f'The pictures of {dataset} cannot be shown: {error}'
        return entry, []
    notes = []
    tested = first.images[dataset]
    if len(source) not in (len(tested), tested[0].get('images')):  # of the latter, read_run has told
        notes.append(
            f'{first.name}: of the {len(source)} images that {dataset} now has, {len(tested)} have '
            'results. Was the test interrupted?'
        )
    return entry, notes


def _rebuild(run: Run, dataset: str) -> Pairs:
    """The dataset as the test had it. Its noise depends on names and seed only, so the inputs come out the same."""
    opt = next((opt for opt in (run.options.get('datasets') or {}).values() if opt.get('name') == dataset), None)
    if opt is None:
        raise InputError(f'{run.folder / "run.json"} does not say how the dataset was made')
    opt = _located(opt, run.folder)
    try:
        return build_dataset(opt)
    except (KeyError, OSError, ValueError, AssertionError) as error:  # BasicSR's own datasets
        raise InputError(f'its dataset is not to be had any more ({error})') from error


def _located(value: Any, folder: Path, key: str = '') -> Any:
    """``value`` with relative data folders taken from the working directory or, if not there, the test's own root."""
    if isinstance(value, dict):
        return {key: _located(part, folder, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_located(part, folder, key) for part in value]
    if isinstance(value, str) and key.startswith('dataroot') and not os.path.exists(value):
        elsewhere = folder.resolve().parent.parent / value  # of <root>/results/<name>
        return str(elsewhere) if elsewhere.exists() else value
    return value


def _choice(runs: Sequence[Run], dataset: str, key: str, source: Pairs, metric: str) -> dict[str, Any]:
    records = [next((record for record in run.images[dataset] if record['key'] == key), None) for run in runs]
    record = next(record for record in runs[0].images[dataset] if record['key'] == key)
    try:
        item = source[record['index']] if record['index'] < len(source) else None
    except (AttributeError, AssertionError, KeyError, OSError, ValueError, cv2.error) as error:
        if not type(source).__module__.startswith('basicsr.'):
            raise
        # BasicSR's own datasets do not look whether a file holds a picture.
        raise InputError(f'what the data folders hold for {key} cannot be read any more ({error})') from error
    if item is None or not _is_the_tested(item, record, metric, runs[0]):
        raise InputError(
            f'what the data folders hold for {key} is not what was tested: put the data of the test back, or test again'
        )
    clean, degraded = tensor2img([item['gt']]), tensor2img([item['lq']])
    layers = [{'name': 'input', 'psnr': record['input'].get(metric), 'picture': degraded}]
    gains = {}
    for run, its in zip(runs, records, strict=True):
        if its is None or its['lq_crc32'] != record['lq_crc32']:
            continue
        suffix = (run.options.get('val') or {}).get('suffix') or run.name
        file = its.get('picture') or f'{its["image"]}_{suffix}.png'  # tests before this version did not tell
        path = run.folder / 'visualization' / dataset / file
        # Not by OpenCV's own reader: it ends the process where a name is no text.
        picture = decode(path.read_bytes(), cv2.IMREAD_COLOR, path.name) if path.is_file() else None
        if picture is None or picture.shape != clean.shape:
            state = 'missing' if not path.is_file() else 'damaged or of another size'
            raise InputError(f'{path} is {state}: test again with `--force_yml val:save_img=true`')
        its_name = run.named(runs[0].metrics[metric])  # None: it measured another PSNR, which no page shows beside this
        gain = run.values(dataset, its_name, 'gain').get(key) if its_name else None
        if gain is not None:
            gains[run.name] = gain
        label = 'restored' if len(runs) == 1 else f'restored, {run.name}'
        layers.append({'name': label, 'psnr': its['metrics'].get(its_name), 'picture': picture})
    layers.append({'name': 'clean', 'psnr': None, 'picture': clean})
    return {'image': key, 'gains': gains, 'size': list(clean.shape[:2]), 'layers': layers}


def _is_the_tested(item: dict[str, Any], record: dict[str, Any], metric: str, run: Run) -> bool:
    """Whether input and clean image are the test's: the one by its checksum, both by the metric of the input."""
    if zlib.crc32(np.ascontiguousarray(item['lq'].float().numpy()).data) != record['lq_crc32']:
        return False
    images = {'img': tensor2img([item['lq']]), 'img2': tensor2img([item['gt']])}
    exact = {'float_img': item['lq'][None], 'float_img2': item['gt'][None]}
    return abs(calculate_metric(images | exact, run.metrics[metric]) - record['input'][metric]) < 1e-3


def encode(choices: Sequence[dict[str, Any]]) -> None:
    """Give each choice ``shown`` (the height and width of what is shown) and each of its layers a ``uri``.

    A picture too large for its share of the page is cut around the centre: scaled down, it would lose its noise.
    """
    for choice in choices:
        for side, quality in SETTINGS:
            parts = [_middle(layer['picture'], side) for layer in choice['layers']]
            files = [_jpeg(part, quality) for part in parts]
            if sum(map(len, files)) <= BYTES / len(choices):
                break
        choice['shown'] = list(parts[0].shape[:2])
        for layer, file in zip(choice['layers'], files, strict=True):
            layer['uri'] = 'data:image/jpeg;base64,' + base64.b64encode(file).decode()


def _middle(picture: np.ndarray, side: int) -> np.ndarray:
    window = tuple(slice((size - min(size, side)) // 2, (size + min(size, side)) // 2) for size in picture.shape[:2])
    return picture[window]


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    # In full colour resolution (subsampling 0): noise is in the colours too.
    Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).save(file, 'JPEG', quality=quality, subsampling=0)
    return file.getvalue()
