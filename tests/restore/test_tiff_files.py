"""TIFF layouts: read as the numbers that were written, or refused by name. 8 and 16 bits behave alike."""

import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import Picture, read_picture, to_depth, write_picture


@pytest.fixture(scope='module')
def samples():
    """H x W x 6, 16 bits."""
    rng = np.random.default_rng(0)
    photo = data.astronaut()[:40, :52].astype(np.uint16) * 256
    photo += rng.integers(256, size=photo.shape, dtype=np.uint16)
    return np.concatenate((photo, rng.integers(65536, size=(40, 52, 3), dtype=np.uint16)), 2)


def _cut(samples, channels, depth):
    cut = to_depth(np.ascontiguousarray(samples[..., :channels]), depth)
    return cut[..., 0] if channels == 1 else cut


@pytest.mark.parametrize('depth', [8, 16])
@pytest.mark.parametrize('byteorder', ['<', '>'])
@pytest.mark.parametrize('storage', ['plain', 'deflate', 'predictor', 'packbits', 'lzma', 'strips', 'tiles', 'big'])
@pytest.mark.parametrize('planar', ['contig', 'separate'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_what_tifffile_writes_is_read(tmp_path, samples, depth, byteorder, storage, planar, channels):
    if channels == 1 and planar == 'separate':
        pytest.skip('one plane')
    pixels = _cut(samples, channels, depth)
    keys = {
        'plain': {},
        'deflate': {'compression': 'zlib'},
        'predictor': {'compression': 'zlib', 'predictor': True},
        'packbits': {'compression': 'packbits'},
        'lzma': {'compression': 'lzma'},
        'strips': {'rowsperstrip': 7},
        'tiles': {'tile': (32, 16), 'compression': 'zlib'},
        'big': {'bigtiff': True},
    }[storage]
    if storage == 'packbits':
        pytest.importorskip('imagecodecs')  # which alone writes it
    stored = pixels.transpose(2, 0, 1) if planar == 'separate' else pixels
    tifffile.imwrite(
        tmp_path / 'a.tif',
        stored,
        photometric='rgb' if channels > 2 else 'minisblack',
        planarconfig=planar if channels > 1 else None,
        extrasamples=['unassalpha'] if channels in (2, 4) else None,
        byteorder=byteorder,
        metadata=None,
        software=False,
        **keys,
    )
    picture = read_picture(tmp_path / 'a.tif')
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == pixels.dtype and picture.left_out == ()


@pytest.mark.parametrize('depth', [8, 16])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_lzw_needs_no_further_package(tmp_path, samples, depth, channels):
    pixels = _cut(samples, channels, depth)
    swapped = pixels if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]]
    for predictor in (1, 2):
        flags = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
        assert cv2.imwrite(str(tmp_path / 'a.tif'), swapped, flags)
        with tifffile.TiffFile(tmp_path / 'a.tif') as file:
            assert file.pages[0].compression == 5
        np.testing.assert_array_equal(read_picture(tmp_path / 'a.tif').pixels, pixels)
    if depth == 8:
        Image.fromarray(pixels).save(tmp_path / 'b.tif', compression='tiff_lzw')
        np.testing.assert_array_equal(read_picture(tmp_path / 'b.tif').pixels, pixels)


@pytest.mark.parametrize('depth', [8, 16])
def test_white_is_zero(tmp_path, samples, depth):
    grey, white = _cut(samples, 1, depth), 2**depth - 1
    tifffile.imwrite(tmp_path / 'a.tif', white - grey, photometric='miniswhite', metadata=None)
    np.testing.assert_array_equal(read_picture(tmp_path / 'a.tif').pixels, grey)
    two = np.stack((white - grey, _cut(samples, 4, depth)[..., 3]), 2)
    keys = {'photometric': 'miniswhite', 'planarconfig': 'contig', 'extrasamples': ['unassalpha'], 'metadata': None}
    tifffile.imwrite(tmp_path / 'b.tif', two, **keys)
    np.testing.assert_array_equal(read_picture(tmp_path / 'b.tif').pixels, np.stack((grey, two[..., 1]), 2))


@pytest.mark.parametrize('depth', [8, 16])
@pytest.mark.parametrize('channels', [2, 4])
def test_premultiplied_alpha_is_divided_out(tmp_path, samples, depth, channels):
    straight, white = _cut(samples, channels, depth), 2**depth - 1
    straight[:5, :5, -1] = 0
    straight[5:10, :5, -1] = white
    alpha = straight[..., -1:].astype(np.float64) / white
    stored = np.concatenate((np.rint(straight[..., :-1] * alpha), straight[..., -1:]), 2).astype(straight.dtype)
    photometric = 'rgb' if channels == 4 else 'minisblack'
    keys = {'photometric': photometric, 'planarconfig': 'contig', 'extrasamples': ['assocalpha'], 'metadata': None}
    tifffile.imwrite(tmp_path / 'a.tif', stored, **keys)
    pixels = read_picture(tmp_path / 'a.tif').pixels
    np.testing.assert_array_equal(pixels[..., -1], straight[..., -1])
    # Where little shows, few values are left of it.
    wrong = np.abs(pixels[..., :-1].astype(float) - straight[..., :-1]) * alpha
    assert wrong[alpha[..., 0] > 0].max() <= 1.5
    np.testing.assert_array_equal(pixels[5:10, :5], straight[5:10, :5])
    if depth == 8 and channels == 4:
        with Image.open(tmp_path / 'a.tif') as image:
            np.testing.assert_array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize('depth', [8, 16])
def test_extra_samples(tmp_path, samples, depth):
    keys = {'photometric': 'rgb', 'planarconfig': 'contig', 'metadata': None}
    four, five = _cut(samples, 4, depth), _cut(samples, 5, depth)
    tifffile.imwrite(tmp_path / 'a.tif', four, extrasamples=['unspecified'], **keys)
    picture = read_picture(tmp_path / 'a.tif')
    np.testing.assert_array_equal(picture.pixels, four[..., :3])
    assert picture.left_out == ('1 extra channel of unknown meaning',)
    tifffile.imwrite(tmp_path / 'b.tif', five, extrasamples=['unspecified', 'unassalpha'], **keys)
    picture = read_picture(tmp_path / 'b.tif')
    np.testing.assert_array_equal(picture.pixels, five[..., [0, 1, 2, 4]])
    assert picture.left_out == ('1 extra channel of unknown meaning',)


def test_palette(tmp_path, samples):
    table = np.random.default_rng(0).integers(65536, size=(3, 256), dtype=np.uint16)
    index = _cut(samples, 1, 8)
    tifffile.imwrite(tmp_path / 'a.tif', index, photometric='palette', colormap=table, metadata=None)
    pixels = read_picture(tmp_path / 'a.tif').pixels
    with Image.open(tmp_path / 'a.tif') as image:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr'])
@pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg', 'group4'])
@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_what_pillow_writes_is_read_alike(tmp_path, mode, compression, orientation):
    if (compression == 'group4' and mode != '1') or (compression == 'jpeg' and mode not in ('L', 'RGB', 'CMYK')):
        pytest.skip('no such TIFF')
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(data.astronaut()[:40, :52]).convert(mode)
    image.save(tmp_path / 'a.tif', compression=compression, exif=exif)
    # Turned ones Pillow reads as garbage in some modes.
    image.save(tmp_path / 'b.tif', compression=compression)
    with Image.open(tmp_path / 'b.tif') as image:
        try:
            image.load()
        except OSError as error:  # Pillow 12 cannot read the uncompressed YCbCr that it writes
            pytest.skip(f'no reference: {error}')
        expected = np.asarray(image.convert('L' if mode in ('1', 'L') else 'RGBA' if mode == 'RGBA' else 'RGB'))
    np.testing.assert_array_equal(
        read_picture(tmp_path / 'a.tif').pixels, np.rot90(expected, {1: 0, 3: 2, 6: -1}[orientation])
    )


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_of_16_bits_and_planes(tmp_path, samples, orientation):
    expected = _cut(samples, 3, 16)
    stored = {
        1: expected,
        2: expected[:, ::-1],
        3: expected[::-1, ::-1],
        4: expected[::-1],
        5: expected.swapaxes(0, 1),
        6: np.rot90(expected),
        7: np.rot90(expected, 2).swapaxes(0, 1),
        8: np.rot90(expected, -1),
    }[orientation]
    for planar in ('contig', 'separate'):
        tifffile.imwrite(
            tmp_path / 'a.tif',
            stored if planar == 'contig' else stored.transpose(2, 0, 1),
            photometric='rgb',
            planarconfig=planar,
            resolution=(300, 200),
            resolutionunit='INCH',
            extratags=[(274, 'H', 1, orientation, True)],
            metadata=None,
        )
        picture = read_picture(tmp_path / 'a.tif')
        np.testing.assert_array_equal(picture.pixels, expected)
        assert picture.metadata['dpi'] == ((200, 300) if orientation >= 5 else (300, 200))


def test_layouts_that_are_refused_say_which(tmp_path, samples):
    rgb8, rgb16 = _cut(samples, 3, 8), _cut(samples, 3, 16)
    five = _cut(samples, 5, 16)
    written = {
        'is a TIFF of CIELAB colours': (rgb16, {'photometric': 'cielab'}),
        'is a TIFF of LINEAR RAW colours': (rgb16, {'photometric': 'linear_raw'}),
        'holds 2 pictures': (np.stack((rgb8, rgb8)), {'photometric': 'rgb'}),
        'samples of 32 bits': (rgb16.astype(np.uint32), {'photometric': 'rgb'}),
        'no whole numbers from 0': (rgb16.astype(np.int16), {'photometric': 'rgb'}),
        'holds 3 pictures': (np.zeros((3, 8, 8), np.uint16), {'imagej': True}),
    }
    for message, (pixels, keys) in written.items():
        if 'imagej' not in keys:
            keys |= {'planarconfig': 'contig', 'metadata': None}
        tifffile.imwrite(tmp_path / 'a.tif', pixels, **keys)
        with pytest.raises(InputError, match=message):
            read_picture(tmp_path / 'a.tif')
    # Compressions that would need imagecodecs, in a file that is otherwise whole.
    tifffile.imwrite(tmp_path / 'a.tif', rgb16, photometric='rgb', metadata=None, byteorder='<')
    content = (tmp_path / 'a.tif').read_bytes()
    for code, name in ((34887, 'LERC'), (34712, 'JPEG2000'), (50002, 'JPEGXL')):
        entry = struct.pack('<HHIHH', 259, 3, 1, 1, 0)
        assert content.count(entry) == 1
        (tmp_path / 'a.tif').write_bytes(content.replace(entry, struct.pack('<HHIHH', 259, 3, 1, code, 0)))
        with pytest.raises(InputError, match=f'a.tif (is compressed with {name}: install imagecodecs|is damaged)'):
            read_picture(tmp_path / 'a.tif')
    tifffile.imwrite(
        tmp_path / 'a.tif', five, photometric='rgb', planarconfig='contig', extrasamples=['unassalpha', 'unspecified']
    )
    assert read_picture(tmp_path / 'a.tif').pixels.shape[2] == 4


def test_a_thumbnail_beside_the_picture_is_not_a_page(tmp_path, samples):
    with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
        file.write(_cut(samples, 3, 16), photometric='rgb', metadata=None)
        file.write(_cut(samples, 3, 8)[::4, ::4].copy(), photometric='rgb', subfiletype=1, metadata=None)
    picture = read_picture(tmp_path / 'a.tif')
    np.testing.assert_array_equal(picture.pixels, _cut(samples, 3, 16))
    assert picture.left_out == ('1 smaller pictures or masks in the same file',)


@pytest.mark.parametrize('depth', [8, 16])
def test_parts_that_are_missing_are_noticed(tmp_path, samples, depth):
    for keys in ({}, {'compression': 'zlib'}, {'rowsperstrip': 4}, {'tile': (16, 16)}):
        tifffile.imwrite(tmp_path / 'a.tif', _cut(samples, 3, depth), photometric='rgb', metadata=None, **keys)
        content = (tmp_path / 'a.tif').read_bytes()
        for cut in (1, 100, 1000):
            (tmp_path / 'b.tif').write_bytes(content[:-cut])
            with pytest.raises(InputError, match='b.tif is (cut short|damaged)'):
                read_picture(tmp_path / 'b.tif')


def test_a_list_of_tiles_that_is_gone_is_noticed(tmp_path, samples):
    tifffile.imwrite(tmp_path / 'a.tif', _cut(samples, 3, 8), photometric='rgb', metadata=None, tile=(16, 16))
    content = (tmp_path / 'a.tif').read_bytes()
    assert content.count(struct.pack('<HH', 325, 3)) == 1
    (tmp_path / 'a.tif').write_bytes(content.replace(struct.pack('<HH', 325, 3), struct.pack('<HH', 326, 3)))
    with pytest.raises(InputError, match='a.tif is cut short'):
        read_picture(tmp_path / 'a.tif')


@pytest.mark.parametrize('depth', [8, 16])
def test_exif_survives_from_a_photograph(tmp_path, samples, depth):
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = 'Maker', 'A program'
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure time
    exif.get_ifd(0x8825)[1] = 'N'  # GPS
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 30.0)
    picture = Picture(_cut(samples, 3, depth), {'exif': exif.tobytes()}, False)
    assert write_picture(tmp_path / 'a.tif', picture) == []
    for path in (tmp_path / 'a.tif', tmp_path / 'b.tif'):
        if path.name == 'b.tif':
            write_picture(path, read_picture(tmp_path / 'a.tif'))
        with Image.open(path) as image:
            found = image.getexif()
            assert (found[0x010F], found[0x0131]) == ('Maker', 'A program')
            assert float(found.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
            assert [float(part) for part in found.get_ifd(0x8825)[2]] == [48, 8, 30]
        np.testing.assert_array_equal(read_picture(path).pixels, picture.pixels)


@pytest.mark.parametrize('planar', [0, 3, 65281])
def test_an_unknown_planar_configuration_is_refused(tmp_path, samples, planar):
    path = tmp_path / 'x.tif'
    tifffile.imwrite(path, _cut(samples, 3, 8), photometric='rgb', tile=(16, 16))
    with tifffile.TiffFile(path, mode='r+b') as file:
        file.pages[0].tags[284].overwrite(planar)
    with pytest.raises(InputError, match=f'unknown planar configuration .{planar}.'):
        read_picture(path)
