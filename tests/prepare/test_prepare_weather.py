"""Streaks and depth taken out of pairs: what they are laid on again is the pair."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from building import photographs, prepare, save

from airnet_basicsr.prepare.weather import depth_of

AIRLIGHT, BETA = 0.9, 0.12


def _depth(height: int, width: int) -> np.ndarray:
    """Far at the top, with a nearer step on the right."""
    depth = np.tile(np.linspace(14, 3, height, dtype=np.float32)[:, None], (1, width))
    depth[:, width // 2 :] *= 0.6
    return depth


def _hazy(clean: np.ndarray, depth: np.ndarray, beta: float = BETA) -> np.ndarray:
    t = np.exp(-beta * depth)[..., None]
    return np.uint8(np.rint(clean * t + 255 * AIRLIGHT * (1 - t)))


@pytest.fixture(scope='module')
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in two folders, three rainy pairs (the last of a photograph that is there), two hazy scenes."""
    root = tmp_path_factory.mktemp('weather')
    rng = np.random.RandomState(0)
    pictures = photographs(12)
    for number, image in enumerate(pictures[:6]):
        save(root / ('first' if number < 4 else 'second') / f'photo{number}.png', image)
    for number, image in ((1, pictures[6]), (2, pictures[7]), (3, cv2.resize(pictures[2], None, fx=1.1, fy=1.1))):
        streaks = np.uint8(rng.choice((0, 90), image.shape[:2], p=(0.9, 0.1)))
        rainy = np.clip(image.astype(int) + streaks[..., None], 0, 255).astype(np.uint8)
        save(root / 'rain' / f'norain-{number:03d}.png', image)
        save(root / 'rain' / 'rainy' / f'rain-{number:03d}.png', rainy)
        cv2.imwrite(str(root / f'layer{number}.png'), streaks)
    for number, image in enumerate(photographs(10, 200, 240)[8:], 1):
        save(root / 'haze' / 'clear' / f'{number:04d}.png', image)
        for beta in (0.06, BETA):
            save(root / 'haze' / 'hazy' / f'{number:04d}_{AIRLIGHT}_{beta}.png', _hazy(image, _depth(200, 240), beta))
    return root


def _words(sources: Path, out: Path, *held: int) -> list[object]:
    folders = '--photos', sources / 'first', sources / 'second', '--rain', sources / 'rain', '--haze', sources / 'haze'
    return ['weather', *folders, '--out', out, '--hold-out', *held]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_taken_out_of_pairs(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    done = prepare(*_words(sources, out, 1, 1, 1))
    assert done.returncode == 0, done.stderr
    assert '1 photographs are left out' in done.stdout
    assert _names(out / 'clean') == ['photo0.png', 'photo1.png', 'photo3.png', 'photo4.png']
    assert _names(out / 'val_clean') == ['photo5.png']
    assert _names(out / 'val_rain_gt') == _names(out / 'val_rain_lq') == ['norain-003.png']
    assert _names(out / 'scenes') == _names(out / 'depth') == ['0001.png']
    hazy = ['0002_0.9_0.06.png', '0002_0.9_0.12.png']
    assert _names(out / 'val_haze_gt') == _names(out / 'val_haze_lq') == hazy
    assert (out / 'clean' / 'photo0.png').read_bytes() == (sources / 'first' / 'photo0.png').read_bytes()
    # A layer is what was added, but where all three channels were clipped.
    for number in (1, 2):
        layer, expected = (cv2.imread(str(path), -1) for path in (out / f'streaks/rain-{number:03d}.png',
                                                                 sources / f'layer{number}.png'))  # fmt: skip
        clean = cv2.imread(str(sources / f'rain/norain-{number:03d}.png'))
        assert layer.dtype == np.uint8 and layer.ndim == 2
        np.testing.assert_array_equal(layer[clean.min(2) <= 165], expected[clean.min(2) <= 165])
    depth = cv2.imread(str(out / 'depth' / '0001.png'), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    clean, hazy = (cv2.imread(str(sources / 'haze' / name)) for name in ('clear/0001.png', 'hazy/0001_0.9_0.12.png'))
    assert np.abs(_hazy(clean, depth / 4096).astype(int) - hazy).mean() < 1
    # Also as thick as it never was.
    thick = _hazy(clean, _depth(200, 240), 2 * BETA).astype(int)
    assert np.abs(_hazy(clean, depth / 4096, 2 * BETA) - thick).mean() < 2

    before = {path: path.stat().st_mtime_ns for path in out.rglob('*.png')}
    (out / 'depth' / '0001.png').unlink()
    again = prepare(*_words(sources, out, 1, 1, 1))
    assert again.returncode == 0 and 'are there already' in again.stdout
    after = {path: path.stat().st_mtime_ns for path in out.rglob('*.png')}
    assert after.keys() == before.keys() and sum(after[path] != before[path] for path in before) == 1


def test_depth_where_the_picture_is_as_bright_as_the_air() -> None:
    clean, depth = photographs(1, 200, 240)[0], _depth(200, 240)
    clean[40:60, 60:90] = round(255 * AIRLIGHT)
    found = depth_of(clean, _hazy(clean, depth), AIRLIGHT, BETA)
    assert np.abs(found - depth)[40:60, 60:90].mean() < 2
    assert np.abs(found - depth).mean() < 1


def test_what_cannot_be_done_is_said(sources: Path, tmp_path: Path) -> None:
    for held, message in (((3, 1, 1), '3 rainy pairs'), ((1, 2, 1), '2 hazy scenes'), ((1, 1, 2), '2 photographs in')):
        done = prepare(*_words(sources, tmp_path / 'out', *held))
        assert done.returncode == 1 and message in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()
    save(tmp_path / 'mine' / 'photo.png', photographs(1)[0])
    done = prepare(*_words(sources, tmp_path / 'mine', 1, 1, 1))
    assert done.returncode == 1 and 'is not empty' in done.stderr
