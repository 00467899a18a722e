"""One image on its way from a file to an LMDB: what a worker process does."""

import io
import os
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import SUFFIXES as SUFFIXES
from airnet_basicsr.restore.image_files import decode_picture, to_depth

_KEPT = {'JPEG': 'jpg', 'PNG': 'png', 'WEBP': 'webp'}
# BasicSR's own level for LMDBs: quick to write and to read, some per cent larger than the smallest.
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


class Inspected(NamedTuple):
    """An image that can be decoded.

    Attributes:
        pixels: 8-bit RGB, turned upright.
        suffix: Of its format; empty where OpenCV need not read that.
        remark: Why it cannot be stored as it is (empty: it is an 8-bit colour image in a compressed format).
    """

    pixels: np.ndarray
    suffix: str
    remark: str

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def inspect(data: bytes, name: str = '') -> Inspected:
    """Decode an image completely, so that a damaged one is noticed. ``name``: of its file, whose suffix tells a TGA.

    Raises:
        ValueError: It cannot be decoded; truncated files included, which OpenCV may accept.
    """
    try:
        picture = decode_picture(data, name)
    except InputError as error:
        raise ValueError(str(error).removeprefix(name).strip()) from error
    pixels = picture.pixels
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind, mode = _kind(data)
    suffix = _KEPT.get(kind, '')
    remark = ''
    if pixels.dtype == np.uint16:
        remark = '16-bit, reduced to 8 bits'
    elif channels == 1:
        remark = 'grey, made three equal channels'
    elif channels != 3:
        remark = 'with alpha, which was dropped'
    elif mode != 'RGB':
        remark = f'{mode}, made RGB'
    elif picture.orientation != 1:
        remark = 'rotated by its EXIF data, turned upright'
    elif not suffix:
        remark = f'{kind}, stored as PNG'
    pixels = to_depth(pixels, 8)
    colours = pixels[..., :3] if channels > 2 else pixels.reshape(*pixels.shape[:2], -1)[..., [0, 0, 0]]
    return Inspected(np.ascontiguousarray(colours), suffix, remark)


def _kind(data: bytes) -> tuple[str, str]:
    """Format and colour model, in Pillow's words."""
    if data.startswith(b'\x89PNG'):
        return 'PNG', 'P' if data[25] == 3 else 'RGB'
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return str(image.format), image.mode if image.format in _KEPT else 'RGB'
    except (OSError, ValueError, SyntaxError):  # a TIFF, say, that tifffile alone can read
        return 'TIFF', 'RGB'


def process(job: Job, cut: Cut | None) -> Result:
    """Read, check and if need be convert the images of a job."""
    stored: list[Stored] = []
    remarks: list[str] = []
    for image in job:
        try:
            with open(image.path, 'rb') as file:
                data = file.read()
            found = inspect(data, image.path)
        except (OSError, ValueError) as error:
            return Result([], [], Failure(image.path, f'cannot be decoded ({error})'))
        if image.crop:
            remarks.append('cut around its centre to the size of its pair')
        if found.remark:
            remarks.append(found.remark)
        if not (cut or found.remark or image.crop):
            stored.append(_stored(image, image.key, data, found.suffix, found.size, 0))
            continue
        picture = cv2.cvtColor(found.pixels, cv2.COLOR_RGB2BGR)
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
    """Where sub-images start along a side, as in BasicSR's extract_subimages; the last one ends at the border."""
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
    if image.crop or not image.path.lower().endswith(('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp')):
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
