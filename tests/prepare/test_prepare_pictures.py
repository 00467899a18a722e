"""Preparation of pictures of many formats, turned by their files, behind links."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from building import photographs, pictures, prepare, save
from PIL import features

from airnet_basicsr.plugin.data.image_source import ImageSource


@pytest.fixture
def photo() -> np.ndarray:
    """uint8, RGB, 140 x 160."""
    return photographs(1)[0][..., ::-1].copy()


def _stored_as(orientation: int, upright: np.ndarray) -> np.ndarray:
    turned = {5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright, 2).swapaxes(0, 1)}
    turned |= {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 8: np.rot90(upright, -1)}
    return np.ascontiguousarray(turned[orientation])


def _write_turned(folder: Path, upright: np.ndarray) -> None:
    """``upright`` in lossless files of every orientation and format that has one."""
    folder.mkdir(parents=True)
    for orientation in range(1, 9):
        stored = _stored_as(orientation, upright)
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        PIL.Image.fromarray(stored).save(folder / f'png{orientation}.png', exif=exif.tobytes())
        PIL.Image.fromarray(stored).save(folder / f'webp{orientation}.webp', exif=exif.tobytes(), lossless=True)
        tag = [(274, 'H', 1, orientation, True)]
        tifffile.imwrite(folder / f'tiff{orientation}.tif', stored, photometric='rgb', metadata=None, extratags=tag)
        # Pillow's way of reading these is what went wrong.
        PIL.Image.fromarray(stored).save(folder / f'lzw{orientation}.tif', compression='tiff_lzw', exif=exif.tobytes())


def test_turned_files_are_upright_in_folder_and_lmdb(tmp_path: Path, photo: np.ndarray) -> None:
    _write_turned(tmp_path / 'mine', photo)
    done = prepare('clean', '--name', 'Mine', '--source', tmp_path / 'mine', '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    stored = pictures(tmp_path / 'out/Mine.lmdb')
    source = ImageSource(str(tmp_path / 'mine'), 'dataroot_gt')
    assert sorted(stored) == source.keys and len(stored) == 32
    for key, image in stored.items():
        np.testing.assert_array_equal(image[..., ::-1], photo, key)
        np.testing.assert_array_equal(source.read(key), photo, key)
    done = prepare('verify', tmp_path / 'out')
    assert done.returncode == 0 and 'ok' in done.stdout


def test_a_turned_jpeg_beside_an_upright_picture_is_a_pair(tmp_path: Path, photo: np.ndarray) -> None:
    for name in ('gt', 'lq'):
        (tmp_path / name).mkdir()
    for orientation in (3, 6):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        stored = PIL.Image.fromarray(_stored_as(orientation, photo))
        stored.save(tmp_path / f'gt/{orientation}.jpg', exif=exif.tobytes(), quality=100, subsampling=0)
        save(tmp_path / f'lq/{orientation}.png', photo[..., ::-1] // 2)
    command = ('pairs', '--name', 'Mine', '--gt', tmp_path / 'gt', '--lq', tmp_path / 'lq', '--out', tmp_path / 'out')
    done = prepare(*command)
    assert done.returncode == 0, done.stderr
    stored = pictures(tmp_path / 'out/Mine_gt.lmdb')
    source = ImageSource(str(tmp_path / 'gt'), 'dataroot_gt')
    for key in ('3', '6'):
        assert np.abs(source.read(key).astype(int) - photo).mean() < 2
        np.testing.assert_array_equal(stored[key][..., ::-1], source.read(key))


def test_formats_that_pillow_reads(tmp_path: Path, photo: np.ndarray) -> None:
    folder = tmp_path / 'mine'
    folder.mkdir()
    image = PIL.Image.fromarray(photo)
    names = ['a.jfif', 'b.jpe', 'c.tga', 'd.ppm', 'e.jp2', 'f.bmp'] + ['g.avif'] * features.check('avif')
    for name in names:
        image.save(folder / name, 'JPEG' if name in ('a.jfif', 'b.jpe') else None)
    tifffile.imwrite(folder / 'h.tif', photo.transpose(2, 0, 1) * np.uint16(257), photometric='rgb', metadata=None)
    done = prepare('clean', '--name', 'Mine', '--source', folder, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    stored = pictures(tmp_path / 'out/Mine.lmdb')
    source = ImageSource(str(folder), 'dataroot_gt')
    assert sorted(stored) == source.keys == sorted(Path(name).stem for name in [*names, 'h.tif'])
    for name in names:
        expected = np.asarray(PIL.Image.open(folder / name))
        np.testing.assert_array_equal(stored[name[0]][..., ::-1], expected, name)
        np.testing.assert_array_equal(source.read(name[0]), expected, name)
    np.testing.assert_array_equal(stored['h'][..., ::-1], photo)
    # What is not taken is named.
    image.save(folder / 'still.gif')
    done = prepare('clean', '--name', 'Other', '--source', folder, '--out', tmp_path / 'out')
    assert done.returncode == 1 and 'still.gif is not a readable image' in done.stderr
    done = prepare('clean', '--name', 'Other', '--source', folder, '--out', tmp_path / 'out', '--on-error', 'skip')
    assert 'still.gif' in done.stderr and len(pictures(tmp_path / 'out/Other.lmdb')) == len(stored)


def test_linked_folders_are_prepared_and_loops_end(tmp_path: Path, photo: np.ndarray) -> None:
    save(tmp_path / 'mine/a.png', photo)
    save(tmp_path / 'elsewhere/b.png', photo)
    (tmp_path / 'mine/linked').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'mine/again').symlink_to(tmp_path / 'mine')
    (tmp_path / 'mine/self').symlink_to(tmp_path / 'mine/self')
    (tmp_path / 'elsewhere/back').symlink_to(tmp_path / 'mine')
    assert ImageSource(str(tmp_path / 'mine'), 'dataroot_gt').keys == ['a', 'linked/b']
    done = prepare('clean', '--name', 'Mine', '--source', tmp_path / 'mine', '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert sorted(pictures(tmp_path / 'out/Mine.lmdb')) == ['a', 'linked_b']
    # A layout that is recognised, with a link to itself beside it.
    for number in (1, 2):
        save(tmp_path / f'rain/gt/norain-{number}.png', photo)
        save(tmp_path / f'rain/rainy/rain-{number}.png', photo)
    (tmp_path / 'rain/loop').symlink_to(tmp_path / 'rain')
    (tmp_path / 'both').mkdir()
    (tmp_path / 'both/one').symlink_to(tmp_path / 'rain')
    (tmp_path / 'both/two').symlink_to(tmp_path / 'rain')
    for root in ('rain', 'both'):
        done = prepare('rain100l-train', '--source', tmp_path / root, '--out', tmp_path / f'out_{root}')
        assert done.returncode == 0, done.stderr
