"""Images as datasets hold them: pixels the right way up, and LMDBs in BasicSR's format, without needing BasicSR."""

import codecs
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import asks_to_be_turned, decode_picture, to_depth

DEPTH_UNIT = 4096
"""Of a stored depth map (16-bit grey), for a depth of 1 on the scale on which RESIDE's scattering coefficients hold."""

# As the files begin that OpenCV reads as everybody does, but for turning.
_PLAIN = (b'\xff\xd8', b'\x89PNG', b'RIFF', b'BM', b'P6')
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


def decode(data: bytes, flags: int, name: str = '') -> np.ndarray | None:
    """An image's pixels the right way up, as its EXIF or XMP data has it; None if it cannot be decoded.

    Args:
        data: Content of the file.
        flags: OpenCV's, of the pixels: ``cv2.IMREAD_COLOR`` or ``cv2.IMREAD_UNCHANGED``.
        name: Of the file; its suffix tells a TGA.

    Returns:
        H x W or H x W x C, in OpenCV's order BGR.
    """
    if data.startswith(_PLAIN) and not asks_to_be_turned(data):
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:  # a size in the header that is beyond OpenCV's limits
            return None
    # Which formats OpenCV knows, and which of them it turns by itself, depends on its version.
    try:
        pixels = decode_picture(data, name).pixels
    except InputError:
        return None
    if flags == cv2.IMREAD_UNCHANGED:
        return (
            pixels if pixels.ndim == 2 or pixels.shape[2] == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]].copy()
        )
    pixels = to_depth(pixels, 8)
    colours = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] > 2 else np.atleast_3d(pixels)[..., [0, 0, 0]]
    return colours[..., ::-1].copy()


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
