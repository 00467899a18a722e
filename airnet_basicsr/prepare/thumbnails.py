"""Whether two files show one photograph, by their thumbnails: also if one was compressed, resized or is rainy."""

from pathlib import Path

import cv2
import lmdb
import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.prepare.layouts import own_files
from airnet_basicsr.prepare.workers import Progress, ordered
from airnet_basicsr.restore.stored_images import decode, is_lmdb, read_lmdb_list

SAME = 0.97
"""Correlation of thumbnails from which on two pictures count as one photograph."""

_SIDE = 16


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A picture (uint8, H x W x 3, BGR) as 256 numbers, float32, of mean 0 and deviation 1."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32).ravel()
    return (small - small.mean()) / (small.std() + 1e-3)


def likeness(thumbnails: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlations, N x M, of thumbnails (N x 256) with others (M x 256)."""
    return thumbnails @ others.T / thumbnails.shape[1]


def find_leaks(training: list[Path], testing: list[Path], workers: int, progress: Progress) -> list[tuple[str, str]]:
    """(test picture, training picture) of each test picture that a training set shows too, turned or mirrored or not.

    Args:
        training: Folders or LMDBs.
        testing: Folders or LMDBs.
        workers: Number of processes.
        progress: Shows how far it is.

    Raises:
        InputError: A folder without pictures, or a picture that cannot be decoded.
    """
    sides = []
    for paths in (training, testing):
        places = [place for path in paths for place in _places(path)]
        sides.append((places, np.stack(list(progress(ordered(_thumbnail_at, places, workers), len(places))))))
    (seen, known), (tested, wanted) = sides
    turned = wanted.reshape(-1, _SIDE, _SIDE)
    views = [np.rot90(view, quarter, (1, 2)) for view in (turned, turned[:, :, ::-1]) for quarter in range(4)]
    found = np.stack([likeness(view.reshape(len(tested), -1), known) for view in views]).max(0)
    best = found.argmax(1)
    return [
        (_shown(tested[row]), _shown(seen[best[row]])) for row in range(len(tested)) if found[row, best[row]] > SAME
    ]


_Place = tuple[str, str]
"""An LMDB and a key, or a file and an empty text."""


def _places(path: Path) -> list[_Place]:
    if is_lmdb(path):
        return [(str(path), entry.key) for entry in read_lmdb_list(path)]
    return [(name, '') for name, _ in own_files(path)]


def _shown(place: _Place) -> str:
    return f'{place[1]} in {place[0]}' if place[1] else place[0]


def _thumbnail_at(place: _Place) -> np.ndarray:
    path, key = place
    if key:
        with lmdb.open(path, readonly=True, lock=False, readahead=False) as opened, opened.begin() as transaction:
            data = transaction.get(key.encode()) or b''
    else:
        data = Path(path).read_bytes()
    image = decode(data, cv2.IMREAD_COLOR, '' if key else path)
    if image is None:
        raise InputError(f'{_shown(place)} cannot be decoded')
    return thumbnail(image)
