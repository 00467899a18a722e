"""Reading and writing pictures of common formats, with their depth, alpha, profile and metadata."""

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.restore.picture_metadata import (
    ORIENTATION,
    Metadata,
    announces_companions,
    only,
    profile_fits,
    upright_exif,
    upright_xmp,
    without_companions,
    without_extension,
)
from airnet_basicsr.restore.png_files import SIGNATURE, colour_chunks, encode_png, read_png, read_png_metadata, texts
from airnet_basicsr.restore.tiff_files import encode_tiff, read_tiff

FORMATS = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.jpe': 'JPEG',
    '.jfif': 'JPEG',
    '.webp': 'WEBP',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
    '.bmp': 'BMP',
}
"""Formats that are written, by suffix."""
READ_ONLY: tuple[str, ...] = ('.avif', '.heic', '.heif', '.hif', '.jxl', '.jp2', '.j2k', '.j2c', '.jpx', '.jpf')
READ_ONLY += ('.ppm', '.pgm', '.pbm', '.pnm', '.tga', '.dib')
"""Suffixes of pictures that are read only."""
REFUSED: tuple[str, ...] = ('.gif', '.apng', '.psd', '.psb', '.xcf', '.exr', '.hdr', '.pfm', '.ico', '.pcx')
REFUSED += ('.sgi', '.qoi', '.jxr')
REFUSED += ('.dng', '.cr2', '.cr3', '.nef', '.nrw', '.arw', '.orf', '.rw2', '.raf', '.pef', '.srw', '.3fr', '.iiq')
"""Suffixes of pictures that are not taken, named so that people hear why."""
SUFFIXES = (*FORMATS, *READ_ONLY, *REFUSED)
"""Suffixes of pictures."""
DEEP_FORMATS = ('PNG', 'TIFF')
"""Formats with 16 bits."""
_READ = (*dict.fromkeys(FORMATS.values()), 'MPO', 'DIB', 'AVIF', 'HEIF', 'JXL', 'JPEG2000', 'PPM')
_KINDS = 'PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC, JPEG XL, JPEG 2000, PPM or TGA'
# A TGA has no mark at its beginning: whatever is damaged enough could be taken for one.
_TGA = ('.tga', '.vda', '.icb', '.vst')

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
_TURNING = (b'Exif\0', b'EXIF', b'eXIf', b'Raw profile type', b'XML:com.adobe.xmp', b'tiff:Orientation')
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_LARGEST_SEGMENT = 65_533
_OVERHEADS: dict[Literal['exif', 'xmp', 'comment'], int] = {'exif': 6, 'xmp': 29, 'comment': 0}
_HOLDS = {
    'PNG': ('icc_profile', 'exif', 'xmp', 'comment', 'dpi', 'aspect', 'png'),
    'JPEG': ('icc_profile', 'exif', 'xmp', 'comment', 'dpi', 'aspect', 'photoshop', 'jpeg'),
    'WEBP': ('icc_profile', 'exif', 'xmp'),
    'TIFF': ('icc_profile', 'exif', 'xmp', 'dpi', 'aspect', 'photoshop'),
    'BMP': ('icc_profile', 'dpi'),
}
_WORDS = {
    'icc_profile': 'colour profile',
    'exif': 'EXIF data',
    'xmp': 'XMP data',
    'comment': 'comment',
    'dpi': 'resolution',
    'aspect': 'shape of the pixels',
    'photoshop': 'IPTC and other data of Photoshop',
    'jpeg': 'further segments of JPEG',
}


class Picture(NamedTuple):
    """A picture as its file holds it, turned upright."""

    pixels: np.ndarray
    """uint8 or uint16: H x W (grey), or H x W x C with C = 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)."""
    metadata: Metadata
    lossless: bool
    """Whether its file keeps every value; decides how a WebP is written."""
    left_out: tuple[str, ...] = ()
    """What the file holds beside, and was not read."""
    orientation: int = 1
    """How the file asked to be turned (EXIF's 1 to 8), which was done."""


def read_picture(path: str | PathLike) -> Picture:
    """Read a picture file: see :func:`decode_picture`.

    Raises:
        InputError: The file cannot be opened or decoded, is cut short, holds several pictures, or samples of a kind
            that is not supported.
    """
    path = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path} cannot be opened: {error.strerror}') from error
    return decode_picture(content, path)


def decode_picture(content: bytes, name: str) -> Picture:
    """Decode the content of a picture file.

    Its orientation is applied and taken out of the metadata; palettes become RGB; CMYK becomes RGB through its profile.

    Args:
        content: A PNG, JPEG, WebP, TIFF, BMP, JPEG 2000, PPM (with its kin) or TGA; AVIF where Pillow has it, HEIC and
            JPEG XL where pillow-heif and pillow-jxl-plugin are installed.
        name: Of the file, for messages. Its suffix tells a TGA.

    Raises:
        InputError: As :func:`read_picture`.
    """
    suffix = Path(name).suffix.lower()
    if not content:
        raise InputError(f'{name} is empty (0 bytes)')
    try:
        return _decode(content, suffix)
    except InputError as error:
        raise InputError(f'{name} {error}') from error
    except UnidentifiedImageError as error:
        raise InputError(f'{name} {_not_identified(content, suffix)}') from error
    except Image.DecompressionBombError as error:
        raise InputError(f'{name} has more than {_largest() // 10**6:.0f} million pixels: cut it into parts') from error
    except MemoryError as error:
        raise InputError(f'{name} does not fit into memory') from error
    except Exception as error:  # decoders raise whatever they stumble over in a damaged file
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'{name} is damaged: {reason}') from error


def read_size(path: str | PathLike) -> tuple[int, int]:
    """(h, w) of a picture turned upright, from its header.

    Raises:
        InputError: There is none that can be read.
    """
    try:
        return _size(path)
    except Exception as error:  # as many kinds as decoders have
        raise InputError(' '.join(str(error).split()) or type(error).__name__) from error


def _size(path: str | PathLike) -> tuple[int, int]:
    with open(path, 'rb') as file:
        beginning = file.read(128)
    if beginning[:4] in _TIFF:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0].aspage()
            height, width, tag = page.imagelength, page.imagewidth, page.tags.get(ORIENTATION)
            orientation = 1 if tag is None else tag.value
    elif beginning.startswith(SIGNATURE):
        # Pillow would stop at large texts, and decode all pixels in search of EXIF.
        metadata, header = read_png_metadata(Path(path).read_bytes())
        (width, height), orientation = struct.unpack_from('>II', header), _orientation(metadata)
    else:
        with Image.open(path, formats=_formats(beginning, Path(path).suffix.lower())) as image:
            (width, height), orientation = image.size, 1
            if image.format not in ('HEIF', 'JXL'):
                orientation = image.getexif().get(ORIENTATION, 1)
    return (width, height) if orientation in range(5, 9) else (height, width)


def asks_to_be_turned(content: bytes) -> bool:
    """Whether a JPEG, PNG or WebP asks to be turned, found out without decoding it: for readers that do not do it."""
    # Looking for bytes without which no format tells it costs less than opening the picture once more.
    if not any(words in content for words in _TURNING):
        return False
    with suppress(Exception):
        if content.startswith(SIGNATURE):
            return _orientation(read_png_metadata(content)[0]) != 1
        with Image.open(io.BytesIO(content), formats=['JPEG', 'WEBP']) as image:
            return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    return False


def _not_identified(content: bytes, suffix: str) -> str:
    brand = _brand(content)
    if content[:4] in (b'II*\0', b'MM\0*'):
        return 'is damaged or a rare kind of TIFF: save it in RGB with 16 bits'
    for kind, package in (('HEIC', 'pillow-heif'), ('JPEG XL', 'pillow-jxl-plugin')):
        if brand == kind:
            return f'is a {kind} picture that cannot be decoded: install {package}, or convert it to PNG'
    if brand == 'AVIF':
        return 'is an AVIF picture that cannot be decoded: damaged, or Pillow is without AVIF (before 11.3)'
    with suppress(Exception), Image.open(io.BytesIO(content)) as image:
        if image.format != 'TGA':
            return f'is a {image.format} picture, which is not supported: convert it to PNG'
    if suffix in REFUSED:
        return f'is a {suffix[1:].upper()} file, which is not supported: convert it to PNG or TIFF'
    return f'is no {_KINDS} picture, or its beginning is damaged'


def _brand(content: bytes) -> str | None:
    if content[:2] == b'\xff\x0a' or content[:12] == b'\0\0\0\x0cJXL \r\n\x87\n':
        return 'JPEG XL'
    if content[4:8] != b'ftyp':
        return None
    brands = [content[at : at + 4] for at in range(8, min(int.from_bytes(content[:4], 'big'), 128), 4) if at != 12]
    if any(brand in (b'avif', b'avis') for brand in brands):
        return 'AVIF'
    return 'HEIC' if any(brand[:3] in (b'hei', b'hev', b'mif', b'msf') for brand in brands) else None


def _largest() -> float:
    """Pixels of the largest picture that Pillow takes for no attack."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float('inf')


def _decode(content: bytes, suffix: str) -> Picture:
    lossless = True
    if suffix in REFUSED[REFUSED.index('.dng') :]:
        raise InputError('is a raw file of a camera, which is not supported: develop it to TIFF or PNG')
    if content.startswith(SIGNATURE):
        pixels, metadata, left_out = read_png(content)
        orientation = None
    elif content[:4] in _TIFF:
        samples, orientation, metadata, left_out = read_tiff(content, _largest())
        if isinstance(samples, bytes):
            pixels, _, _ = _through_pillow(samples, ['TIFF'], metadata, [])
            # Without a tag Pillow does what XMP says.
            orientation = orientation or 1
        else:
            pixels = samples
    else:
        metadata, left_out = Metadata(), []
        pixels, kind, orientation = _through_pillow(content, _formats(content, suffix), metadata, left_out)
        lossless = kind in ('BMP', 'DIB', 'PPM', 'TGA') or (kind == 'WEBP' and 'VP8L' in _webp_chunks(content))
    if orientation is None:
        orientation = _orientation(metadata)
    if 0 in pixels.shape:
        raise InputError('is damaged: it has no pixels')
    pixels = np.ascontiguousarray(_UPRIGHT.get(orientation, lambda a: a)(pixels))
    _make_true(metadata, pixels, orientation, left_out)
    return Picture(pixels, metadata, lossless, tuple(left_out), orientation)


def _formats(content: bytes, suffix: str) -> list[str]:
    brand = _brand(content)
    if brand in ('HEIC', 'JPEG XL'):
        with suppress(ImportError):
            if brand == 'HEIC':
                import_module('pillow_heif').register_heif_opener()
            else:
                import_module('pillow_jxl')
    Image.init()
    formats = _READ + (('TGA',) if suffix in _TGA else ())
    return [name for name in formats if name in Image.OPEN]


def _through_pillow(
    content: bytes, formats: list[str], metadata: Metadata, left_out: list[str]
) -> tuple[np.ndarray, str, int | None]:
    """Pixels as stored, not turned (but those of a TIFF), the format, and the orientation where it is known.

    ``metadata`` and ``left_out`` are added to.
    """
    orientation = None
    with Image.open(io.BytesIO(content), formats=formats) as image:
        kind = str(image.format)
        frames = getattr(image, 'n_frames', 1)
        # An MPO is a JPEG of a phone or stereo camera, whose first picture is the one that people see.
        if frames > 1 and kind in ('WEBP', 'AVIF', 'TIFF'):
            raise InputError(f'holds {frames} pictures (animation or pages): save them one by one')
        if frames > 1 or kind == 'MPO':
            left_out.append('other pictures in the same file (an HDR gain map, a second view)')
        image.load()
        for key in ('icc_profile', 'exif', 'xmp', 'dpi') if kind != 'TIFF' else ():
            if image.info.get(key):
                metadata[key] = image.info[key]
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _read_jpeg(image, content, metadata, left_out)
        elif kind in ('BMP', 'DIB'):
            _read_bmp(content[14 * (kind == 'BMP') :], content, metadata, left_out)
        elif kind in ('AVIF', 'HEIF', 'JPEG2000', 'JXL'):
            _read_boxes(content, image, metadata, left_out)
            orientation = 1 if kind in ('HEIF', 'JXL') else None  # their decoders turn it upright
        deep = _deep_ppm(content) if kind == 'PPM' else None
        if deep is not None:
            return deep, kind, 1
        if kind == 'TGA' and image.mode == 'RGBA' and not content[17] & 15:
            # The fourth byte of each pixel only fills it up.
            return np.asarray(_to_plain_mode(image.convert('RGB'), metadata)), kind, orientation
        if image.mode == 'I;16' and kind == 'TIFF':
            return ((np.asarray(image).astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16), kind, 1
        if image.mode == 'I' and kind == 'PPM':
            return np.asarray(image).clip(0, 65535).astype(np.uint16), kind, 1
        if image.mode.startswith('I;16'):
            return np.asarray(image).astype(np.uint16), kind, orientation
        return np.asarray(_to_plain_mode(image, metadata)), kind, orientation


def _to_plain_mode(image: Image.Image, metadata: Metadata) -> Image.Image:
    """In mode L, LA, RGB or RGBA."""
    if image.mode == 'CMYK':
        profile = metadata.pop('icc_profile', None)
        if profile:
            with suppress(ImageCms.PyCMSError, OSError):
                source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile('sRGB'), outputMode='RGB')
                assert converted is not None
                return converted
        return image.convert('RGB')
    if image.mode in ('1', 'L'):
        return image.convert('LA' if image.has_transparency_data else 'L')
    if image.mode in ('LA', 'RGBA'):
        return image
    if image.mode in ('La', 'RGBa'):
        return image.convert(image.mode[:-1] + 'A')
    if image.mode not in ('P', 'PA', 'RGB', 'RGBX', 'YCbCr'):
        raise InputError(f'has samples of a kind that is not supported ({image.mode}): save it in RGB with 16 bits')
    return image.convert('RGBA' if image.has_transparency_data else 'RGB')


def _read_jpeg(image: JpegImagePlugin.JpegImageFile, content: bytes, metadata: Metadata, left_out: list[str]) -> None:
    info = image.info
    if info.get('jfif_unit') == 0 and len(set(info.get('jfif_density', (1, 1)))) > 1:
        metadata['aspect'] = info['jfif_density']
    kept, companions = [], False
    for name, data in image.applist:
        if name == 'COM':
            if 'comment' in metadata:
                kept.append((0xFE, metadata['comment']))
            metadata['comment'] = data
        elif data.startswith(b'Photoshop 3.0\0'):
            metadata['photoshop'] = metadata.get('photoshop', b'') + data[14:]
        elif data.startswith((b'MPF\0', b'urn:iso:std:iso:ts:21496')):
            companions = True
        elif name == 'APP11':
            left_out.append('content credentials or other data of its segment APP11')
        elif not data.startswith(
            (b'JFIF\0', b'JFXX\0', b'Exif\0', b'http://ns.adobe.com/xap/1.0/\0', b'ICC_PROFILE\0', b'Adobe', b'Ducky')
        ):
            kept.append((0xE0 + int(name[3:]), data))
    if kept:
        metadata['jpeg'] = kept
    after = content[content.rfind(b'\xff\xd9') + 2 :].strip(b'\0')
    said = any('other pictures' in what for what in left_out)
    if (companions or announces_companions(metadata.get('xmp', b''))) and not said:
        left_out.append('other pictures in the same file (an HDR gain map, a second view)')
    elif after and b'\xff\xd9' in content:
        left_out.append(f'{len(after)} bytes after its end')


def _read_bmp(header: bytes, content: bytes, metadata: Metadata, left_out: list[str]) -> None:
    if len(header) < 124 or struct.unpack_from('<I', header)[0] != 124:
        return
    space, offset, size = header[56:60], *struct.unpack_from('<II', header, 112)
    if space == b'DEBM' and 0 < size <= len(header) - offset:
        metadata['icc_profile'] = header[offset : offset + size]
    elif space in (b'DEBM', b'KNIL'):
        left_out.append('its colour profile, which is in another file or damaged')
    elif space == bytes(4) and any(header[60:108]):
        left_out.append('its calibrated colours')


def _read_boxes(content: bytes, image: Image.Image, metadata: Metadata, left_out: list[str]) -> None:
    """What the boxes of AVIF, HEIC and JPEG 2000 tell and Pillow does not: depth, colours."""
    depths, colours = [8], []
    for kind, data in _boxes(content):
        if kind == b'pixi' and len(data) > 5:
            depths += data[5 : 5 + data[4]]
        elif kind == b'colr':
            colours.append(data)
    at = content.find(b'\xff\x4f\xff\x51')
    if image.format == 'JPEG2000' and 0 <= at < len(content) - 42:
        depths += [(content[at + 42] & 127) + 1]
    if max(depths) > 8 and not image.mode.startswith('I;16'):
        left_out.append(f'8 of its {max(depths)} bits were read')
    for colour in colours:
        if image.format == 'JPEG2000' and colour[:1] in (b'\2', b'\3'):
            metadata.setdefault('icc_profile', colour[3:])
        elif colour[:4] == b'nclx' and len(colour) >= 11:
            primaries, transfer = struct.unpack_from('>HH', colour, 4)
            # Anything but (nearly) sRGB, or unknown: said to a PNG in the same numbers.
            if (primaries not in (1, 2) or transfer not in (1, 2, 6, 13)) and max(primaries, transfer) < 256:
                metadata.setdefault('png', [(b'cICP', bytes((primaries, transfer, 0, 1)))])


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Boxes of an ISO media file, those within others too, as far as they can hold what is looked for."""
    at = 0
    while at + 8 <= len(content):
        size, kind = struct.unpack_from('>I4s', content, at)
        start = 8
        if size == 1 and at + 16 <= len(content):
            (size,) = struct.unpack_from('>Q', content, at + 8)
            start = 16
        size = size or len(content) - at
        if size < start:
            return
        data = content[at + start : at + size]
        if kind in (b'meta', b'iprp', b'ipco', b'jp2h'):
            yield from _boxes(data[4:] if kind == b'meta' else data)
        elif kind not in (b'mdat', b'jp2c'):
            yield kind, data
        at += size


def _deep_ppm(content: bytes) -> np.ndarray | None:
    """The pixels of a PGM or PPM of more than 8 bits, which Pillow reads as 8."""
    blank = rb'(?:\s|#[^\n\r]*[\n\r])+'
    header = re.match(rb'P([56])' + 3 * (blank + rb'(\d{1,9})') + rb'\s', content)
    white = int(header[4]) if header else 0
    if not header or not 255 < white < 65536:
        return None
    width, height, channels = int(header[2]), int(header[3]), 3 if header[1] == b'6' else 1
    samples = np.frombuffer(content[header.end() :][: 2 * width * height * channels], '>u2')
    scaled = (np.minimum(samples, white).astype(np.uint32) * 65535 + white // 2) // white
    return scaled.astype(np.uint16).reshape((height, width, 3) if channels == 3 else (height, width))


def _orientation(metadata: Metadata) -> int:
    """As Pillow finds it: in EXIF, else in XMP."""
    with suppress(Exception):
        exif = Image.Exif()
        exif.load(metadata.get('exif', b''))
        if ORIENTATION in exif:
            return exif[ORIENTATION] if exif[ORIENTATION] in range(1, 9) else 1
    said = re.search(rb'tiff:Orientation(?:="|>)([1-8])', metadata.get('xmp', b''))
    return int(said[1]) if said else 1


def _make_true(metadata: Metadata, pixels: np.ndarray, orientation: int, left_out: list[str]) -> None:
    """Have ``metadata`` say what is so after turning, and of one picture alone."""
    size, turned = (pixels.shape[0], pixels.shape[1]), orientation >= 5
    if 'exif' in metadata:
        exif = upright_exif(metadata['exif'], size, turned)
        if exif is None:
            del metadata['exif']
            left_out.append('EXIF data that breaks the rules')
        else:
            metadata['exif'] = exif
    if 'xmp' in metadata:
        xmp = without_companions(upright_xmp(metadata['xmp'], size, turned))
        if xmp is None:
            del metadata['xmp']
            left_out.append('XMP data about other pictures in the same file')
        else:
            metadata['xmp'] = xmp
    for key in ('dpi', 'aspect') if turned else ():
        if key in metadata:
            metadata[key] = metadata[key][1], metadata[key][0]
    profile = metadata.get('icc_profile')
    if profile and not profile_fits(profile, 1 if pixels.ndim == 2 else pixels.shape[2]):
        del metadata['icc_profile']
        left_out.append(f'a colour profile for {profile[16:20].decode("latin-1").strip()}, which the picture is not in')


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


def write_picture(path: str | PathLike, picture: Picture, quality: int = 95) -> list[str]:
    """Write ``picture`` in the format of ``path``'s suffix, whole or not at all: a file already there is never damaged.

    Formats without 16 bits get 8, formats without alpha lose it, and metadata that the format cannot hold is left out.
    ``quality`` (1 to 100) is that of JPEG and of WebP, which is lossless for a picture from a lossless file.

    Returns:
        What the file could not hold.

    Raises:
        InputError: The folder cannot be written, the disk is full, or the picture is too large for the format.
    """
    path = Path(path)
    kind = FORMATS[path.suffix.lower()]
    pixels, metadata, left_out = _adapted(picture, kind)
    try:
        try:
            content = _encode(pixels, metadata, kind, quality, picture.lossless)
        except Exception:
            # Metadata of a damaged or unusual file may be refused; the colours' meaning is kept, the rest let go.
            kept = only(metadata, ('icc_profile',))
            content = _encode(pixels, kept, kind, quality, picture.lossless)
            left_out += [_WORDS.get(key, key) for key in metadata if key not in kept]
    except Exception as error:  # encoders, too, have errors of many kinds
        raise InputError(f'{path} cannot be written as {kind}: {error}. Try --format png or tiff.') from error
    write_whole(path, content)
    return left_out


def _adapted(picture: Picture, kind: str) -> tuple[np.ndarray, Metadata, list[str]]:
    """Pixels and metadata as a file of this kind can hold them, and what it cannot."""
    pixels, left_out = picture.pixels, []
    if kind not in DEEP_FORMATS and pixels.dtype == np.uint16:
        pixels = to_depth(pixels, 8)
        left_out.append('8 of 16 bits')
    if kind == 'JPEG' and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
        left_out.append('transparency')
    metadata = only(picture.metadata, _HOLDS[kind])
    if kind == 'JPEG':
        for key, overhead in _OVERHEADS.items():
            if len(metadata.get(key, b'').removeprefix(b'Exif\0\0')) + overhead > _LARGEST_SEGMENT:
                del metadata[key]
                left_out.append(f'{_WORDS[key]} of more than 64 KB')
    elif 'xmp' in metadata:
        metadata['xmp'] = without_extension(metadata['xmp'])
    left_out += [word for key, word in _WORDS.items() if key in picture.metadata and key not in _HOLDS[kind]]
    usual = [round(side) for side in picture.metadata.get('dpi', ())] == [72, 72]  # which says nothing
    if 'resolution' in left_out and (usual or _says_resolution(metadata.get('exif', b''))):
        left_out.remove('resolution')
    if kind != 'PNG':
        names, keywords = colour_chunks(picture.metadata), texts(picture.metadata)
        if names and 'icc_profile' not in metadata:
            left_out.append(f'what its colours mean ({", ".join(names)})')
        if keywords:
            left_out.append(f'texts ({", ".join(dict.fromkeys(keywords))})')
    grey = pixels.ndim == 2 or pixels.shape[2] == 2
    if kind in ('WEBP', 'BMP') and grey and 'icc_profile' in metadata:
        # Their grey is RGB, or without a profile.
        pixels = _grey_to_srgb(pixels, metadata.pop('icc_profile'))
        left_out.append('grey profile (the values became sRGB)')
    return np.ascontiguousarray(pixels), metadata, left_out


def _says_resolution(exif: bytes) -> bool:
    loaded = Image.Exif()
    with suppress(Exception):
        loaded.load(exif)
    return 0x011A in loaded


def _grey_to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    grey = Image.fromarray(np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 0]))
    rgb = grey.convert('RGB')
    with suppress(ImageCms.PyCMSError, OSError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(grey, source, ImageCms.createProfile('sRGB'), outputMode='RGB')
        rgb = converted or rgb
    return np.asarray(rgb) if pixels.ndim == 2 else np.concatenate((np.asarray(rgb), pixels[..., 1:]), 2)


def _encode(pixels: np.ndarray, metadata: Metadata, kind: str, quality: int, lossless: bool) -> bytes:
    if kind == 'TIFF':
        return encode_tiff(pixels, metadata)
    if kind == 'PNG':
        return encode_png(pixels, metadata)
    if kind == 'BMP':
        return _encode_bmp(pixels, metadata)
    image, file = Image.fromarray(pixels), io.BytesIO()
    keys = {key: metadata[key] for key in ('icc_profile', 'exif', 'xmp') if key in metadata}
    if kind == 'WEBP':
        image.save(file, kind, lossless=lossless, quality=80 if lossless else quality, exact=True, **keys)
        return file.getvalue()
    # Subsampling 0: none. What the segments hold is added afterwards.
    image.save(file, kind, quality=quality, subsampling=0, **keys)
    return _with_segments(file.getvalue(), metadata)


def _with_segments(jpeg: bytes, metadata: Metadata) -> bytes:
    """``jpeg`` with the resolution in its first segment, and the segments that Pillow does not write."""
    unit, (x, y) = (1, metadata['dpi']) if 'dpi' in metadata else (0, metadata.get('aspect', (1, 1)))
    if not (float(x).is_integer() and float(y).is_integer() and max(x, y) < 65536):
        scale = 1 if unit else 1000 / max(x, y)
        x, y = (min(max(round(side * scale), 1), 65535) for side in (x, y))
    at = jpeg.index(b'JFIF\0') + 7
    jpeg = jpeg[:at] + struct.pack('>BHH', unit, int(x), int(y)) + jpeg[at + 5 :]
    segments = list(metadata.get('jpeg', ()))
    resources, most = metadata.get('photoshop', b''), _LARGEST_SEGMENT - 14
    segments += [(0xED, b'Photoshop 3.0\0' + resources[i : i + most]) for i in range(0, len(resources), most)]
    if 'comment' in metadata:
        segments.append((0xFE, metadata['comment']))
    at = 2
    while 0xE0 <= jpeg[at + 1] <= 0xEF:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], 'big')
    added = b''.join(struct.pack('>BBH', 0xFF, marker, 2 + len(data)) + data for marker, data in segments)
    return jpeg[:at] + added + jpeg[at:]


def _encode_bmp(pixels: np.ndarray, metadata: Metadata) -> bytes:
    file = io.BytesIO()
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    profile = metadata.get('icc_profile', b'')
    if not profile and (pixels.ndim == 2 or pixels.shape[2] == 3):
        Image.fromarray(pixels).save(file, 'BMP', dpi=metadata.get('dpi', (96, 96)))
        return file.getvalue()
    # Pillow writes alpha that no program, itself included, reads, and no profile. This is the header BITMAPV5HEADER.
    height, width, channels = pixels.shape
    order = [2, 1, 0, 3][:channels]
    rows = np.ascontiguousarray(pixels[::-1, :, order]).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    x, y = (round(side / 0.0254) for side in metadata.get('dpi', (96, 96)))
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000) if channels == 4 else (0, 0, 0, 0)
    header = struct.pack(
        '<IiiHHIIiiII', 124, width, height, 1, 8 * channels, 3 * (channels == 4), rows.size, x, y, 0, 0
    )
    header += struct.pack('<4I', *masks) + (b'DEBM' if profile else b'BGRs') + bytes(48)
    header += struct.pack('<IIII', 4, 124 + rows.size if profile else 0, len(profile), 0)
    start = 14 + len(header)
    return (
        struct.pack('<2sIHHI', b'BM', start + rows.size + len(profile), 0, 0, start) + header + rows.tobytes() + profile
    )
