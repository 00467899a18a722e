"""PNG, chunk by chunk: Pillow knows neither all depths nor all chunks."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.picture_metadata import Metadata

SIGNATURE = b'\x89PNG\r\n\x1a\n'
# What is left of a compressed chunk beyond this is taken for an attack.
_LARGEST_CHUNK = 2**28
_XMP = b'XML:com.adobe.xmp'
_RAW_PROFILES: dict[bytes, Literal['exif', 'xmp']] = {b'exif': 'exif', b'APP1': 'exif', b'xmp': 'xmp'}
# Beside unknown ones that say that they may be copied.
_KEPT = {b'gAMA', b'cHRM', b'sRGB', b'cICP', b'mDCV', b'mDCv', b'cLLI', b'cLLi', b'tEXt', b'zTXt', b'iTXt', b'tIME'}
# They describe how samples are stored, or one frame of an animation of one.
_LAYOUT = {b'sBIT', b'hIST', b'tRNS', b'acTL', b'fcTL', b'fdAT', b'iDOT', b'sPLT'}
_GREY, _RGB, _PALETTE, _GREY_ALPHA = 0, 2, 3, 4


def read_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Type and data of each chunk.

    Raises:
        InputError: It is cut short or a checksum is wrong; the message continues a file's name.
    """
    found, at = [], len(SIGNATURE)
    while True:
        if at + 12 > len(content):
            raise InputError('is damaged: it is cut short')
        (size,) = struct.unpack_from('>I', content, at)
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        check = content[at + 8 + size : at + 12 + size]
        if len(check) < 4:
            raise InputError('is damaged: it is cut short')
        if struct.unpack('>I', check)[0] != zlib.crc32(data, zlib.crc32(kind)):
            raise InputError(f'is damaged: the checksum of its chunk {kind.decode("latin-1")!r} is wrong')
        found.append((kind, data))
        at += 12 + size
        if kind == b'IEND':
            return found


def read_png(content: bytes) -> tuple[np.ndarray, Metadata, list[str]]:
    """The picture in a PNG: uint8 or uint16, H x W or H x W x C with C from 2 to 4, as stored, not turned.

    Returns:
        With its metadata and what was left out.

    Raises:
        InputError: As :func:`read_chunks`; or it is an animation.
    """
    chunks = read_chunks(content)
    kinds = [kind for kind, _ in chunks]
    header = chunks[0][1]
    if kinds[0] != b'IHDR' or len(header) != 13 or b'IDAT' not in kinds:
        raise InputError('is damaged: its header or its pixels are missing')
    for kind, data in chunks:
        if kind == b'acTL' and len(data) == 8:
            # The picture that is shown without animation may be none of its frames.
            apart = b'fcTL' not in kinds[: kinds.index(b'IDAT')]
            frames = struct.unpack('>I', data[:4])[0] + apart
            if frames > 1:
                raise InputError(f'holds {frames} pictures (animation or pages): save them one by one')
    depth, colour = header[8], header[9]
    transparent = next((data for kind, data in chunks if kind == b'tRNS'), None)
    # Pillow compares the transparent grey of fewer than 8 bits with scaled ones, and leaves that of 16 bits out.
    needed = (b'IHDR', b'PLTE', b'IDAT', b'IEND') + ((b'tRNS',) if colour == _PALETTE else ())
    bare = SIGNATURE + b''.join(_chunk(kind, data) for kind, data in chunks if kind in needed)
    with Image.open(io.BytesIO(bare), formats=['PNG']) as image:
        image.load()
        if colour == _PALETTE:
            pixels = np.asarray(image.convert('RGBA' if image.has_transparency_data else 'RGB'))
        elif depth == 16:
            pixels = _sixteen_bits(bare)
        else:
            pixels = np.asarray(image.convert('L') if image.mode == '1' else image)
    if transparent is not None and colour in (_GREY, _RGB):
        pixels = _with_transparent_colour(pixels, transparent, depth, colour)
    metadata, left_out = _metadata(chunks)
    after = len(content) - len(SIGNATURE) - sum(12 + len(data) for _, data in chunks)
    if after:
        left_out.append(f'{after} bytes after its end')
    return pixels, metadata, left_out


def read_png_metadata(content: bytes) -> tuple[Metadata, bytes]:
    """The metadata of a PNG, and its header; raises as :func:`read_chunks`."""
    chunks = read_chunks(content)
    return _metadata(chunks)[0], chunks[0][1]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(data, zlib.crc32(kind)))


def _sixteen_bits(bare: bytes) -> np.ndarray:
    """Pillow has decoded it, but to 8 bits."""
    pixels = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise InputError('has samples of a kind that is not supported: save it as an RGB picture with 16 bits')
    if pixels.ndim == 2:
        return pixels
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels[..., [0, 3]] if bare[25] == _GREY_ALPHA and pixels.shape[2] == 4 else pixels


def _with_transparent_colour(pixels: np.ndarray, transparent: bytes, depth: int, colour: int) -> np.ndarray:
    """With alpha: nothing where the colour is the transparent one."""
    planes = pixels if pixels.ndim == 3 else pixels[..., None]
    key = np.frombuffer(transparent[: 2 * planes.shape[2]].ljust(2 * planes.shape[2], b'\0'), '>u2').astype(np.uint32)
    key &= (1 << depth) - 1
    if depth < 8:
        key *= 255 // ((1 << depth) - 1)
    opaque = np.iinfo(pixels.dtype).max
    alpha = np.where((planes == key).all(2), 0, opaque).astype(pixels.dtype)
    return np.concatenate((planes, alpha[..., None]), 2)


def _metadata(chunks: list[tuple[bytes, bytes]]) -> tuple[Metadata, list[str]]:
    found, left_out, kept = Metadata(), [], []
    for kind, data in chunks:
        if kind == b'iCCP':
            profile = _inflated(data.partition(b'\0')[2][1:])
            if profile is None:
                left_out.append('its colour profile, which is damaged')
            else:
                found['icc_profile'] = profile
        elif kind == b'pHYs' and len(data) == 9:
            x, y, unit = struct.unpack('>IIB', data)
            if unit == 1 and x and y:
                found['dpi'] = (x * 0.0254, y * 0.0254)
            elif x and y and x != y:
                found['aspect'] = (x, y)
        elif kind == b'eXIf':
            found['exif'] = data
        elif kind == b'iTXt' and data.startswith(_XMP + b'\0') and len(data) > len(_XMP) + 3:
            compressed, text = data[len(_XMP) + 1], data[len(_XMP) + 3 :].split(b'\0', 2)[-1]
            xmp = _inflated(text) if compressed else text
            if xmp:
                found['xmp'] = xmp
        elif kind in (b'tEXt', b'zTXt') and data.startswith(b'Raw profile type ') and _raw_profile(kind, data, found):
            continue
        elif kind in _KEPT or (kind[0] & 32 and kind[3] & 32 and kind not in _LAYOUT | {b'eXIf', b'pHYs'}):
            kept.append((kind, data))
        elif kind[0] & 32 and kind not in _LAYOUT:
            left_out.append(f'its chunk {kind.decode("latin-1")}')
    if kept:
        found['png'] = kept
    return found, left_out


def _inflated(data: bytes) -> bytes | None:
    try:
        machine = zlib.decompressobj()
        content = machine.decompress(data, _LARGEST_CHUNK)
        return content if machine.eof else None
    except zlib.error:
        return None


def _raw_profile(kind: bytes, data: bytes, found: Metadata) -> bool:
    """Take EXIF or XMP as ImageMagick puts them into a PNG: in hexadecimal, with their name and length before."""
    name, _, text = data.partition(b'\0')
    key = _RAW_PROFILES.get(name.removeprefix(b'Raw profile type '))
    plain = _inflated(text[1:]) if kind == b'zTXt' else text
    if key is None or not plain:
        return False
    try:
        content = bytes.fromhex(b''.join(plain.split()[2:]).decode('ascii'))
    except ValueError:
        return False
    if key == 'exif' and not content.startswith((b'Exif\0\0', b'II*\0', b'MM\0*')):
        return False
    if content:
        found.setdefault(key, content)
    return bool(content)


def encode_png(pixels: np.ndarray, metadata: Metadata) -> bytes:
    """``pixels``: uint8 or uint16, H x W or H x W x C with C from 2 to 4."""
    if pixels.dtype == np.uint8:
        file = io.BytesIO()
        # Level 3: on photographs as small as Pillow's default, in half the time.
        Image.fromarray(pixels).save(file, 'PNG', compress_level=3)
        bare = file.getvalue()
        body = [chunk for chunk in read_chunks(bare) if chunk[0] == b'IDAT']
        header = read_chunks(bare)[0][1]
    else:
        height, width = pixels.shape[:2]
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        colour = {1: _GREY, 2: _GREY_ALPHA, 3: _RGB}.get(channels, 6)
        header = struct.pack('>IIBBBBB', width, height, 16, colour, 0, 0, 0)
        lines = np.ascontiguousarray(pixels.astype('>u2')).view(np.uint8).reshape(height, -1)
        filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
        filtered[:, 0] = 2  # each byte as its difference from the one above
        filtered[0, 1:] = lines[0]
        np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
        packed = zlib.compress(filtered.data, 3)
        body = [(b'IDAT', packed[at : at + 2**24]) for at in range(0, len(packed), 2**24)]
    chunks = [(b'IHDR', header), *_metadata_chunks(metadata), *body, (b'IEND', b'')]
    return SIGNATURE + b''.join(_chunk(*chunk) for chunk in chunks)


def _metadata_chunks(metadata: Metadata) -> Iterator[tuple[bytes, bytes]]:
    if 'icc_profile' in metadata:
        yield b'iCCP', b'ICC Profile\0\0' + zlib.compress(metadata['icc_profile'])
    yield from metadata.get('png', ())
    if 'dpi' in metadata:
        yield b'pHYs', struct.pack('>IIB', *(_meter(side) for side in metadata['dpi']), 1)
    elif 'aspect' in metadata:
        yield b'pHYs', struct.pack('>IIB', *_whole_ratio(metadata['aspect']), 0)
    if 'exif' in metadata:
        yield b'eXIf', metadata['exif'].removeprefix(b'Exif\0\0')
    if 'xmp' in metadata:
        yield b'iTXt', _XMP + bytes(5) + metadata['xmp']
    if 'comment' in metadata:
        yield b'iTXt', b'Comment' + bytes(5) + metadata['comment'].decode('utf-8', 'replace').encode()


def _meter(per_inch: float) -> int:
    return min(round(per_inch / 0.0254), 2**31 - 1)


def _whole_ratio(aspect: tuple[float, float]) -> tuple[int, int]:
    if all(float(side).is_integer() and side < 2**31 for side in aspect):
        return int(aspect[0]), int(aspect[1])
    return round(10_000 * aspect[0] / aspect[1]), 10_000


def colour_chunks(metadata: Metadata) -> list[str]:
    """Names of what ``metadata`` says about colours in chunks of PNG, where it is anything but sRGB."""
    chunks = dict(metadata.get('png', ()))
    names = [kind.decode('ascii') for kind in (b'cICP', b'mDCV', b'mDCv', b'cLLI', b'cLLi') if kind in chunks]
    if b'sRGB' not in chunks:
        gamma, primaries = chunks.get(b'gAMA'), chunks.get(b'cHRM')
        if gamma and gamma != struct.pack('>I', 45455):
            names.append('gAMA')
        if primaries and primaries != struct.pack('>8I', 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000):
            names.append('cHRM')
    return names


def texts(metadata: Metadata) -> list[str]:
    """Keywords of the texts that ``metadata`` keeps in chunks of PNG."""
    kinds = (b'tEXt', b'zTXt', b'iTXt')
    return [data.partition(b'\0')[0].decode('latin-1') for kind, data in metadata.get('png', ()) if kind in kinds]
