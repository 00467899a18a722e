"""Pixels the right way up, whoever decodes them; LMDBs that are whole or refused."""

import io
import shutil
import zlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from conftest import write_lmdb

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import read_size
from airnet_basicsr.restore.stored_images import Entry, decode, key_of, read_lmdb_list

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def _turned(photo: np.ndarray, kind: str, orientation: int) -> bytes:
    """A file of ``photo`` (RGB) that asks to be turned."""
    image, file, exif = PIL.Image.fromarray(photo), io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = orientation
    if kind == 'PNG with XMP':
        text = PIL.PngImagePlugin.PngInfo()
        text.add_itxt('XML:com.adobe.xmp', (XMP % orientation).decode())
        image.save(file, 'PNG', pnginfo=text)
    elif kind == 'JPEG with XMP':
        image.save(file, 'JPEG', quality=100, subsampling=0, xmp=XMP % orientation)
    elif kind == 'BigTIFF':
        image.save(file, 'TIFF', big_tiff=True, tiffinfo={0x0112: orientation})
    elif kind == 'TIFF, compressed':
        image.save(file, 'TIFF', compression='tiff_lzw', tiffinfo={0x0112: orientation})
    else:
        image.save(file, kind, exif=exif, **({'lossless': True} if kind == 'WEBP' else {'quality': 100}))
    return file.getvalue()


KINDS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'TIFF, compressed', 'BigTIFF', 'PNG with XMP', 'JPEG with XMP')


@pytest.mark.parametrize('kind', KINDS)
def test_every_orientation_is_read_upright(kind, photos, tmp_path):
    for orientation in range(1, 9):
        data = _turned(photos['chelsea4'], kind, orientation)
        with PIL.Image.open(io.BytesIO(data)) as image:
            upright = np.asarray(PIL.ImageOps.exif_transpose(image))
        assert (upright.shape[:2] == photos['chelsea4'].shape[:2]) == (orientation < 5)
        for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED):
            read = decode(data, flags)
            # Two decoders of JPEG may round differently.
            assert np.abs(read[..., ::-1].astype(int) - upright).max() <= 3 * kind.startswith('JPEG')
        (tmp_path / 'picture').write_bytes(data)
        assert read_size(tmp_path / 'picture') == upright.shape[:2]


def test_what_is_no_picture_is_not_decoded():
    for data in (b'', b'no picture', b'II*\0', b'Exif\0\0 and nothing more'):
        assert decode(data, cv2.IMREAD_COLOR) is None


def test_sizes_that_nothing_holds_are_refused(photos, tmp_path):
    bmp = bytearray(cv2.imencode('.bmp', photos['coffee2'])[1].tobytes())
    bmp[18:26] = (10**6).to_bytes(4, 'little') * 2
    assert decode(bytes(bmp), cv2.IMREAD_UNCHANGED) is None
    chunk = b'IHDR' + b'abc'
    png = b'\x89PNG\r\n\x1a\n' + (3).to_bytes(4, 'big') + chunk + zlib.crc32(chunk).to_bytes(4, 'big')
    png += b'\0\0\0\0IEND' + zlib.crc32(b'IEND').to_bytes(4, 'big')
    for data in (bytes(bmp), png, b'II*\0\0\0\0\0'):
        (tmp_path / 'picture').write_bytes(data)
        with pytest.raises(InputError):
            read_size(tmp_path / 'picture')


def test_keys_are_ascii_without_dots():
    assert key_of('0001_0.8_0.04') == '0001_0p8_0p04'
    assert key_of('deep/my photo.v2') == 'deep_my_photo_v2'


def _list(path, text):
    (path / 'meta_info.txt').write_bytes(text)
    return read_lmdb_list(path)


def test_lists_in_whatever_encoding(tmp_path, photos):
    path = write_lmdb(tmp_path / 'two.lmdb', {'a': photos['coffee2'], 'my photo': photos['coffee3']})
    lines = 'a.png (96,104,3) 1\r\nmy photo.jpg (96, 104, 3) 0 a\r\n\r\n'
    expected = [Entry('a', (96, 104, 3), ''), Entry('my photo', (96, 104, 3), 'a')]
    for text in (lines.encode(), lines.encode('utf-8-sig'), lines.encode('utf-16'), lines.replace('\r', '').encode()):
        assert _list(path, text) == expected
    with pytest.raises(InputError, match=r'meta_info\.txt is neither UTF-8 nor UTF-16'):
        _list(path, 'caf\xe9.png (96,104,3) 1\n'.encode('latin-1'))
    with pytest.raises(InputError, match=r'meta_info\.txt, line 1: the key .caf\xe9. is not ASCII'):
        _list(path, 'caf\xe9.png (96,104,3) 1\n'.encode())


def test_data_that_was_cut_short_is_refused(tmp_path, photos):
    path = write_lmdb(tmp_path / 'photos.lmdb', photos)
    assert len(read_lmdb_list(path)) == len(photos)
    whole = (path / 'data.mdb').read_bytes()
    short = tmp_path / 'short.lmdb'
    shutil.copytree(path, short)
    for size in (0, 100, 4096, 5000, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        (short / 'data.mdb').write_bytes(whole[:size])
        with pytest.raises(InputError, match=r'short.lmdb/data.mdb (was cut short|is no LMDB)'):
            read_lmdb_list(short)
    (short / 'data.mdb').write_bytes(bytes(len(whole)))
    with pytest.raises(InputError, match='is no LMDB'):
        read_lmdb_list(short)
