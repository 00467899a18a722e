"""People's picture files: what is read, what is kept when written, and which files are refused."""

import io
import struct
import zlib
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import tifffile
from conftest import ROOT, run_python
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from skimage import data

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.image_files import Picture, read_picture, to_depth, write_picture
from airnet_basicsr.restore.png_files import read_chunks

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
    texts = PngImagePlugin.PngInfo()
    texts.add_text('Title', 'A lake')
    texts.add_itxt('Author', 'Zoë')
    texts.add_text('Workflow', 'step ' * 400_000, zip=True)  # beyond what Pillow unpacks
    Image.fromarray(to_depth(rgba, 8)).save(tmp_path / 'a.png', pnginfo=texts)
    picture = read_picture(tmp_path / 'a.png')
    for depth in (8, 16):
        assert write_picture(tmp_path / 'b.png', picture._replace(pixels=to_depth(picture.pixels, depth))) == []
        assert _chunks(tmp_path / 'b.png', b'tEXt', b'zTXt', b'iTXt') == _chunks(
            tmp_path / 'a.png', b'tEXt', b'zTXt', b'iTXt'
        )
        found = read_picture(tmp_path / 'b.png')
        np.testing.assert_array_equal(found.pixels, to_depth(picture.pixels, depth))
    assert write_picture(tmp_path / 'b.jpg', picture) == ['transparency', 'texts (Title, Author, Workflow)']


def _chunks(path, *kinds):
    return [chunk for chunk in read_chunks(path.read_bytes()) if chunk[0] in kinds]


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
        'text.png': (b'I am no picture\n' * 50, 'is no PNG, JPEG, .* or TGA picture'),
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


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
@pytest.mark.parametrize('colour', ['grey', 'rgb'])
def test_a_transparent_colour_becomes_alpha_at_every_depth(tmp_path, bits, colour):
    """Against samples that are unpacked here by hand."""
    if colour == 'rgb' and bits < 8:
        pytest.skip('no such PNG')
    rng = np.random.default_rng(0)
    samples = rng.integers(min(2**bits, 4), size=(24, 32, 3 if colour == 'rgb' else 1)).astype(np.uint16)
    key = samples[3, 5]
    if bits == 16:
        rows = samples.astype('>u2').tobytes()
    elif bits == 8:
        rows = samples.astype(np.uint8).tobytes()
    else:
        planes = ((samples[..., 0, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
        rows = np.packbits(planes.reshape(24, -1), axis=1).tobytes()
    width = len(rows) // 24
    packed = zlib.compress(b''.join(b'\0' + rows[at : at + width] for at in range(0, len(rows), width)))
    header = struct.pack('>IIBBBBB', 32, 24, bits, 2 if colour == 'rgb' else 0, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'tRNS', key.astype('>u2').tobytes()), (b'IDAT', packed), (b'IEND', b'')]
    (tmp_path / 'a.png').write_bytes(_png(chunks))
    white = 65535 if bits == 16 else 255
    expected = samples.astype(int) * white // (2**bits - 1)
    alpha = np.where((samples == key).all(2, keepdims=True), 0, white)
    np.testing.assert_array_equal(read_picture(tmp_path / 'a.png').pixels, np.concatenate((expected, alpha), 2))


def _png(chunks):
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize('depth', [8, 16])
def test_what_colours_mean_survives_in_a_png_and_is_said_elsewhere(tmp_path, rgba, depth):
    write_picture(tmp_path / 'a.png', Picture(to_depth(rgba[..., :3].copy(), depth), {}, True))
    chunks = read_chunks((tmp_path / 'a.png').read_bytes())
    adobe = struct.pack('>8I', 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    added = [(b'gAMA', struct.pack('>I', 100_000)), (b'cHRM', adobe), (b'cICP', bytes((9, 16, 0, 1)))]
    added += [(b'pHYs', struct.pack('>IIB', 3, 1, 0)), (b'caBX', b'signed'), (b'tIME', bytes(7))]
    (tmp_path / 'b.png').write_bytes(_png([chunks[0], *added, *chunks[1:]]))
    picture = read_picture(tmp_path / 'b.png')
    assert picture.left_out == ('its chunk caBX',)
    assert write_picture(tmp_path / 'c.png', picture) == []
    kept = (b'gAMA', b'cHRM', b'cICP', b'pHYs', b'tIME')
    assert sorted(_chunks(tmp_path / 'c.png', *kept)) == sorted(chunk for chunk in added if chunk[0] in kept)
    assert 'what its colours mean (cICP, gAMA, cHRM)' in write_picture(tmp_path / 'c.jpg', picture)
    with Image.open(tmp_path / 'c.jpg') as image:
        assert image.info['jfif_unit'] == 0 and image.info['jfif_density'] == (3, 1)
    assert 'shape of the pixels' in write_picture(tmp_path / 'c.webp', picture)


def test_large_chunks_are_sound(tmp_path, rgba):
    profile = ICC + np.random.default_rng(0).bytes(2_000_000)
    Image.fromarray(to_depth(rgba[..., :3].copy(), 8)).save(tmp_path / 'a.png', icc_profile=profile)
    picture = read_picture(tmp_path / 'a.png')
    for suffix in ('png', 'jpg', 'webp', 'tif', 'bmp'):
        assert write_picture(tmp_path / f'b.{suffix}', picture) == []
        assert read_picture(tmp_path / f'b.{suffix}').metadata['icc_profile'] == profile


def test_a_profile_of_another_colour_model_is_not_handed_on(tmp_path, rgba):
    grey = ImageCms.ImageCmsProfile(io.BytesIO(_grey_profile())).tobytes()
    assert grey[16:20] == b'GRAY'
    eight = to_depth(rgba, 8)
    Image.fromarray(eight[..., 0].copy()).save(tmp_path / 'grey.png', icc_profile=grey)
    assert read_picture(tmp_path / 'grey.png').metadata['icc_profile'] == grey
    for name, pixels, profile in (('a.png', eight[..., :3], grey), ('b.jpg', eight[..., :3], grey)):
        Image.fromarray(pixels.copy()).save(tmp_path / name, icc_profile=profile)
        picture = read_picture(tmp_path / name)
        assert 'icc_profile' not in picture.metadata
        assert picture.left_out == ('a colour profile for GRAY, which the picture is not in',)
    Image.fromarray(eight[..., 0].copy()).save(tmp_path / 'c.tif', icc_profile=ICC)
    assert read_picture(tmp_path / 'c.tif').left_out == ('a colour profile for RGB, which the picture is not in',)
    # Formats whose grey is RGB: through the profile, of gamma 1, not past it.
    for suffix in ('webp', 'bmp'):
        said = write_picture(tmp_path / f'd.{suffix}', read_picture(tmp_path / 'grey.png'))
        assert said == ['grey profile (the values became sRGB)']
        found = read_picture(tmp_path / f'd.{suffix}')
        assert 'icc_profile' not in found.metadata
        linear = eight[..., 0] / 255
        srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
        assert np.abs(found.pixels - srgb[..., None])[eight[..., 0] > 25].max() < 3  # darker, 8 bits are coarse
    # 16 bits of grey and alpha stay grey, as their profile wants it.
    write_picture(tmp_path / 'e.png', Picture(rgba[..., [0, 3]].copy(), {'icc_profile': grey}, True))
    assert read_chunks((tmp_path / 'e.png').read_bytes())[0][1][9] == 4
    np.testing.assert_array_equal(read_picture(tmp_path / 'e.png').pixels, rgba[..., [0, 3]])


def _grey_profile():
    """A grey ICC profile of gamma 1."""
    white = b'XYZ \0\0\0\0' + struct.pack('>3i', 63190, 65536, 54061)
    curve = b'curv\0\0\0\0' + struct.pack('>I', 0)
    text = b'text\0\0\0\0none\0\0\0\0'
    name = b'desc\0\0\0\0' + struct.pack('>I', 5) + b'grey\0' + bytes(78) + b'\0'
    tags = [(b'cprt', text), (b'desc', name), (b'kTRC', curve), (b'wtpt', white)]
    table, body = struct.pack('>I', len(tags)), b''
    for tag, value in tags:
        value += bytes(-len(value) % 4)
        table += tag + struct.pack('>II', 128 + 4 + 12 * len(tags) + len(body), len(value))
        body += value
    header = struct.pack('>I4sI4s4s4s', 0, b'lcms', 0x02100000, b'mntr', b'GRAY', b'XYZ ') + bytes(12) + b'acsp'
    header = header.ljust(68, b'\0') + struct.pack('>3i', 63190, 65536, 54061)
    profile = header.ljust(128, b'\0') + table + body
    return struct.pack('>I', len(profile)) + profile[4:]


def test_a_jpeg_keeps_what_fits_and_the_rest_is_said(tmp_path, rgba):
    eight = to_depth(rgba[..., :3].copy(), 8)
    exif = Image.Exif()
    exif[0x013B] = 'An Artist'
    exif.get_ifd(0x8769)[0x927C] = np.random.default_rng(0).bytes(70_000)
    big = Picture(eight, {'exif': exif.tobytes(), 'xmp': XMP, 'dpi': (300, 300), 'icc_profile': ICC}, True)
    assert write_picture(tmp_path / 'a.jpg', big) == ['EXIF data of more than 64 KB']
    with Image.open(tmp_path / 'a.jpg') as image:
        assert image.info['xmp'] == XMP and image.info['icc_profile'] == ICC and image.info['dpi'] == (300, 300)
    for key, words in (('xmp', 'XMP data'), ('comment', 'comment')):
        big = Picture(eight, {key: b'x' * 70_000, 'icc_profile': ICC}, True)
        assert write_picture(tmp_path / 'b.jpg', big) == [f'{words} of more than 64 KB']
        assert read_picture(tmp_path / 'b.jpg').metadata['icc_profile'] == ICC
        assert write_picture(tmp_path / 'b.png', big) == []
    # IPTC, further segments and several comments stay in a JPEG.
    resources = b'8BIM\x04\x04\0\0\0\0\0\x05\x1c\x02x\0\0\0'
    segments = _segment(0xED, b'Photoshop 3.0\0' + resources) + _segment(0xE5, b'of a camera') + _segment(0xFE, b'one')
    content = _encoded('JPEG', eight, comment=b'two', quality=95)
    (tmp_path / 'c.jpg').write_bytes(content[:20] + segments + content[20:])
    picture = read_picture(tmp_path / 'c.jpg')
    assert write_picture(tmp_path / 'd.jpg', picture) == []
    with Image.open(tmp_path / 'd.jpg') as image:
        image.load()
        assert {name: data for name, data in image.applist if name in ('APP13', 'APP5')} == {
            'APP13': b'Photoshop 3.0\0' + resources,
            'APP5': b'of a camera',
        }
        assert sorted(data for name, data in image.applist if name == 'COM') == [b'one', b'two']
    assert write_picture(tmp_path / 'd.png', picture) == [
        'IPTC and other data of Photoshop',
        'further segments of JPEG',
    ]
    assert write_picture(tmp_path / 'd.tif', picture) == ['comment', 'further segments of JPEG']
    with tifffile.TiffFile(tmp_path / 'd.tif') as file:
        assert bytes(file.pages[0].tags[34377].value) == resources


def _segment(marker, data):
    return struct.pack('>BBH', 0xFF, marker, 2 + len(data)) + data


@pytest.mark.parametrize('orientation', [1, 6])
def test_metadata_tells_the_truth_after_turning(tmp_path, rgba, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x011B], exif[0x0128] = orientation, 300.0, 200.0, 2
    camera = exif.get_ifd(0x8769)
    camera[0xA002], camera[0xA003], camera[0x927C] = 52, 40, b'a maker that counts from the start of the block'
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" exif:PixelXDimension="52" '
        b'exif:PixelYDimension="40"/></x:xmpmeta>'
    )
    image = Image.fromarray(to_depth(rgba[..., :3].copy(), 8))
    image.save(tmp_path / 'a.jpg', exif=exif, xmp=xmp, dpi=(300, 200))
    before = Image.open(tmp_path / 'a.jpg').info['exif']
    picture = read_picture(tmp_path / 'a.jpg')
    assert picture.pixels.shape == ((52, 40, 3) if orientation == 6 else (40, 52, 3))
    for suffix in ('jpg', 'webp', 'png'):
        write_picture(tmp_path / f'b.{suffix}', picture)
        with Image.open(tmp_path / f'b.{suffix}') as image:
            found, (width, height) = image.getexif(), image.size
            assert found.get(0x0112, 1) == 1
            assert (found.get_ifd(0x8769)[0xA002], found.get_ifd(0x8769)[0xA003]) == (width, height)
            expected = [200, 300] if orientation == 6 else [300, 200]
            assert [float(found[tag]) for tag in (0x011A, 0x011B)] == expected
            if suffix != 'webp':
                assert [round(float(side)) for side in image.info['dpi']] == expected
            assert f'PixelXDimension="{width}"'.encode() in image.info['xmp']
            # What makers write stays where it was.
            after = image.info['exif'].removeprefix(b'Exif\0\0')
            assert after.index(b'a maker') == before.removeprefix(b'Exif\0\0').index(b'a maker')


def test_a_bmp_keeps_alpha_resolution_and_profile(tmp_path, rgba):
    for channels in (3, 4):
        pixels = to_depth(np.ascontiguousarray(rgba[:, :51, :channels]), 8)
        for profile in ({}, {'icc_profile': ICC}):
            metadata = {'dpi': (300, 150), **profile}
            assert write_picture(tmp_path / 'a.bmp', Picture(pixels, metadata, True)) == []
            with Image.open(tmp_path / 'a.bmp') as image:
                np.testing.assert_array_equal(np.asarray(image), pixels)
                assert [round(side) for side in image.info['dpi']] == [300, 150]
            opencv = cv2.imread(str(tmp_path / 'a.bmp'), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(opencv[..., [2, 1, 0, 3][:channels]], pixels)
            assert read_picture(tmp_path / 'a.bmp').metadata.get('icc_profile') == profile.get('icc_profile')


def test_a_gain_map_is_not_announced_when_it_is_left_out(tmp_path, rgba):
    announcing = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        b' xmlns:C="http://ns.google.com/photos/1.0/container/"'
        b' xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
        b' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" dc:rights="mine">'
        b'<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="Primary"/></rdf:li>'
        b'<rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="GainMap" Item:Length="500"/></rdf:li></rdf:Seq>'
        b'</C:Directory></rdf:Description></rdf:RDF></x:xmpmeta>'
    )
    first, second = Image.fromarray(to_depth(rgba[..., :3].copy(), 8)), Image.new('L', (26, 20))
    first.save(tmp_path / 'a.jpg', 'MPO', save_all=True, append_images=[second], xmp=announcing)
    gain_map = _encoded('JPEG', np.zeros((20, 26), np.uint8))
    (tmp_path / 'b.jpg').write_bytes(_encoded('JPEG', to_depth(rgba[..., :3].copy(), 8), xmp=announcing) + gain_map)
    for name in ('a.jpg', 'b.jpg'):
        picture = read_picture(tmp_path / name)
        assert picture.left_out == ('other pictures in the same file (an HDR gain map, a second view)',)
        np.testing.assert_array_equal(picture.pixels, np.asarray(Image.open(tmp_path / name)))
        assert write_picture(tmp_path / f'out_{name}', picture) == []
        content = (tmp_path / f'out_{name}').read_bytes()
        assert b'GainMap' not in content and b'hdrgm:Version' not in content and b'MPF\0' not in content
        xmp = ElementTree.fromstring(Image.open(tmp_path / f'out_{name}').info['xmp'])
        assert b'mine' in ElementTree.tostring(xmp)


def test_other_formats_are_read_as_pillow_reads_them(tmp_path, rgba):
    eight = Image.fromarray(to_depth(rgba[..., :3].copy(), 8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, 'Maker'
    alpha = Image.fromarray(to_depth(rgba, 8))
    written = {
        'a.jfif': eight,
        'a.jpe': eight,
        'a.tga': alpha,
        'b.tga': eight,
        'a.ppm': eight,
        'a.pgm': eight.convert('L'),
    }
    written |= {'a.pbm': eight.convert('1'), 'a.jp2': eight, 'b.jp2': alpha, 'a.j2k': eight, 'a.dib': eight}
    if features.check('avif'):
        written |= {'a.avif': eight, 'b.avif': alpha}
    for name, image in written.items():
        keys = {'exif': exif.tobytes()} if name.endswith(('.jfif', '.jpe', '.avif')) else {}
        kind = {'.jfif': 'JPEG', '.jpe': 'JPEG'}.get((tmp_path / name).suffix)
        image.save(tmp_path / name, kind, **keys)
        with Image.open(tmp_path / name) as expected:
            expected = np.asarray(ImageOps.exif_transpose(expected.convert('L') if name == 'a.pbm' else expected))
        picture = read_picture(tmp_path / name)
        np.testing.assert_array_equal(picture.pixels, expected)
        if keys:
            assert read_picture(tmp_path / name).pixels.shape[:2] == (52, 40)
        write_picture(tmp_path / 'out.png', picture)
        with Image.open(tmp_path / 'out.png') as image:
            assert image.getexif().get(0x0112, 1) == 1 and image.getexif().get(0x010F) == (keys and 'Maker' or None)


@pytest.mark.parametrize('white', [1023, 4095, 65535])
@pytest.mark.parametrize('channels', [1, 3])
def test_deep_ppm(tmp_path, rgba, white, channels):
    samples = (rgba[..., :channels].astype(np.uint32) * white // 65535).astype('>u2')
    header = f'P{6 if channels == 3 else 5}\n# of a scanner\n52 40\n{white}\n'.encode()
    (tmp_path / 'a.ppm').write_bytes(header + samples.tobytes())
    pixels = read_picture(tmp_path / 'a.ppm').pixels
    assert pixels.dtype == np.uint16
    expected = np.rint(samples.astype(float) * 65535 / white)
    np.testing.assert_array_equal(pixels.reshape(samples.shape), expected)
    (tmp_path / 'a.ppm').write_bytes(header + samples.tobytes()[:-10])
    with pytest.raises(InputError, match='a.ppm is damaged'):
        read_picture(tmp_path / 'a.ppm')


@pytest.mark.parametrize(('package', 'kind', 'suffix'), [('pillow_heif', 'HEIF', 'heic'), ('pillow_jxl', 'JXL', 'jxl')])
def test_formats_of_further_packages(tmp_path, rgba, package, kind, suffix):
    program = (
        'import sys; from airnet_basicsr.restore.image_files import read_picture\n'
        f'sys.modules["{package}"] = None\nread_picture(sys.argv[1])'
    )
    content = {'heic': b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'jxl': b'\xff\x0a' + bytes(30)}[suffix]
    (tmp_path / f'none.{suffix}').write_bytes(content)
    done = run_python('-c', program, tmp_path / f'none.{suffix}', cwd=ROOT)
    assert 'picture that cannot be decoded: install pillow-' in done.stdout
    module = pytest.importorskip(package)
    if kind == 'HEIF':
        module.register_heif_opener()
    exif = Image.Exif()
    exif[0x010F] = 'Maker'
    image = Image.fromarray(to_depth(rgba[..., :3].copy(), 8))
    image.save(tmp_path / f'a.{suffix}', exif=exif.tobytes())
    picture = read_picture(tmp_path / f'a.{suffix}')
    np.testing.assert_array_equal(picture.pixels, np.asarray(Image.open(tmp_path / f'a.{suffix}')))
    write_picture(tmp_path / 'b.png', picture)
    assert Image.open(tmp_path / 'b.png').getexif()[0x010F] == 'Maker'


def test_only_a_tga_by_name_is_taken_for_one(tmp_path, rgba):
    content = _encoded('TGA', to_depth(rgba[..., :3].copy(), 8))
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(InputError, match='a.png is no PNG'):
        read_picture(tmp_path / 'a.png')
    for name in ('a.dng', 'a.cr2'):
        (tmp_path / name).write_bytes(_encoded('TIFF', to_depth(rgba[..., :3].copy(), 8)))
        with pytest.raises(InputError, match='is a raw file of a camera'):
            read_picture(tmp_path / name)
