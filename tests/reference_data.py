"""Small folders as `make reference` wants them, and the data that it makes of them."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]


def write_sources(folder: Path, photos: dict[str, np.ndarray]) -> dict[str, str]:
    """Photographs, pairs of rain and of haze in the real sets' layouts, and Kodak's place; BGR pictures of any size."""
    images = [cv2.resize(image, (160, 144), interpolation=cv2.INTER_CUBIC) for image in photos.values()]
    rng = np.random.RandomState(0)

    def write(name: str, image: np.ndarray) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), image)

    for i, image in enumerate(images):
        write(f'bsd/photo{i}.png', image)
        write(f'more/other{i}.png', image[:, ::-1])
    for i, image in enumerate(images[:3], 1):
        turned = image[::-1]
        streaks = (rng.rand(*image.shape[:2], 1) > 0.97) * 80
        write(f'rain/norain-{i:03}.png', turned)
        write(f'rain/rainy/rain-{i:03}.png', np.clip(turned + streaks, 0, 255).astype(np.uint8))
        depth = np.linspace(6, 1, len(image))[:, None, None]
        t = np.exp(-0.1 * depth)
        write(f'haze/clear/{i:04}.png', image)
        write(f'haze/hazy/{i:04}_0.9_0.1.png', np.rint(image * t + 255 * 0.9 * (1 - t)).astype(np.uint8))
    for i, image in enumerate(images[:2]):
        write(f'kodak/kodim{i:02}.png', image[:96, :96])
    return {
        'PHOTOS': f'{folder / "bsd"} {folder / "more"}',
        **{name: str(folder / name.lower()) for name in ('RAIN', 'HAZE', 'KODAK')},
    }


def prepare(folder: Path, sources: dict[str, str]) -> None:
    """The data of options/reference/ below ``folder``/datasets, one of each held out."""
    (folder / 'datasets_prep').symlink_to(ROOT / 'datasets_prep')
    environment = {**os.environ, 'PYTHON': sys.executable, 'HOLD_OUT': '1 1 1'}
    command = ['sh', ROOT / 'datasets_prep/reference.sh', *sources.values()]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=600)
