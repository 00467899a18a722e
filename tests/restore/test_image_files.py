"""People's picture files: what is read, what is kept when written, and which files are refused."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps
from skimage import data

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import Picture, read_picture, to_depth, write_picture

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.fixture(scope='module')
def rgba():
    """16 bits in each of four different channels, 40 x 52."""
    rng = np.random.default_rng(0)
    photo = data.astronaut()[:40, :52].astype(np.uint16) * 256 + rng.integers(256, size=(40, 52, 3), dtype=np.uint16)
    return np.concatenate((photo, rng.integers(65536, size=(40, 52, 1), dtype=np.uint16)), 2)


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.tiff', '.webp', '.bmp', '.PNG'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_lossless_formats_keep_every_value(tmp_path, rgba, suffix, channels):
    for depth in (8, 16) if suffix.lower() in ('.png', '.tif', '.tiff') else (8,):
        if suffix == '.webp' and channels == 1:
            continue  # WebP has no grey
        pixels = to_depth(rgba[..., 0] if channels == 1 else np.ascontiguousarray(rgba[..., :channels]), depth)
        write_picture(tmp_path / f'a{suffix}', Picture(pixels, {}, True))
        found = read_picture(tmp_path / f'a{suffix}').pixels
        assert found.dtype == pixels.dtype
        np.testing.assert_array_equal(found, pixels)


def test_grey_with_alpha(tmp_path, rgba):
    pixels = to_depth(np.ascontiguousarray(rgba[..., [0, 3]]), 8)
    for suffix in ('.png', '.tif'):
        write_picture(tmp_path / f'a{suffix}', Picture(pixels, {}, True))
        np.testing.assert_array_equal(read_picture(tmp_path / f'a{suffix}').pixels, pixels)


def test_depths(rgba):
    eight = to_depth(rgba, 8)
    np.testing.assert_array_equal(to_depth(to_depth(eight, 16), 8), eight)
    assert np.abs(to_depth(rgba, 8).astype(float) * 257 - rgba).max() <= 128.5
    np.testing.assert_array_equal(to_depth(np.array([255], np.uint8), 16), [65535])


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['png8', 'png16', 'jpg', 'tif'])
def test_orientation_is_applied_and_taken_out(tmp_path, rgba, orientation, kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, 'Maker'
    path = tmp_path / f'a.{kind[:3]}'
    if kind == 'png16':
        write_picture(path, Picture(rgba[..., :3].copy(), {'exif': exif.tobytes()}, True))
    else:
        Image.fromarray(to_depth(rgba[..., :3], 8)).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    picture = read_picture(path)
    np.testing.assert_array_equal(to_depth(picture.pixels, 8) if kind != 'png16' else picture.pixels >> 8, upright)
    write_picture(tmp_path / 'b.png', picture)
    with Image.open(tmp_path / 'b.png') as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == 'Maker'


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'tif'])
@pytest.mark.parametrize('depth', [8, 16])
def test_profile_and_metadata_survive(tmp_path, rgba, suffix, depth):
    exif = Image.Exif()
    exif[0x013B] = 'An Artist'
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure time
    metadata = {'icc_profile': ICC, 'exif': exif.tobytes(), 'xmp': XMP, 'dpi': (300, 300)}
    first = tmp_path / f'a.{suffix}'
    write_picture(first, Picture(to_depth(rgba[..., :3].copy(), depth), metadata, False))
    write_picture(tmp_path / f'b.{suffix}', read_picture(first))
    with Image.open(tmp_path / f'b.{suffix}') as image:
        assert image.info['icc_profile'] == ICC
        assert image.getexif()[0x013B] == 'An Artist'
        if suffix != 'tif':
            assert float(image.getexif().get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
        assert b'tiff:Orientation="1"' in (image.tag_v2[700] if suffix == 'tif' else image.info['xmp'])
        if suffix != 'webp':
            assert [round(float(v)) for v in image.info['dpi']] == [300, 300]


def test_png_texts_survive(tmp_path, rgba):
    for depth in (8, 16):
        picture = Picture(to_depth(rgba, depth), {'text': {'Title': 'A lake', 'Author': 'Zoë'}}, True)
        write_picture(tmp_path / 'a.png', picture)
        with Image.open(tmp_path / 'a.png') as image:
            assert image.text == {'Title': 'A lake', 'Author': 'Zoë'}


def test_palettes_and_transparent_colours_become_plain(tmp_path, rgba):
    eight = Image.fromarray(to_depth(rgba, 8))
    quantised = eight.convert('RGB').quantize(16)
    quantised.save(tmp_path / 'p.png', transparency=3)
    np.testing.assert_array_equal(
        read_picture(tmp_path / 'p.png').pixels, np.asarray(Image.open(tmp_path / 'p.png').convert('RGBA'))
    )
    eight.convert('1').save(tmp_path / 'bits.png')
    assert set(np.unique(read_picture(tmp_path / 'bits.png').pixels)) == {0, 255}


def test_cmyk_becomes_rgb(tmp_path, rgba):
    photo = Image.fromarray(to_depth(rgba[..., :3], 8))
    photo.convert('CMYK').save(tmp_path / 'a.jpg', quality=100, subsampling=0)
    picture = read_picture(tmp_path / 'a.jpg')
    assert np.abs(picture.pixels.astype(int) - np.asarray(photo)).mean() < 3
    photo.convert('CMYK').save(tmp_path / 'b.jpg', icc_profile=ICC)  # a profile of another colour space
    assert 'icc_profile' not in read_picture(tmp_path / 'b.jpg').metadata


def test_formats_without_alpha_or_depth_give_what_they_can(tmp_path, rgba):
    write_picture(tmp_path / 'a.jpg', Picture(rgba, {}, True))
    found = read_picture(tmp_path / 'a.jpg').pixels
    assert found.shape == (40, 52, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - (rgba[..., :3] >> 8)).mean() < 3


def _encoded(kind, pixels, **keys):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **keys)
    return file.getvalue()


def test_files_that_are_refused_say_why(tmp_path, rgba):
    eight = to_depth(rgba[..., :3].copy(), 8)
    frames = [Image.fromarray(eight), Image.fromarray(255 - eight)]
    contents = {
        'empty.png': (b'', 'is empty'),
        'text.png': (b'I am no picture\n' * 50, 'is no PNG, JPEG, WebP, TIFF or BMP picture'),
        'still.gif': (_encoded('GIF', eight), 'is a GIF picture, which is not supported'),
        'flipped.png': (_encoded('PNG', eight)[:-40] + b'0' * 40, 'is damaged'),
    }
    for kind, suffix in (('PNG', 'png'), ('JPEG', 'jpg'), ('WEBP', 'webp'), ('TIFF', 'tif'), ('BMP', 'bmp')):
        contents[f'cut.{suffix}'] = _encoded(kind, eight)[:-500], 'cut'
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, kind in (('moving.webp', 'WEBP'), ('moving.png', 'PNG'), ('pages.tif', 'TIFF')):
        frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
        contents[name] = b'', 'holds 2 pictures'
    for name, pixels, photometric in (('float', eight, 'rgb'), ('grey', eight[..., 0], 'minisblack')):
        tifffile.imwrite(tmp_path / f'{name}.tif', np.float32(pixels), photometric=photometric)
        contents[f'{name}.tif'] = b'', 'save it in RGB with 16 bits'
    contents['missing.png'] = b'', 'cannot be opened: No such file'
    (tmp_path / 'folder.png').mkdir()
    contents['folder.png'] = b'', 'cannot be opened: Is a directory'
    for name, (_, message) in contents.items():
        with pytest.raises(InputError, match=message) as error:
            read_picture(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


def test_a_failed_write_leaves_what_was_there(tmp_path, rgba):
    target = tmp_path / 'a.webp'
    write_picture(target, Picture(to_depth(rgba, 8), {}, True))
    before = target.read_bytes()
    too_wide = np.zeros((1, 20000, 3), np.uint8)  # beyond WebP's 16383
    with pytest.raises(InputError, match='cannot be written.*--format'):
        write_picture(target, Picture(too_wide, {}, True))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['a.webp']


def test_broken_metadata_does_not_lose_the_picture(tmp_path, rgba):
    picture = Picture(to_depth(rgba, 8), {'exif': b'x' * 100_000, 'icc_profile': ICC}, True)
    write_picture(tmp_path / 'a.jpg', picture)
    with Image.open(tmp_path / 'a.jpg') as image:
        assert image.info['icc_profile'] == ICC
