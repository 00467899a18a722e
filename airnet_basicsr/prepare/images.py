"""One image on its way from a file to an LMDB: what a worker process does."""

import io
import os
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

from airnet_basicsr.stored_images import decode, orientation_of

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')
_KEPT = {'JPEG': 'jpg', 'PNG': 'png', 'WEBP': 'webp'}
# PIL's guard against images from strangers would stop large ones.
PIL.Image.MAX_IMAGE_PIXELS = None
# The toolbox's own level for LMDBs: quick to write and to read, some per cent larger than the smallest.
_WHOLE = (1, [cv2.IMWRITE_PNG_COMPRESSION, 1])
# Sub-images are for quick reading: not compressed they take 1.7 times the space and an eighth of the time to decode.
# 19 and 8 are IMWRITE_PNG_FILTER and IMWRITE_PNG_FILTER_NONE; OpenCV 4.11 and before lack the names and ignore them.
_PIECES = (0, [cv2.IMWRITE_PNG_COMPRESSION, 0, 19, 8])


class Image(NamedTuple):
    """One image to store.

    Attributes:
        store: Which LMDB: 0 clean, 1 degraded.
        path: Source file.
        key: Key in the LMDB.
        clean: Key of its clean image, where that differs from ``key``.
        size: (h, w) to be stored.
        crop: Whether the file is larger than that.
    """

    store: int
    path: str
    key: str
    clean: str
    size: tuple[int, int]
    crop: bool


# Images that are stored together or, if one is unusable, not at all.
Job = tuple[Image, ...]


class Failure(NamedTuple):
    """A file that cannot be used, and why."""

    path: str
    reason: str


class Stored(NamedTuple):
    """One value of an LMDB, with what its line in meta_info.txt says."""

    store: int
    key: str
    data: bytes
    line: str


class Result(NamedTuple):
    """What became of a job: values to store and remarks to count, or what failed."""

    stored: list[Stored]
    remarks: list[str]
    failure: Failure | None = None


class Cut(NamedTuple):
    """Sub-images: side and step in pixels."""

    size: int
    step: int


def inspect(data: bytes) -> tuple[tuple[int, int], str, str]:
    """Decode an image completely, so that a damaged one is noticed.

    Returns:
        (h, w); the suffix of its format; and why it cannot be stored as it is (empty: it is an 8-bit colour image in a
        compressed format).

    Raises:
        OSError, ValueError, SyntaxError: It cannot be decoded; truncated files included, which OpenCV may accept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        image = PIL.Image.open(io.BytesIO(data))
        turned = image.format == 'TIFF' and orientation_of(image) != 1  # Pillow forgets that in turning it
        image.load()
        turned = turned or orientation_of(image) != 1
    suffix = _KEPT.get(image.format, '')
    remark = ''
    # PIL gives 16-bit colour PNGs as 8 bits; the file's header says what they are.
    if (image.format == 'PNG' and data[24] == 16) or image.mode[0] in 'IF':
        remark = '16-bit, reduced to 8 bits'
    elif image.mode in ('L', '1'):
        remark = 'grey, made three equal channels'
    elif image.mode != 'RGB' or 'transparency' in image.info:
        alpha = image.mode.endswith('A') or 'transparency' in image.info
        remark = 'with alpha, which was dropped' if alpha else f'{image.mode}, made RGB'
    elif turned:
        remark = 'rotated by its EXIF data, turned upright'
    elif not suffix:
        remark = f'{image.format}, stored as PNG'
    return (image.height, image.width), suffix, remark


def process(job: Job, cut: Cut | None) -> Result:
    """Read, check and if need be convert the images of a job."""
    stored: list[Stored] = []
    remarks: list[str] = []
    for image in job:
        try:
            with open(image.path, 'rb') as file:
                data = file.read()
            size, suffix, remark = inspect(data)
        except (OSError, ValueError, SyntaxError) as error:
            return Result([], [], Failure(image.path, f'cannot be decoded ({error})'))
        if image.crop:
            remarks.append('cut around its centre to the size of its pair')
        if remark:
            remarks.append(remark)
        if not (cut or remark or image.crop):
            stored.append(_stored(image, image.key, data, suffix, size, 0))
            continue
        picture = decode(data, cv2.IMREAD_COLOR)
        if picture is None:
            return Result([], [], Failure(image.path, 'cannot be decoded by OpenCV'))
        height, width = image.size
        found = picture.shape[:2]
        if min(found[0] - height, found[1] - width) < 0 or (not image.crop and found != image.size):
            return Result([], [], Failure(image.path, f'has {found[1]}x{found[0]} pixels, other than its header says'))
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        picture = picture[top : top + height, left : left + width]
        for key, piece in _pieces(image.key, picture, cut):
            level, flags = _PIECES if cut else _WHOLE
            png = cv2.imencode('.png', piece, flags)[1].tobytes()
            part = key[len(image.key) :]
            stored.append(_stored(image, key, png, 'png', piece.shape[:2], level, part))
    return Result(stored, remarks)


def positions(length: int, cut: Cut) -> list[int]:
    """Where sub-images start along a side, as in the toolbox's extract_subimages; the last one ends at the border."""
    starts = list(range(0, max(length - cut.size, 0) + 1, cut.step))
    if starts[-1] + cut.size < length:
        starts.append(length - cut.size)
    return starts


def expected_bytes(image: Image, cut: Cut | None) -> int:
    """What ``image`` is likely to take in an LMDB, rather more than less."""
    height, width = image.size
    if cut:
        side = min(cut.size, height), min(cut.size, width)
        pieces = len(positions(height, cut)) * len(positions(width, cut))
        return pieces * _pages(side[0] * side[1] * 3 + 1000)
    if image.crop or not image.path.lower().endswith(('.jpg', '.jpeg', '.png', '.webp')):
        return _pages(height * width * 3 * 7 // 10)
    return _pages(os.path.getsize(image.path))


def _pages(size: int) -> int:
    return (size + 16 + 4095) // 4096 * 4096


def _pieces(key: str, picture: np.ndarray, cut: Cut | None) -> list[tuple[str, np.ndarray]]:
    if not cut:
        return [(key, picture)]
    starts = [(y, x) for y in positions(picture.shape[0], cut) for x in positions(picture.shape[1], cut)]
    return [(f'{key}_s{number:03d}', picture[y : y + cut.size, x : x + cut.size])
            for number, (y, x) in enumerate(starts, 1)]  # fmt: skip


def _stored(
    image: Image, key: str, data: bytes, suffix: str, size: tuple[int, int], level: int, part: str = ''
) -> Stored:
    line = f'{key}.{suffix} ({size[0]},{size[1]},3) {level}'
    return Stored(image.store, key, data, f'{line} {image.clean}{part}\n' if image.clean else f'{line}\n')
