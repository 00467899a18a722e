"""Download folders made from real photographs, and what comes out of them."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import skimage.data

ROOT = Path(__file__).resolve().parents[2]
PREPARE = [sys.executable, str(ROOT / 'datasets_prep' / 'prepare.py')]
RESIDE = [f'{a}_{b}' for a in ('0.8', '0.85', '0.9', '0.95', '1') for b in ('0.04', '0.06', '0.08', '0.1', '0.12',
                                                                              '0.16', '0.2')]  # fmt: skip


def photographs(count: int, height: int = 140, width: int = 160) -> list[np.ndarray]:
    """Different pieces of scikit-image's photographs: uint8, BGR."""
    whole = [getattr(skimage.data, name)() for name in ('astronaut', 'coffee', 'chelsea', 'rocket')]
    pieces = []
    for step in range(count):
        photo = whole[step % len(whole)]
        top, left = 23 * step % (photo.shape[0] - height), 31 * step % (photo.shape[1] - width)
        pieces.append(photo[top : top + height, left : left + width, ::-1].copy())
    return pieces


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def prepare(*words: object, **options: object) -> subprocess.CompletedProcess:
    """Run datasets_prep/prepare.py in its own process."""
    return subprocess.run([*PREPARE, *map(str, words)], capture_output=True, text=True, timeout=300, **options)


def content(path: Path) -> tuple[dict[bytes, bytes], str]:
    """Everything in an LMDB: its values by key, and meta_info.txt."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return dict(transaction.cursor()), (path / 'meta_info.txt').read_text()


def pictures(path: Path) -> dict[str, np.ndarray]:
    return {
        key.decode(): cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED)
        for key, value in content(path)[0].items()
    }


def reside(folder: Path, clean: int, hazy_each: int, haze: str = 'haze/part1', clear: str = 'clear') -> None:
    """An OTS-like folder: clear/IIII.jpg and haze/part1/IIII_A_B.jpg."""
    for number, image in enumerate(photographs(clean), 1):
        save(folder / clear / f'{number:04d}.jpg', image)
        for step, setting in enumerate(RESIDE[:hazy_each]):
            save(folder / haze / f'{number:04d}_{setting}.jpg', cv2.addWeighted(image, 0.7, image, 0, 40 + step))


def in_no_process(*pids: int) -> bool:
    return not any(os.path.exists(f'/proc/{pid}') and 'Z' not in _state(pid) for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return 'Z'
