"""Images as datasets hold them: pixels the right way up, and LMDBs in BasicSR's format. Needs neither of the two."""

import codecs
import io
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

from airnet_basicsr.errors import InputError

_ORIENTATION = 0x0112
# Bytes without which no format tells an orientation: looking for them costs less than opening the image once more.
_TURNING = (b'Exif\0\0', b'EXIF', b'eXIf', b'Raw profile type', b'XML:com.adobe.xmp', b'tiff:Orientation')
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# LMDB's own structures, with the sizes that this machine's library gives them: the head of a page; magic number,
# version, address and size of the map; two tables; the last page in use and the transaction that wrote all this.
_PAGE = struct.Struct('@NHHHH')
_META = struct.Struct('@IIPN' + 'IHHNNNNN' * 2 + 'NN')
_MAGIC, _VERSION = 0xBEEFC0DE, 1


def key_of(name: str) -> str:
    """The LMDB key for a file name without suffix: ASCII without dots, blanks or slashes, as BasicSR needs it.

    RESIDE's ``0001_0.8_0.04`` becomes ``0001_0p8_0p04``.
    """
    return re.sub(r'[^!-~]|[./\\]', '_', re.sub(r'(?<=\d)\.(?=\d)', 'p', name))


def size_of(path: str | Path) -> tuple[int, int]:
    """(h, w) of an image as it is displayed, from its header.

    Raises:
        OSError, ValueError, SyntaxError: It is no image that Pillow knows.
    """
    with PIL.Image.open(path) as image:
        width, height = image.size
        if image.format == 'TIFF':  # some versions of Pillow give the turned size there, some do not
            width, height = image.tag_v2[256], image.tag_v2[257]
        if image.format == 'PNG' and not _may_be_turned(Path(path).read_bytes()):
            return height, width  # Pillow would decode all of it to look behind the pixels
        return (width, height) if orientation_of(image) >= 5 else (height, width)


def orientation_of(image: PIL.Image.Image) -> int:
    """The orientation (1 to 8) that the EXIF or XMP data of an opened image names; of a TIFF before it is loaded."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _may_be_turned(data: bytes) -> bool:
    return data[:4] in _TIFF or any(sign in data for sign in _TURNING)


def decode(data: bytes, flags: int) -> np.ndarray | None:
    """An image's pixels the right way up, as its EXIF or XMP data has it; None if OpenCV cannot decode it.

    Which of its decoders turn an image by themselves depends on OpenCV's version: here they do not.

    Args:
        data: Content of the file.
        flags: OpenCV's, of the pixels: ``cv2.IMREAD_COLOR`` or ``cv2.IMREAD_UNCHANGED``.

    Returns:
        H x W or H x W x C, in OpenCV's order BGR.
    """
    orientation = 1
    if _may_be_turned(data):
        try:
            with PIL.Image.open(io.BytesIO(data)) as image:
                orientation = orientation_of(image)
        except (OSError, ValueError, SyntaxError):
            pass  # nothing that Pillow knows, or a damaged header: OpenCV will say
    if data[:4] in _TIFF and orientation != 1:
        data = _without_orientation(data)
    if flags != cv2.IMREAD_UNCHANGED:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    return pixels if pixels is None else _turned(pixels, orientation)


def _without_orientation(tiff: bytes) -> bytes:
    """The same TIFF with orientation 1: OpenCV turns TIFFs whatever its flags say, in some versions wrongly."""
    order, big = ('<' if tiff[:1] == b'I' else '>'), 43 in tiff[2:4]
    (directory,) = struct.unpack_from(order + 'Q', tiff, 8) if big else struct.unpack_from(order + 'L', tiff, 4)
    (count,) = struct.unpack_from(order + ('Q' if big else 'H'), tiff, directory)
    head, entry = (8, 20) if big else (2, 12)
    out = bytearray(tiff)
    for at in range(directory + head, directory + head + count * entry, entry):
        if struct.unpack_from(order + 'H', tiff, at) == (_ORIENTATION,):
            struct.pack_into(order + 'H', out, at + entry - (8 if big else 4), 1)
    return bytes(out)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


class Entry(NamedTuple):
    """A line of ``meta_info.txt``.

    Attributes:
        key: In the LMDB.
        shape: (h, w, c), or () where the line does not tell.
        clean: Key of the clean image in the partner LMDB; empty if it is the same.
    """

    key: str
    shape: tuple[int, ...]
    clean: str


def is_lmdb(folder: Path) -> bool:
    """Whether ``folder`` is an LMDB, or is named as one."""
    return folder.suffix == '.lmdb' or (folder / 'data.mdb').is_file()


def read_lmdb_list(folder: Path) -> list[Entry]:
    """What the LMDB ``folder`` holds, by its ``meta_info.txt``, after a look at whether its data is whole.

    Raises:
        InputError: It is no LMDB in BasicSR's format, or its data was cut short.
    """
    meta = folder / 'meta_info.txt'
    if not meta.is_file() or not (folder / 'data.mdb').is_file():
        raise InputError(f"{folder} is no LMDB in BasicSR's format (data.mdb with meta_info.txt)")
    _check_whole(folder / 'data.mdb')
    return [_entry(meta, number, line) for number, line in enumerate(_text(meta).splitlines(), 1) if line.strip()]


def _text(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes it
    try:
        return data.decode('utf-16' if utf16 else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is neither UTF-8 nor UTF-16 ({error.reason}): save it as UTF-8') from error


def _entry(meta: Path, number: int, line: str) -> Entry:
    key = line.split('.')[0].strip()
    shape = re.search(r'\(([\d, ]+)\)(.*)', line)
    if not key.isascii():
        raise InputError(f'{meta}, line {number}: the key {key!r} is not ASCII, and BasicSR finds no such keys')
    columns = shape[2].split() if shape else []
    sides = tuple(int(side) for side in shape[1].split(',') if side.strip()) if shape else ()
    return Entry(key, sides, columns[1] if len(columns) > 1 else '')


def _check_whole(path: Path) -> None:
    """Reading what is missing of a file cut short would end the process by a bus error, without a word."""
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(_PAGE.size + _META.size)
        if len(head) < _PAGE.size + _META.size:
            raise InputError(f'{path} is no LMDB: it has {size} bytes. Copy or prepare it again.')
        first = _META.unpack_from(head, _PAGE.size)
        page = first[4]  # LMDB keeps the size of its pages in a field of the first table
        if first[:2] != (_MAGIC, _VERSION) or page < 256:
            raise InputError(f'{path} is no LMDB of the kind that this machine reads. Copy or prepare it again.')
        file.seek(page)
        head = file.read(_PAGE.size + _META.size).ljust(_PAGE.size + _META.size, b'\0')
    newest = max(first, _META.unpack_from(head, _PAGE.size), key=lambda meta: meta[-1])
    needed = page * max(2, newest[-2] + 1)
    if size < needed:
        raise InputError(f'{path} was cut short: {size} of {needed} bytes are there. Copy or prepare it again.')
