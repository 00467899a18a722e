"""The layouts of the sets that came after AirNet, and downloads made up in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from building import photographs, save

from airnet_basicsr.prepare.layouts import CDD11


class Made(NamedTuple):
    """One layout of a set. ``{}`` is a picture's number; ``KIND`` each of CDD-11's degradations.

    Attributes:
        dataset: What to type after ``airnet prepare``.
        clean: A clean picture below the download.
        degraded: A degraded one; '' where there are only clean ones.
        key: The key that they get.
        said: What the program says of the layout.
    """

    dataset: str
    clean: str
    degraded: str
    key: str
    said: str


class Pair(NamedTuple):
    """Two files of a download, or one, and their key."""

    key: str
    clean: Path
    degraded: Path | None


LAYOUTS = [Made(*row) for row in (
    ('gopro-train', 'train/GOPR0372_07_00/sharp/00004{}.png', 'train/GOPR0372_07_00/blur/00004{}.png',
     'GOPR0372_07_00_00004{}', 'SEQUENCE/blur,'),
    ('gopro-test', 'test/GOPR0384_11_00/sharp/00004{}.png', 'test/GOPR0384_11_00/blur/00004{}.png',
     'GOPR0384_11_00_00004{}', 'SEQUENCE/blur,'),
    ('gopro-gamma-train', 'train/GOPR0372_07_00/sharp/00004{}.png', 'train/GOPR0372_07_00/blur_gamma/00004{}.png',
     'GOPR0372_07_00_00004{}', 'blur_gamma'),
    ('gopro-gamma-test', 'test/GOPR0384_11_00/sharp/00004{}.png', 'test/GOPR0384_11_00/blur_gamma/00004{}.png',
     'GOPR0384_11_00_00004{}', 'blur_gamma'),
    ('gopro-train', 'target/GOPR0384_11_00-00000{}.png', 'input/GOPR0384_11_00-00000{}.png',
     'GOPR0384_11_00_00000{}', 'pairs (input, target)'),
    ('gopro-test', 'target/GOPR0384_11_00-00000{}.png', 'input/GOPR0384_11_00-00000{}.png',
     'GOPR0384_11_00_00000{}', 'pairs (input, target)'),
    ('gopro-train', 'target_crops/GOPR0384_11_00-00000{}_s001.png', 'input_crops/GOPR0384_11_00-00000{}_s001.png',
     'GOPR0384_11_00_00000{}_s001', 'crops'),
    ('lol-train', 'our485/high/{}.png', 'our485/low/{}.png', '{}', 'our485'),
    ('lol-test', 'eval15/high/{}.png', 'eval15/low/{}.png', '{}', 'eval15'),
    ('rain100h-train', 'rain_data_train_Heavy/norain/norain-{}x2.png', 'rain_data_train_Heavy/rain/norain-{}x2.png',
     '00{}', 'rain, norain'),
    ('rain100h-train', 'gt/norain-{}.png', 'rainy/rain-{}.png', '00{}', 'release (rainy, gt)'),
    ('rain100h-test', 'norain-00{}.png', 'rainy/rain-00{}.png', '00{}', 'rainy, norain-NNN'),
    ('rain100h-test', 'norain/norain-00{}.png', 'rain/X2/norain-00{}x2.png', '00{}', 'rain/X2'),
    ('rain100h-test', 'target/{}.png', 'input/{}.png', '00{}', 'release (input, target)'),
    ('snow100k-train', 'all/gt/city_read_0000{}.jpg', 'all/synthetic/city_read_0000{}.jpg',
     'city_read_0000{}', 'gt, synth'),
    ('snow100k-test', 'Snow100K-L/gt/winter_{}.jpg', 'Snow100K-L/synthetic/winter_{}.jpg', 'winter_{}', 'gt, synth'),
    ('raindrop-train', 'train/gt/{}_clean.png', 'train/data/{}_rain.png', '{}', 'gt, data'),
    ('raindrop-test', 'test_a/gt/{}_clean.png', 'test_a/data/{}_rain.png', '{}', 'gt, data'),
    ('outdoor-rain-train', 'train/gt/im_000{}.png', 'train/in/im_000{}_s80_a04.png', 'im_000{}_s80_a04', 'gt, in'),
    ('outdoor-rain-test', 'test/gt/im_000{}.png', 'test/in/im_000{}_s90_a05.png', 'im_000{}_s90_a05', 'gt, in'),
    ('sots-outdoor', 'gt/000{}_0.8_0.2.jpg', 'hazy/000{}_0.8_0.2.jpg', '000{}_0p8_0p2', 'equal names'),
    ('cdd11-train', 'train/clear/0000{}.png', 'train/KIND/0000{}.png', 'KIND_0000{}', 'clear, low, haze'),
    ('cdd11-test', 'test/clear/0000{}.png', 'test/KIND/0000{}.png', 'KIND_0000{}', 'clear, low, haze'),
    ('cdd11-train', 'train/target/KIND_0000{}.png', 'train/input/KIND_0000{}.png', 'KIND_0000{}', 'flat'),
    ('cdd11-test', 'target/KIND_0000{}.png', 'input/KIND_0000{}.png', 'KIND_0000{}', 'flat'),
    ('kodak24', 'kodim0{}.png', '', 'kodim0{}', 'kodimNN'),
    ('mcmaster', '{}.tif', '', '{}', 'N.tif'),
)]  # fmt: skip


def make_download(folder: Path, layout: Made, height: int = 140, width: int = 160) -> list[Pair]:
    """Two pictures of each kind in ``folder``. A degraded one is half as bright, plus 50 (and 8 more for each kind)."""

    def both() -> Iterator[Pair]:
        for place, image in enumerate(photographs(2, height, width), 1):
            for step, kind in enumerate(CDD11 if 'KIND' in layout.key else ('',)):
                key, clean, degraded = (
                    name.replace('KIND', kind).format(place) for name in (layout.key, layout.clean, layout.degraded)
                )
                save(folder / clean, image)
                if degraded:
                    save(folder / degraded, np.uint8(image // 2 + 50 + 8 * step))
                yield Pair(key, folder / clean, folder / degraded if degraded else None)

    return list(both())
