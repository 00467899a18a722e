"""Shared by all tests: photographs that come with scikit-image, in folders and LMDBs; programs as a user runs them.

Tests of `restore` need no BasicSR.
"""

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from reference_data import prepare, write_sources
from skimage import data

# Before PyTorch is imported, as in our own programs.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
# What pytest-xdist started divides the cores, as do the programs that its tests run.
if 'PYTEST_XDIST_WORKER_COUNT' in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ['PYTEST_XDIST_WORKER_COUNT'])
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, share)))
# A background shell has it ignored, which programs inherit: none of those that are tested would hear Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
if find_spec('torchvision'):
    # Before BasicSR: 1.4.2 cannot be imported without its repairs.
    import airnet_basicsr.plugin  # noqa: F401

ROOT = Path(__file__).parents[1]


def write_image(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def write_lmdb(path: Path, images: dict[str, np.ndarray]) -> Path:
    maker = pytest.importorskip('basicsr.utils.lmdb_util').LmdbMaker(str(path), map_size=2**28)
    for key, rgb in images.items():
        content = cv2.imencode('.png', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
        maker.put(content, key, rgb.shape)
    maker.close()
    return path


LARGEST = Image.MAX_IMAGE_PIXELS


@pytest.fixture(autouse=True)
def guarded(monkeypatch):
    """Pillow's guard against large images, which preparation switches off for its process: that of other tests, too."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', LARGEST)


@pytest.fixture(scope='session')
def photos() -> dict[str, np.ndarray]:
    """Seven pieces, of 96 x 104 pixels, of photographs: uint8 RGB by name."""
    sources = {
        'astronaut': data.astronaut(),
        'coffee': data.coffee(),
        'chelsea': data.chelsea(),
        'rocket': data.rocket(),
    }
    corners = [('astronaut', 0, 150), ('astronaut', 300, 200), ('coffee', 100, 100), ('coffee', 200, 300)]
    corners += [('chelsea', 60, 100), ('chelsea', 150, 200), ('rocket', 150, 300)]
    return {f'{name}{i}': sources[name][y : y + 96, x : x + 104] for i, (name, y, x) in enumerate(corners)}


@pytest.fixture(scope='session')
def reference_sources(tmp_path_factory, photos) -> dict[str, str]:
    """Small folders, by the names of `make reference`'s variables."""
    return write_sources(tmp_path_factory.mktemp('sources'), photos)


@pytest.fixture(scope='session')
def reference_data(tmp_path_factory, reference_sources) -> Path:
    """A folder with the datasets of options/reference/, small."""
    folder = tmp_path_factory.mktemp('reference')
    prepare(folder, reference_sources)
    return folder


def _three(photos: dict[str, np.ndarray], small: bool) -> dict[str, np.ndarray]:
    return {key: image[:33, :40] if small else image for key, image in list(photos.items())[2:5]}


@pytest.fixture(scope='session')
def paper_datasets(tmp_path_factory, photos) -> Path:
    """A folder with `datasets/`, laid out as options/*_airnet_aio.yml say, of few and small photographs."""
    root = tmp_path_factory.mktemp('paper')
    folder = root / 'datasets'
    folder.mkdir()
    for name in ('BSD400', 'WED', 'CBSD68'):
        write_lmdb(folder / f'{name}.lmdb', _three(photos, small=name == 'CBSD68'))
    for name in ('Rain100L_train', 'Rain100L_test', 'OTS', 'SOTS_outdoor'):
        clean = _three(photos, small=name in ('Rain100L_test', 'SOTS_outdoor'))
        write_lmdb(folder / f'{name}_gt.lmdb', clean)
        write_lmdb(folder / f'{name}_lq.lmdb', {key: np.uint8(image * 0.6 + 90) for key, image in clean.items()})
    return root


# Without what a browser asks its maker for.
_BROWSER = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking'
_BROWSER += ' --disable-component-update --disable-sync'


@pytest.fixture(scope='module')
def browser():
    """This machine's Chromium, driven by Playwright."""
    sync_api = pytest.importorskip('playwright.sync_api')
    programs = filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')))
    program = next(programs, None)
    if program is None:
        pytest.skip('there is no Chromium')
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=_BROWSER.split())
        yield chromium
        chromium.close()


def run_python(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run this interpreter as a user would; stdout and stderr together in ``stdout``."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
