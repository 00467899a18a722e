"""People's pictures: reading and writing files of common formats with their depth, alpha, profile and metadata."""

import io
import os
import re
import struct
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole

FORMATS = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.webp': 'WEBP',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
    '.bmp': 'BMP',
}
"""Formats that are written, by suffix."""
SUFFIXES = (*FORMATS, '.gif')
"""Suffixes of pictures; a GIF is named so that people hear why it is not restored."""
DEEP_FORMATS = ('PNG', 'TIFF')
"""Formats with 16 bits."""

_ORIENTATION = 0x0112
# What the eight EXIF orientations ask for, as array operations; those from 5 on swap height and width.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
# Tags that describe how a TIFF stores its samples, or that are kept in another way; not to be copied to a new file.
_TIFF_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 301, 317, 320}
_TIFF_LAYOUT |= {321, 322, 323, 324, 325, 330, 332, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532, 700, 34675}


class Picture(NamedTuple):
    """A picture as its file holds it, turned upright."""

    pixels: np.ndarray
    """uint8 or uint16: H x W (grey), or H x W x C with C = 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)."""
    metadata: dict[str, Any]
    """What Pillow's ``save`` takes: ``icc_profile``, ``exif``, ``xmp``, ``dpi``, ``comment``; ``text`` for PNG."""
    lossless: bool
    """Whether its file keeps every value; decides how a WebP is written."""


def read_picture(path: str | PathLike) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF or BMP file.

    The EXIF orientation is applied and taken out of the metadata; palettes become RGB; CMYK becomes RGB through its
    profile.

    Raises:
        InputError: The file cannot be opened or decoded, is cut short, holds several pictures, or samples of a kind
            that is not supported.
    """
    path = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path} cannot be opened: {error.strerror}') from error
    if not content:
        raise InputError(f'{path} is empty (0 bytes)')
    try:
        return _decode(content)
    except InputError as error:
        raise InputError(f'{path} {error}') from error
    except UnidentifiedImageError as error:
        if content[:4] in (b'II*\0', b'MM\0*'):
            raise InputError(f'{path} is damaged or a rare kind of TIFF: save it in RGB with 16 bits') from error
        raise InputError(f'{path} is no PNG, JPEG, WebP, TIFF or BMP picture, or its beginning is damaged') from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f'{path} has more than {limit} million pixels: cut it into parts') from error
    except MemoryError as error:
        raise InputError(f'{path} does not fit into memory') from error
    except Exception as error:  # decoders raise whatever they stumble over in a damaged file
        raise InputError(f'{path} is damaged: {error}') from error


def _decode(content: bytes) -> Picture:
    with Image.open(io.BytesIO(content)) as image:
        if image.format not in FORMATS.values() and image.format != 'MPO':
            raise InputError(f'is a {image.format} picture, which is not supported: convert it to PNG')
        # An MPO is a JPEG of a phone or stereo camera, whose first picture is the one that people see.
        if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':
            raise InputError(f'holds {image.n_frames} pictures (animation or pages): save them one by one')
        if image.format == 'PNG':
            with Image.open(io.BytesIO(content)) as second:
                second.verify()  # checksums, which decoding leaves unread
        image.load()
        exif = image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
        metadata = _metadata(image, exif)
        depth = _depth(image, content)
        if depth == 16:
            pixels = _decode_deep(content, grey_alpha=image.format == 'PNG' and content[25] == 4)
        else:
            pixels = np.asarray(_to_plain_mode(image, metadata))
        lossless = image.format not in ('JPEG', 'MPO', 'WEBP') or 'VP8L' in _webp_chunks(content)
    pixels = _UPRIGHT.get(orientation, lambda a: a)(pixels)
    return Picture(np.ascontiguousarray(pixels), metadata, lossless)


def _depth(image: Image.Image, content: bytes) -> int:
    """Bits per sample, 8 or 16."""
    if image.format == 'PNG':
        return 16 if content[24] == 16 else 8
    if image.format == 'TIFF':
        bits, kind = max(image.tag_v2.get(258, (1,))), image.tag_v2.get(339, (1,))[0]
        if bits > 16 or kind != 1:
            raise InputError(f'has samples of {bits} bits, or no whole numbers: save it in RGB with 16 bits')
        return 16 if bits > 8 else 8
    return 8


def _decode_deep(content: bytes, grey_alpha: bool) -> np.ndarray:
    # Pillow reads 16 bits of RGB as 8; it has checked the file before.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise InputError('has samples of a kind that is not supported: save it as an RGB picture with 16 bits')
    if pixels.ndim == 2:
        return pixels
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels[..., [0, 3]] if grey_alpha and pixels.shape[2] == 4 else pixels


def _to_plain_mode(image: Image.Image, metadata: dict[str, Any]) -> Image.Image:
    """In mode L, LA, RGB or RGBA."""
    if image.mode == 'CMYK':
        profile = metadata.pop('icc_profile', None)
        if profile:
            with suppress(ImageCms.PyCMSError, OSError):
                source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                return ImageCms.profileToProfile(image, source, ImageCms.createProfile('sRGB'), outputMode='RGB')
        return image.convert('RGB')
    if image.mode in ('1', 'L'):
        return image.convert('LA' if image.has_transparency_data and image.mode == 'L' else 'L')
    if image.mode in ('LA', 'RGBA'):
        return image
    return image.convert('RGBA' if image.has_transparency_data else 'RGB')


def _metadata(image: Image.Image, exif: Image.Exif) -> dict[str, Any]:
    found = {key: image.info[key] for key in ('icc_profile', 'dpi', 'comment') if image.info.get(key)}
    exif.pop(_ORIENTATION, None)
    for tag in _TIFF_LAYOUT if image.format == 'TIFF' else ():
        exif.pop(tag, None)
    with suppress(Exception):  # EXIF blocks of many programs break the rules; the picture matters more
        content = exif.tobytes() if len(exif) else b''
        if content:
            found['exif'] = content
    xmp = image.tag_v2.get(700) if image.format == 'TIFF' else image.info.get('xmp')
    if isinstance(xmp, bytes):
        found['xmp'] = re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb'\g<1>1', xmp)
    if image.format == 'PNG':
        found['text'] = {key: text for key, text in image.text.items() if key != 'XML:com.adobe.xmp'}
    return found


def _webp_chunks(content: bytes) -> list[str]:
    names, at = [], 12
    while content[:4] == b'RIFF' and at + 8 <= len(content):
        names.append(content[at : at + 4].decode('latin-1'))
        size = struct.unpack('<I', content[at + 4 : at + 8])[0]
        at += 8 + size + size % 2
    return names


def to_depth(pixels: np.ndarray, depth: int) -> np.ndarray:
    """uint8 or uint16 ``pixels`` with 8 or 16 bits; white stays white."""
    if depth == 16 and pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(257)
    if depth == 8 and pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def write_picture(path: str | PathLike, picture: Picture, quality: int = 95) -> None:
    """Write ``picture`` in the format of ``path``'s suffix, whole or not at all: a file already there is never damaged.

    Formats without 16 bits get 8, formats without alpha lose it, and metadata that the format cannot hold is left out.
    ``quality`` (1 to 100) is that of JPEG and of WebP, which is lossless for a picture from a lossless file.

    Raises:
        InputError: The folder cannot be written, the disk is full, or the picture is too large for the format.
    """
    path = Path(path)
    kind = FORMATS[path.suffix.lower()]
    pixels = picture.pixels if kind in DEEP_FORMATS else to_depth(picture.pixels, 8)
    if kind == 'JPEG' and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    picture = picture._replace(pixels=np.ascontiguousarray(pixels))
    try:
        try:
            content = _encode(picture, kind, quality)
        except Exception:
            # Metadata of a damaged or unusual file may be refused; the colours' meaning is kept, the rest let go.
            kept = {key: value for key, value in picture.metadata.items() if key == 'icc_profile'}
            content = _encode(picture._replace(metadata=kept), kind, quality)
    except Exception as error:  # encoders, too, have errors of many kinds
        raise InputError(f'{path} cannot be written as {kind}: {error}. Try --format png or tiff.') from error
    write_whole(path, content)


def _encode(picture: Picture, kind: str, quality: int) -> bytes:
    pixels, metadata = picture.pixels, picture.metadata
    file = io.BytesIO()
    if kind == 'TIFF':
        _encode_tiff(file, pixels, metadata)
        return file.getvalue()
    if pixels.dtype == np.uint16:
        return _with_metadata_chunks(_encode_with_opencv('.png', pixels), metadata)
    if kind == 'BMP' and pixels.shape[2:] == (4,):
        return _encode_with_opencv('.bmp', pixels)  # Pillow writes alpha that no program, itself included, reads
    image = Image.fromarray(pixels)
    keys = {
        'PNG': {'compress_level': 3},  # on photographs as small as Pillow's default, in half the time
        'JPEG': {'quality': quality, 'subsampling': 0},
        'WEBP': {'lossless': picture.lossless, 'quality': 80 if picture.lossless else quality, 'exact': True},
        'BMP': {},
    }[kind]
    image.save(file, kind, **keys, **_metadata_for(kind, metadata))
    return file.getvalue()


def _metadata_for(kind: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """The arguments by which Pillow's ``save`` keeps the metadata in a file of this kind."""
    allowed = {
        'PNG': ('icc_profile', 'exif', 'dpi'),
        'JPEG': ('icc_profile', 'exif', 'xmp', 'dpi', 'comment'),
        'WEBP': ('icc_profile', 'exif', 'xmp'),
        'BMP': ('dpi',),
    }[kind]
    keys = {key: metadata[key] for key in allowed if key in metadata}
    if kind == 'PNG':
        keys['pnginfo'] = PngImagePlugin.PngInfo()
        for key, text in metadata.get('text', {}).items():
            keys['pnginfo'].add_text(key, text)
        if 'xmp' in metadata:
            keys['pnginfo'].add_itxt('XML:com.adobe.xmp', metadata['xmp'].decode('utf-8', 'replace'))
    return keys


def _encode_with_opencv(suffix: str, pixels: np.ndarray) -> bytes:
    if pixels.ndim == 3:
        # OpenCV has no grey with alpha.
        pixels = pixels[..., [0, 0, 0, 1] if pixels.shape[2] == 2 else [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(suffix, pixels)[1].tobytes()


def _with_metadata_chunks(png: bytes, metadata: dict[str, Any]) -> bytes:
    """``png`` with the chunks by which Pillow keeps ``metadata``, taken from a picture of one pixel."""
    file = io.BytesIO()
    Image.new('L', (1, 1)).save(file, 'PNG', **_metadata_for('PNG', metadata))
    donor, at, chunks = file.getvalue(), 8, b''
    while at < len(donor):
        end = at + 12 + struct.unpack('>I', donor[at : at + 4])[0]
        if donor[at + 4 : at + 8] not in (b'IHDR', b'IDAT', b'IEND'):
            chunks += donor[at:end]
        at = end
    header = 8 + 25  # the signature and IHDR
    return png[:header] + chunks + png[header:]


def _encode_tiff(file: io.BytesIO, pixels: np.ndarray, metadata: dict[str, Any]) -> None:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    extra = []
    if 'exif' in metadata:
        exif = Image.Exif()
        exif.load(metadata['exif'])
        # Pillow cannot write 16 bits of RGB, tifffile no EXIF directory: of EXIF the main directory's texts are kept.
        extra += [(tag, 's', 0, text, True) for tag, text in exif.items() if isinstance(text, str)]
    if 'xmp' in metadata:
        extra.append((700, 'B', len(metadata['xmp']), metadata['xmp'], True))
    dpi = metadata.get('dpi')
    tifffile.imwrite(
        file,
        pixels,
        photometric='rgb' if channels > 2 else 'minisblack',
        planarconfig='contig' if channels > 1 else None,
        extrasamples=['unassalpha'] if channels in (2, 4) else None,
        compression='zlib',
        iccprofile=metadata.get('icc_profile'),
        resolution=tuple(map(float, dpi)) if dpi else None,
        resolutionunit='INCH' if dpi else None,
        metadata=None,
        software=False,
        extratags=extra,
    )
