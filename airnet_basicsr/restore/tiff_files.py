"""TIFF: its layouts read sample by sample, and written with depth, alpha, profile and EXIF."""

import io
import math
import struct
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.picture_metadata import Metadata

# Tags that describe how a TIFF stores its samples, or that are kept in another way; not to be copied to a new file.
_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284}
_LAYOUT |= {288, 289, 290, 291, 292, 293, 296, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 338}
_LAYOUT |= {339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 700, 34675, 34377}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)
_LZW = 5
_EXIF, _GPS = 0x8769, 0x8825
_SAVE_IT = 'save it as RGB with 8 or 16 bits, without compression or with Deflate'


def read_tiff(content: bytes, largest: float) -> tuple[np.ndarray | bytes, int | None, Metadata, list[str]]:
    """Samples of the one picture in a TIFF.

    Args:
        content: The file.
        largest: Pixels that a picture may have.

    Returns:
        uint8 or uint16, H x W or H x W x C with C from 2 to 4 and straight alpha, as stored, not turned; where Pillow
        is to decode them (JPEG, fax, CMYK, YCbCr, fewer than 8 bits; grey of 12), a file that says nothing of turning,
        since Pillow turns some right and makes garbage of others. The orientation, 1 to 8, or None where no tag tells;
        the metadata; and what was left out.

    Raises:
        InputError: It holds several pictures, or a layout that is not understood; the message continues a file's name.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        found = [page.aspage() for page in file.pages]
        pages = [page for page in found if not int(page.subfiletype or 0) & 5]  # neither a thumbnail nor a mask
        pages = pages or found[:1]
        stack = file.imagej_metadata or {} if file.is_imagej else {}
        count = max(len(pages), int(stack.get('images', 1)))
        if count > 1:
            raise InputError(f'holds {count} pictures (animation or pages): save them one by one')
        page = pages[0]
        left_out = [f'{len(file.pages) - 1} smaller pictures or masks in the same file'] if len(file.pages) > 1 else []
        if page.imagewidth * page.imagelength > largest:
            raise Image.DecompressionBombError
        pixels: np.ndarray | bytes | None = _pixels(page, content, left_out)
        tag, orientation = page.tags.get(274), None
        if tag is not None:
            orientation = int(tag.value) if tag.value in range(1, 9) else 1
            if pixels is None:
                one = struct.pack(f'{file.byteorder}H', 1)
                pixels = content[: tag.valueoffset] + one + content[tag.valueoffset + 2 :]
        return content if pixels is None else pixels, orientation, _metadata(page, content, left_out), left_out


def _value(page: tifffile.TiffPage, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


def _pixels(page: tifffile.TiffPage, content: bytes, left_out: list[str]) -> np.ndarray | None:
    planes = _value(page, 284, 1)
    if planes not in (1, 2):
        raise InputError(f'is a TIFF of an unknown planar configuration ({planes!r}): {_SAVE_IT}')
    bits = _value(page, 258, 1)
    bits = set(bits) if isinstance(bits, tuple) else {bits}
    formats = _value(page, 339, 1)
    formats = set(formats) if isinstance(formats, tuple) else {formats}
    if len(bits) > 1 or formats - {1, 4}:
        raise InputError(f'has samples of {_words(bits)} bits, or no whole numbers from 0: save it in RGB with 16 bits')
    depth, samples, photometric = bits.pop(), page.samplesperpixel, int(page.photometric)
    if depth > 16 or not depth:
        raise InputError(f'has samples of {depth} bits: save it in RGB with 16 bits')
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1}.get(photometric)
    jpeg = int(page.compression) in (6, 7, 34892)
    if colours is None or depth not in (8, 16) or jpeg:
        known = {5: 'CMYK', 6: 'YCbCr'}
        if (depth <= 8 and (colours or photometric in known)) or (depth == 16 and photometric == 5):
            if depth == 16:
                left_out.append('8 of its 16 bits, as CMYK becomes RGB')
            return None
        if depth == 12 and photometric == _BLACK_IS_ZERO and samples == 1:
            return None
        raise InputError(f'is a TIFF of {_name(page.photometric)} colours with {depth} bits: {_SAVE_IT}')
    extra = samples - colours
    if extra < 0:
        raise InputError(f'is a TIFF of {_name(page.photometric)} colours in {samples} samples: {_SAVE_IT}')
    kinds = _value(page, 338, ())
    kinds = [int(kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    if not kinds and extra == 1:
        kinds = [2]  # not as it should be, but so it is meant: Pillow and libtiff take it for alpha, too
    if extra and len(kinds) != extra:
        raise InputError(f'is a TIFF with {extra} extra samples of which {len(kinds)} are described: {_SAVE_IT}')
    planes = _samples(page, content)
    white = np.iinfo(planes.dtype).max
    alpha = next((i for i, kind in enumerate(kinds[:extra]) if kind in (1, 2, 999)), None)
    dropped = extra - (alpha is not None)
    if dropped:
        left_out.append(f'{dropped} extra channel{"s" * (dropped > 1)} of unknown meaning')
    colour = planes[..., :colours]
    if photometric == _WHITE_IS_ZERO:
        colour = white - colour
    elif photometric == _PALETTE:
        colour = _through_palette(page, colour[..., 0], depth)
    if alpha is None:
        return colour[..., 0] if colour.shape[2] == 1 else colour
    opacity = planes[..., colours + alpha]
    if kinds[alpha] == 1:
        wide, over = colour.astype(np.uint32), np.maximum(opacity, 1).astype(np.uint32)[..., None]
        # As Pillow divides; a colour brighter than its alpha is none.
        colour = np.where(opacity[..., None] > 0, np.minimum(wide * np.uint32(white) // over, white), 0)
    return np.concatenate((colour.astype(planes.dtype), opacity[..., None]), 2)


def _samples(page: tifffile.TiffPage, content: bytes) -> np.ndarray:
    """H x W x S, in the machine's byte order."""
    if page.imagedepth != 1 or not page.dataoffsets:
        raise InputError('is a TIFF without pixels, or with a third dimension')
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    # tifffile would fill in zeros.
    if len(segments) < math.prod(page.chunked) or any(
        size == 0 or offset + size > len(content) for offset, size in segments
    ):
        raise InputError('is cut short: parts of the picture are missing')
    if int(page.compression) in tifffile.TIFF.DECOMPRESSORS:
        planes = page.asarray()
        shape = page.samplesperpixel, page.imagelength, page.imagewidth
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            planes = planes.reshape(shape).transpose(1, 2, 0)
        planes = planes.reshape(*shape[1:], shape[0])
        return planes.astype(planes.dtype.newbyteorder('='), copy=False)
    if int(page.compression) != _LZW:
        raise InputError(f'is compressed with {_name(page.compression)}: install imagecodecs, or {_SAVE_IT}')
    return _unpacked(page, content)


def _unpacked(page: tifffile.TiffPage, content: bytes) -> np.ndarray:
    """:func:`_samples` for LZW, which tifffile leaves to imagecodecs: Pillow's libtiff unpacks the bytes."""
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    together = samples if page.planarconfig == 1 else 1
    dtype = np.dtype(f'{page.parent.byteorder}u{page.bitspersample // 8}')
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
    columns = page.tilewidth if page.is_tiled else width
    out = np.empty((height, width, samples), dtype.newbyteorder('='))
    down, across = -(-height // rows), -(-width // columns)
    places = [
        (plane, row * rows, column * columns)
        for plane in range(samples // together)
        for row in range(down)
        for column in range(across)
    ]
    segments = zip(places, page.dataoffsets, page.databytecounts, strict=True)
    for (plane, top, left), offset, size in segments:
        tall = rows if page.is_tiled else min(rows, height - top)
        packed = content[offset : offset + size]
        raw = _unlzw(packed, tall, columns * together * dtype.itemsize, page.fillorder)
        part = np.frombuffer(raw, dtype).reshape(tall, columns, together).astype(out.dtype)
        if page.predictor == 2:
            part = np.cumsum(part, axis=1, dtype=out.dtype)
        elif page.predictor != 1:
            raise InputError(f'is a TIFF with predictor {page.predictor}: {_SAVE_IT}')
        target = out[top : top + rows, left : left + columns, plane : plane + together]
        target[...] = part[: target.shape[0], : target.shape[1]]
    return out


def _unlzw(packed: bytes, height: int, width: int, fill_order: int) -> bytes:
    """height * width bytes, as the grey picture of a TIFF of its own."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, _LZW), (262, 3, 1), (266, 3, int(fill_order))]
    tags += [(273, 4, 8 + 2 + 10 * 12 + 4), (277, 3, 1), (278, 4, height), (279, 4, len(packed))]
    directory = b''.join(struct.pack('<HHII', code, kind, 1, value) for code, kind, value in tags)
    file = b'II*\0' + struct.pack('<IH', 8, len(tags)) + directory + bytes(4) + packed
    with TiffImagePlugin.TiffImageFile(io.BytesIO(file)) as image:
        return image.tobytes()


def _through_palette(page: tifffile.TiffPage, index: np.ndarray, depth: int) -> np.ndarray:
    table = np.asarray(_value(page, 320, ()))
    if depth != 8 or table.size != 3 * 256:
        raise InputError(f'is a TIFF with a palette that does not fit it: {_SAVE_IT}')
    return (table.reshape(3, 256).T // 256).astype(np.uint8)[index]


def _words(values: set) -> str:
    return ' and '.join(map(str, sorted(values)))


def _name(value: Any) -> str:
    name = getattr(value, 'name', None)
    return name.replace('_', ' ') if name else f'an unknown kind ({int(value)})'


def _metadata(page: tifffile.TiffPage, content: bytes, left_out: list[str]) -> Metadata:
    found = Metadata()
    profile, xmp, resources = (_value(page, code, None) for code in (34675, 700, 34377))
    if isinstance(profile, bytes) and profile:
        found['icc_profile'] = profile
    if isinstance(xmp, bytes | str) and xmp:
        found['xmp'] = xmp if isinstance(xmp, bytes) else xmp.encode()
    if isinstance(resources, bytes) and resources:
        found['photoshop'] = resources
    x, y, unit = (_value(page, code, None) for code in (282, 283, 296))
    with suppress(TypeError, ZeroDivisionError, ValueError):
        x, y = x[0] / x[1], y[0] / y[1]
        if x == y == 1:
            pass  # nobody prints so: what programs write that know of none
        elif x > 0 and y > 0 and int(unit or 2) in (2, 3):
            found['dpi'] = (x, y) if int(unit or 2) == 2 else (x * 2.54, y * 2.54)
        elif x > 0 and y > 0 and x != y:
            found['aspect'] = (x, y)
    if page.parent.is_bigtiff:
        if any(tag.code not in _LAYOUT for tag in page.tags):
            left_out.append('descriptive tags of a BigTIFF')
        return found
    try:
        exif = Image.Exif()
        exif.load(content)
        for tag in _LAYOUT:
            exif.pop(tag, None)
        packed = exif.tobytes() if len(exif) else b''
        if packed:
            found['exif'] = packed
    except Exception:  # tags of many programs break the rules; the picture matters more
        left_out.append('descriptive tags that break the rules of TIFF')
    return found


def encode_tiff(pixels: np.ndarray, metadata: Metadata) -> bytes:
    """``pixels`` (uint8 or uint16, H x W or H x W x C with C from 2 to 4) as a TIFF compressed with Deflate."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    extra: list[tuple] = []
    directories: dict[int, TiffImagePlugin.ImageFileDirectory_v2] = {}
    if 'exif' in metadata:
        exif = Image.Exif()
        exif.load(metadata['exif'])
        for tag, value in exif.items():
            if isinstance(value, str) and tag not in _LAYOUT and tag != 305:
                extra.append((tag, 's', 0, value.encode('utf-8', 'replace') + b'\0', True))
        for pointer in (_EXIF, _GPS):
            fields = TiffImagePlugin.ImageFileDirectory_v2(prefix=b'II')
            for tag, value in exif.get_ifd(pointer).items():
                if not isinstance(value, dict):
                    fields[tag] = value
            if len(fields):
                directories[pointer] = fields
                extra.append((pointer + 1, 'I', 1, 0, True))
    bytewise: tuple[tuple[int, Literal['xmp', 'photoshop']], ...] = ((700, 'xmp'), (34377, 'photoshop'))
    for code, key in bytewise:
        if key in metadata:
            extra.append((code, 'B', len(metadata[key]), metadata[key], True))
    resolution = metadata.get('dpi') or metadata.get('aspect')
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        byteorder='<',
        photometric='rgb' if channels > 2 else 'minisblack',
        planarconfig='contig' if channels > 1 else None,
        extrasamples=['unassalpha'] if channels in (2, 4) else None,
        compression='zlib',
        iccprofile=metadata.get('icc_profile'),
        resolution=(float(resolution[0]), float(resolution[1])) if resolution else None,
        resolutionunit=('INCH' if 'dpi' in metadata else 'NONE') if resolution else None,
        metadata=None,
        software=_software(metadata),
        extratags=extra,
    )
    return _with_directories(file.getvalue(), directories)


def _software(metadata: Metadata) -> str | bool:
    exif = Image.Exif()
    exif.load(metadata.get('exif', b''))
    name = exif.get(305)
    return name if isinstance(name, str) and name else False


def _with_directories(content: bytes, directories: dict[int, TiffImagePlugin.ImageFileDirectory_v2]) -> bytes:
    """``content`` with directories of EXIF at its end. tifffile does not write pointers to them, but stand-ins do."""
    for pointer, fields in directories.items():
        content += bytes(len(content) % 2)
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            at = file.pages.first.tags[pointer + 1].offset
        entry = struct.pack('<HHII', pointer, 4, 1, len(content))
        content = content[:at] + entry + content[at + 12 :] + fields.tobytes(len(content))
    return content
