"""Mutated pictures of every format, through the restoring command's own reader and writer.

``python tests/restore/fuzz_pictures.py 1000`` tries as many of each format. Decoders may end a process, so each format
has one of its own. A mutated picture must be refused in one line, or read as an independent reader reads it: Pillow;
OpenCV for the 16 bits that Pillow cuts. What is read must be written as PNG and found there again.
"""

import io
import json
import logging
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps, features
from skimage import data

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import decode_picture, read_picture, to_depth, write_picture
from airnet_basicsr.restore.png_files import SIGNATURE, read_chunks


def _samples() -> dict[str, bytes]:
    """A small sound file of each format and main layout, by name."""
    photo = data.astronaut()[:24, :32]
    rng = np.random.default_rng(0)
    deep = photo.astype(np.uint16) * 256 + rng.integers(256, size=photo.shape, dtype=np.uint16)
    alpha = np.dstack((photo, photo[..., :1]))
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, 'An Artist'
    keys = {'exif': exif.tobytes()}

    def pillow(kind: str, pixels: np.ndarray, mode: str | None = None, **options: object) -> bytes:
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(file, kind, **options)
        return file.getvalue()

    def tiff(pixels: np.ndarray, **options: object) -> bytes:
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **{'photometric': 'rgb', 'metadata': None, **options})
        return file.getvalue()

    found = {
        'rgb.png': pillow('PNG', photo, **keys),
        'alpha.png': pillow('PNG', alpha),
        'palette.png': pillow('PNG', photo, 'P', transparency=3),
        'deep.png': cv2.imencode('.png', deep)[1].tobytes(),
        'a.jpg': pillow('JPEG', photo, **keys),
        'progressive.jpg': pillow('JPEG', photo, progressive=True, icc_profile=b'x' * 200),
        'cmyk.jpg': pillow('JPEG', photo, 'CMYK'),
        'lossy.webp': pillow('WEBP', photo, **keys),
        'lossless.webp': pillow('WEBP', alpha, lossless=True),
        'plain.tif': tiff(photo),
        'deep.tif': tiff(deep, compression='zlib', predictor=True),
        'planar.tif': tiff(deep.transpose(2, 0, 1), planarconfig='separate'),
        'lzw.tif': cv2.imencode('.tif', deep)[1].tobytes(),
        'tiles.tif': tiff(photo, tile=(16, 16)),
        'white.tif': tiff(photo[..., 0], photometric='miniswhite'),
        'jpeg.tif': pillow('TIFF', photo, compression='jpeg'),
        'a.bmp': pillow('BMP', photo),
        'rle.bmp': pillow('BMP', photo, 'P'),
        'a.tga': pillow('TGA', alpha, compression='tga_rle'),
        'a.ppm': pillow('PPM', photo),
        'deep.ppm': b'P6 32 24 65535\n' + deep.astype('>u2').tobytes(),
        'a.jp2': pillow('JPEG2000', photo),
    }
    if features.check('avif'):
        found['a.avif'] = pillow('AVIF', photo, **keys)
    return found


def _mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flipped, overwritten, or with a piece lost, doubled or moved; half of it near the beginning."""
    changed = bytearray(content)

    def place() -> int:
        return int(rng.integers(min(200, len(changed)) if rng.random() < 0.5 else len(changed)))

    for _ in range(int(rng.integers(1, 4))):
        match rng.integers(6):
            case 0:
                changed[place()] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place()] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
            case 2:
                at = place()
                del changed[at : at + int(rng.integers(1, 9))]
            case 3:
                at = place()
                changed[at:at] = changed[at : at + int(rng.integers(1, 9))]
            case 4:
                at = place()
                changed[at : at + 4] = rng.bytes(4)
            case 5:
                if rng.random() < 0.3:
                    del changed[max(place(), 1) :]
        if not changed:
            return b'\0'
    return bytes(changed)


def _mutate_chunk(png: bytes, rng: np.random.Generator) -> bytes:
    """One chunk of ``png`` mutated, with a checksum that fits: else all are refused for that."""
    chunks = read_chunks(png)
    which = int(rng.integers(len(chunks)))
    chunks[which] = chunks[which][0], _mutate(chunks[which][1] or b'\0', rng)
    return SIGNATURE + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )


def _reference(content: bytes, name: str, like: np.ndarray) -> np.ndarray | None:
    """What another reader makes of it, in the depth of ``like``; None where that reads nothing."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format == 'TIFF' and like.dtype == np.uint16:
                return None  # Pillow cuts it, or leaves it a negative: the layouts have tests of their own
            if image.format == 'TIFF' and len({tile[1] for tile in image.tile}) < len(image.tile):
                return None  # Pillow writes superfluous tiles over the others
            deep_png = image.format == 'PNG' and like.dtype == np.uint16
            image.load()
            image = ImageOps.exif_transpose(image) if not deep_png else image
            if deep_png:
                pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
                return (
                    None if pixels is None or pixels.shape != like.shape else pixels[..., [2, 1, 0, 3][: like.shape[2]]]
                )
            if image.mode in ('I', 'I;16', 'F') or like.dtype == np.uint16:
                return None
            modes = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
            return np.asarray(image.convert(modes[1 if like.ndim == 2 else like.shape[2]]))
    except Exception:
        return None


def fuzz(name: str, content: bytes, count: int, report: Callable[[str], None]) -> dict[str, int]:
    """Try ``count`` mutants of one file; gives how many were read, refused and compared, and reports what is wrong."""
    counts = {'read': 0, 'refused': 0, 'compared': 0, 'wrong': 0}
    rng = np.random.default_rng(list(name.encode()))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            chunk = name.endswith('.png') and rng.random() < 0.7
            mutant = _mutate_chunk(content, rng) if chunk else _mutate(content, rng)
            kept = Path(folder, f'{number}{Path(name).suffix}')
            kept.write_bytes(mutant)
            try:
                picture = read_picture(kept)
            except InputError as error:
                counts['refused'] += 1
                if '\n' in str(error) or not str(error).startswith(str(kept)):
                    counts['wrong'] += 1
                    report(f'{name} {number}: message {error!r}')
                continue
            finally:
                kept.unlink()
            counts['read'] += 1
            reference = _reference(mutant, name, picture.pixels)
            if reference is not None:
                counts['compared'] += 1
                if reference.shape != picture.pixels.shape or not np.array_equal(reference, picture.pixels):
                    counts['wrong'] += 1
                    report(f'{name} {number}: {picture.pixels.shape} unlike the reference {reference.shape}')
            if picture.pixels.size < 10**6:
                write_picture(Path(folder, 'out.png'), picture)
                written = decode_picture(Path(folder, 'out.png').read_bytes(), 'out.png').pixels
                if not np.array_equal(written, to_depth(picture.pixels, 8 * written.itemsize)):
                    counts['wrong'] += 1
                    report(f'{name} {number}: not found again in a PNG')
    return counts


def main(count: int, only: str | None = None) -> int:
    """Fuzz every format in a process of its own; 1 if anything was wrong."""
    samples = _samples()
    if only:
        warnings.simplefilter('ignore')
        logging.getLogger('tifffile').setLevel(logging.CRITICAL)
        print(json.dumps(fuzz(only, samples[only], count, lambda text: print(text, file=sys.stderr))))
        return 0
    wrong = 0
    for name in samples:
        done = subprocess.run([sys.executable, __file__, str(count), name], capture_output=True, text=True)
        counts = json.loads(done.stdout) if done.returncode == 0 else {}
        wrong += not counts or counts['wrong'] > 0
        print(name, counts or f'ended with {done.returncode}', *done.stderr.splitlines()[-5:], sep='\n  ', flush=True)
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
