"""``make demo``: a small AirNet trained, tested and shown on real photographs, on a CPU, in minutes.

Everything runs through BasicSR's own commands and option files: ``train_demo.yml``, ``test_demo.yml`` and, for the
network that ships with the package, ``test_demo_shipped.yml``. This program makes their LMDBs, from photographs that
come with scikit-image, and shows the results side by side.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

import airnet_basicsr.plugin  # noqa: F401  (before BasicSR: 1.4.2 cannot be imported without its repairs)

# ruff: isort: split
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from basicsr.utils.lmdb_util import LmdbMaker
from skimage import data

from airnet_basicsr.errors import InputError, end_in_one_line
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.plugin.data.synthesis import RESIDE_AIRLIGHTS, RESIDE_BETAS, add_haze, add_rain, estimate_depth
from airnet_basicsr.plugin.options import read_options

DATASETS = Path('datasets/demo')
TILE = 128  # training images are cut to tiles of at least this many pixels, each with its own rain and haze
GAP = 8  # pixels between the training and the validation part of a photograph
HIGHEST = 60.0  # dB; of a clean picture that comes back as it was
SHOWN = ('astronaut', 'coffee', 'chelsea', 'coffee', 'motorcycle', 'rocket')  # in the panel, by test set


def photographs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Photographs (uint8, H x W x 3, RGB) with their depth (see :func:`add_haze`), by name."""
    images = {
        'astronaut': data.astronaut(),
        'chelsea': data.chelsea(),
        'coffee': data.coffee(),
        'rocket': data.rocket(),
    }
    scenes = {name: (image, estimate_depth(image)) for name, image in images.items()}
    motorcycle, _, disparity = data.stereo_motorcycle()
    # True depth, up to its unit, is one over the disparity. Where the scanner saw nothing, its surroundings stand in.
    seen = np.isfinite(disparity) & (disparity > 0)
    nearest = disparity[seen].max()
    known = np.where(seen, 255 * disparity / nearest, 0).astype(np.uint8)
    nearness = cv2.inpaint(known, (~seen).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    scenes['motorcycle'] = motorcycle, 2 * 255 / np.maximum(nearness, 25)
    return scenes


def _tiles(image: np.ndarray) -> list[tuple[slice, slice]]:
    rows, columns = (np.linspace(0, side, side // TILE + 1).astype(int) for side in image.shape[:2])
    return [
        (slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1]))
        for i in range(len(rows) - 1)
        for j in range(len(columns) - 1)
    ]


def make_datasets(folder: Path) -> None:
    """Write the LMDBs ``{clean,rain,haze}_{train,val}.lmdb``, of disjoint parts of each photograph."""
    partial = folder.with_name(folder.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    makers = {
        f'{kind}_{part}': LmdbMaker(str(partial / f'{kind}_{part}.lmdb'), map_size=2**28)
        for kind in ('clean', 'rain', 'haze')
        for part in ('train', 'val')
    }
    rng = np.random.RandomState(0)

    def put(part: str, key: str, image: np.ndarray, depth: np.ndarray, window: tuple[slice, slice]) -> None:
        rain = add_rain(image, rng, angle=rng.uniform(-30, 30), density=rng.uniform(0.003, 0.008))
        haze = add_haze(image, depth, rng.choice(RESIDE_AIRLIGHTS), rng.choice(RESIDE_BETAS[:4]))
        for kind, whole in (('clean', image), ('rain', rain), ('haze', haze)):
            cut = whole[window]
            content = cv2.imencode('.png', cv2.cvtColor(cut, cv2.COLOR_RGB2BGR))[1].tobytes()
            makers[f'{kind}_{part}'].put(content, key, cut.shape)

    for name, (image, depth) in photographs().items():
        # The right third is held out.
        border = image.shape[1] * 2 // 3
        for number, window in enumerate(_tiles(image[:, : border - GAP])):
            put('train', f'{name}_{number:02d}', image, depth, window)
        put('val', name, image, depth, (slice(None), slice(border, None)))
    for maker in makers.values():
        maker.close()
    partial.rename(folder)


def run(command: str, options: Path) -> None:
    """Run BasicSR's command ``basicsr/<command>.py`` on an option file; ends this program where it fails."""
    line = [sys.executable, f'basicsr/{command}.py', '-opt', str(options)]
    print(f'\n$ python {" ".join(line[1:])}', flush=True)
    status = subprocess.run(line).returncode
    if status:
        sys.exit(status)


def report(tests: Mapping[str, Path]) -> Path:
    """Print a table of input and restored PSNR/SSIM, by degradation; write the picture panel and give its path.

    Args:
        tests: The option files of tests on the same datasets, by what their networks are called; the panel goes to the
            results of the first.
    """
    opts = {network: read_options(options) for network, options in tests.items()}
    first = next(iter(opts.values()))
    rows, panel = [], []
    for dataset_opt, shown in zip(first['datasets'].values(), SHOWN, strict=True):
        dataset = build_dataset({**dataset_opt, 'phase': 'test'})
        scores = []
        for item in dataset:
            name = Path(item['lq_path']).stem
            pictures = [
                *(tensor2img([item[kind]]) for kind in ('gt', 'lq')),
                *(cv2.imread(str(_restored(opt['name'], dataset_opt['name'], name))) for opt in opts.values()),
            ]
            clean, *others = pictures
            scores.append([(min(calculate_psnr(x, clean, 0), HIGHEST), calculate_ssim(x, clean, 0)) for x in others])
            if name == shown:
                captions = [
                    f'{what}: {psnr:.1f} dB' for what, (psnr, _) in zip(('input', *opts), scores[-1], strict=True)
                ]
                panel.append(_panel_column(pictures, (dataset_opt['name'], *captions)))
        rows.append((dataset_opt['name'], len(dataset), np.mean(scores, axis=0)))
    heads = ''.join(f'{network + " PSNR / SSIM":>23}{"gain":>11}' for network in opts)
    print(f'\n{"degradation":<12}{"images":>7}{"input PSNR / SSIM":>21}{heads}')
    for name, count, (before, *after) in rows:
        line = f'{name:<12}{count:>7}{_figures(before):>21}'
        print(line + ''.join(f'{_figures(pair):>23}{pair[0] - before[0]:>+8.2f} dB' for pair in after))
    path = Path('results') / first['name'] / 'panel.png'
    write_whole(path, cv2.imencode('.png', np.hstack(panel))[1].tobytes())
    return path


def _figures(pair: Sequence[float]) -> str:
    return f'{pair[0]:.2f} / {pair[1]:.4f}'


def _restored(test: str, dataset: str, name: str) -> Path:
    return Path('results') / test / 'visualization' / dataset / f'{name}_{test}.png'


def _panel_column(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """The lower middle of each picture, one above the other with captions: uint8, BGR."""
    height, width = 150, 150
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        top, left = (picture.shape[0] - height) * 2 // 3, (picture.shape[1] - width) // 2
        cell = cv2.resize(picture[top : top + height, left : left + width], None, fx=2, fy=2)
        cell = cv2.copyMakeBorder(cell, 0, 28, 0, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        cells.append(cv2.putText(cell, caption, (4, 2 * height + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, 16))
    return np.vstack(cells)


def main() -> None:
    """Run the demo from a checkout's root."""
    end_in_one_line()
    train = Path('options/train_demo.yml')
    tests = {'demo': Path('options/test_demo.yml'), 'shipped': Path('options/test_demo_shipped.yml')}
    if not train.is_file():
        raise InputError('the demo runs in a checkout of airnet-basicsr: change to its root, or type `make demo` there')
    started = time.monotonic()
    if not DATASETS.is_dir():
        print(f'Making LMDBs of photographs in {DATASETS}')
        make_datasets(DATASETS)
    run('train', train)
    for test in tests.values():
        run('test', test)
    panel = report(tests)
    print(
        '\ndemo: the network that was just trained; shipped: the one that comes with the package, which never saw them.'
    )
    print(f'Clean, degraded and restored pictures: {panel}')
    print(f'The whole demo took {(time.monotonic() - started) / 60:.1f} minutes.')


if __name__ == '__main__':
    main()
