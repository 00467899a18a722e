"""Damaged and unexpected files: named, never silently stored, nothing else harmed."""

import os
import shutil
from pathlib import Path

import cv2
import lmdb
import numpy as np
import PIL.Image
import pytest
from building import content, photographs, pictures, prepare, reside, save


@pytest.fixture
def ots(tmp_path: Path) -> Path:
    reside(tmp_path / 'ots', 3, 3)
    return tmp_path / 'ots'


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def test_a_truncated_jpeg_stops_or_is_skipped(ots: Path, tmp_path: Path) -> None:
    broken = ots / 'haze/part1/0002_0.8_0.06.jpg'
    intact = broken.read_bytes()
    _truncate(broken)
    stopped = prepare('ots', '--source', ots, '--out', tmp_path / 'a')
    assert stopped.returncode == 1
    assert str(broken) in stopped.stderr and '--on-error skip' in stopped.stderr and 'Traceback' not in stopped.stderr
    # Both ways on from there: leave it out, or put a good copy in its place.
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    skipped = prepare('ots', '--source', ots, '--out', tmp_path / 'a', '--on-error', 'skip')
    assert skipped.returncode == 1
    assert f'Left out: {broken}' in skipped.stderr and '1 images were left out' in skipped.stderr
    assert len(content(tmp_path / 'a' / 'OTS_lq.lmdb')[0]) == 8
    assert prepare('verify', tmp_path / 'a').returncode == 0
    broken.write_bytes(intact)
    assert prepare('ots', '--source', ots, '--out', tmp_path / 'b').returncode == 0
    assert len(content(tmp_path / 'b' / 'OTS_lq.lmdb')[0]) == 9


def test_a_pair_is_left_out_whole(ots: Path, tmp_path: Path) -> None:
    _truncate(ots / 'clear/0003.jpg')
    done = prepare('ots', '--source', ots, '--out', tmp_path / 'out', '--on-error', 'skip')
    assert done.returncode == 1 and '4 images were left out' in done.stderr
    assert len(content(tmp_path / 'out' / 'OTS_lq.lmdb')[0]) == 6

    for number, image in enumerate(photographs(3), 1):
        save(tmp_path / 'rain' / 'gt' / f'norain-{number}.png', image)
        save(tmp_path / 'rain' / 'rainy' / f'rain-{number}.png', image)
    _truncate(tmp_path / 'rain' / 'rainy' / 'rain-2.png')
    done = prepare('rain100l-train', '--source', tmp_path / 'rain', '--out', tmp_path / 'out', '--on-error', 'skip')
    assert done.returncode == 1
    for kind in ('gt', 'lq'):
        assert list(content(tmp_path / 'out' / f'Rain100L_train_{kind}.lmdb')[0]) == [b'001', b'003']
    assert prepare('verify', tmp_path / 'out').returncode == 0


def test_what_is_wrong_is_said_before_anything_is_written(ots: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    (ots / 'clear/0002.jpg').rename(tmp_path / 'aside.jpg')
    done = prepare('ots', '--source', ots, '--out', out)
    assert done.returncode == 1 and '0002_0.8_0.04.jpg has no clean image 0002' in done.stderr and '3 of' in done.stderr
    (tmp_path / 'aside.jpg').rename(ots / 'clear/0002.jpg')

    save(ots / 'haze/part2/0001_0.8_0.04.jpg', photographs(1)[0])
    done = prepare('ots', '--source', ots, '--out', out)
    assert done.returncode == 1 and 'part1/0001_0.8_0.04.jpg and ' in done.stderr and 'same key' in done.stderr
    shutil.rmtree(ots / 'haze/part2')

    save(ots / 'haze/part1/0001_0.8_0.04.jpg', photographs(1, 60, 60)[0])
    done = prepare('ots', '--source', ots, '--out', out)
    assert done.returncode == 1 and 'is 60x60, its clean image 0001 160x140' in done.stderr

    done = prepare('ots', '--source', ots / 'clear', '--out', out)
    assert done.returncode == 1 and 'not recognised' in done.stderr and 'haze/' in done.stderr
    done = prepare('ots', '--source', tmp_path / 'nowhere', '--out', out)
    assert done.returncode == 1 and 'nowhere' in done.stderr
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_an_unreadable_folder(ots: Path, tmp_path: Path) -> None:
    (ots / 'clear').chmod(0)
    done = prepare('ots', '--source', ots, '--out', tmp_path / 'out')
    (ots / 'clear').chmod(0o755)
    assert done.returncode == 1 and 'cannot be read' in done.stderr and 'Traceback' not in done.stderr


def test_too_little_space_is_noticed_before_starting(ots: Path, tmp_path: Path) -> None:
    # A hole makes the file larger than any disk has room for.
    os.truncate(ots / 'haze/part1/0001_0.8_0.04.jpg', shutil.disk_usage(tmp_path).free + 10**9)
    done = prepare('ots', '--source', ots, '--out', tmp_path / 'out')
    assert done.returncode == 1 and 'GB are free' in done.stderr
    assert not list((tmp_path / 'out').iterdir())


def test_a_foreign_lmdb_is_never_touched(ots: Path, tmp_path: Path) -> None:
    path = tmp_path / 'out' / 'OTS_lq.lmdb'
    path.mkdir(parents=True)
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'mine', b'precious')
    before = (path / 'data.mdb').read_bytes()
    for options in ((), ('--overwrite',)):
        done = prepare('ots', '--source', ots, '--out', tmp_path / 'out', *options)
        assert done.returncode == 1 and 'not written by this program' in done.stderr
    assert (path / 'data.mdb').read_bytes() == before
    assert sorted(entry.name for entry in (tmp_path / 'out').iterdir()) == ['OTS_lq.lmdb']


def test_images_of_other_kinds_are_converted_and_counted(tmp_path: Path) -> None:
    photo = photographs(1)[0]
    folder = tmp_path / 'mine'
    save(folder / 'grey.png', photo[..., 0])
    save(folder / 'deep.png', photo.astype(np.uint16) * 257)
    save(folder / 'alpha.png', np.dstack([photo, photo[..., :1]]))
    PIL.Image.fromarray(photo[..., ::-1]).save(folder / 'turned.png')
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    PIL.Image.fromarray(photo[..., ::-1]).save(folder / 'turned.jpg', exif=turned, quality=100)
    (folder / 'turned.png').rename(folder / 'plain 1.5.png')
    done = prepare('clean', '--name', 'Mine', '--source', folder, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    for words in ('1 images: grey', '1 images: 16-bit', '1 images: with alpha', '1 images: rotated'):
        assert words in done.stdout
    stored = pictures(tmp_path / 'out' / 'Mine.lmdb')
    assert sorted(stored) == ['alpha', 'deep', 'grey', 'plain_1p5', 'turned']
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in stored.values())
    for key in ('alpha', 'deep', 'plain_1p5'):
        np.testing.assert_array_equal(stored[key], photo)
    np.testing.assert_array_equal(stored['grey'], cv2.cvtColor(photo[..., 0], cv2.COLOR_GRAY2BGR))
    assert stored['turned'].shape == (160, 140, 3)
    assert prepare('verify', tmp_path / 'out').returncode == 0


def test_pairs_with_a_turned_picture_show_the_same(tmp_path: Path) -> None:
    """Clean TIFFs, WebPs and JPEGs that ask to be turned, and their upright degraded pictures."""
    photo = photographs(1)[0]
    upright = {2: photo[:, ::-1], 3: photo[::-1, ::-1], 5: photo.swapaxes(0, 1), 6: np.rot90(photo, -1)}
    upright[8] = np.rot90(photo)
    for orientation, image in upright.items():
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        for suffix in ('tif', 'webp', 'jpg'):
            (tmp_path / 'gt').mkdir(exist_ok=True)
            path = tmp_path / 'gt' / f'{orientation}{suffix}.{suffix}'
            PIL.Image.fromarray(photo[..., ::-1]).save(path, exif=exif, quality=100)
            save(tmp_path / 'lq' / f'{orientation}{suffix}.png', np.ascontiguousarray(image))
    done = prepare('pairs', '--name', 'P', '--gt', tmp_path / 'gt', '--lq', tmp_path / 'lq', '--out', tmp_path / 'out')
    assert done.returncode == 0 and '15 images: rotated' in done.stdout
    lq = pictures(tmp_path / 'out' / 'P_lq.lmdb')
    for key, image in pictures(tmp_path / 'out' / 'P_gt.lmdb').items():
        assert cv2.PSNR(image, lq[key]) > 30, key
    # An LMDB of another name is found too; data that was cut short does not end the check without a word.
    (tmp_path / 'out' / 'P_gt.lmdb').rename(tmp_path / 'out' / 'Other')
    data = tmp_path / 'out' / 'P_lq.lmdb' / 'data.mdb'
    data.write_bytes(data.read_bytes()[:5000])
    done = prepare('verify', tmp_path / 'out')
    assert done.returncode == 1 and 'data.mdb was cut short: 5000 of' in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith('Other')][0].endswith('ok')
    done = prepare('clean', '--name', 'X', '--source', tmp_path / 'out' / 'Other', '--out', tmp_path / 'out')
    assert done.returncode == 1 and 'which is an LMDB' in done.stderr


def test_pairs_of_slightly_different_sizes_are_cut_to_one(tmp_path: Path) -> None:
    large = photographs(1, 150, 170)[0]
    centre = large[5:145, 5:165]
    save(tmp_path / 'hazy' / '0001_0.8_0.2.png', centre)
    save(tmp_path / 'hazy' / '0001_0.9_0.1.png', large)
    save(tmp_path / 'gt' / '0001.png', large)
    done = prepare('sots-outdoor', '--source', tmp_path, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert '2 images: cut around its centre' in done.stdout
    for kind in ('gt', 'lq'):
        for image in pictures(tmp_path / 'out' / f'SOTS_outdoor_{kind}.lmdb').values():
            np.testing.assert_array_equal(image, centre)


def test_verify_finds_what_is_wrong(ots: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert prepare('ots', '--source', ots, '--out', out).returncode == 0
    with lmdb.open(str(out / 'OTS_lq.lmdb')) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b'0001_0p8_0p04')
        transaction.put(b'0002_0p8_0p06', transaction.get(b'0002_0p8_0p06')[:-500])
        small = cv2.imencode('.png', photographs(1, 50, 60)[0])[1].tobytes()
        transaction.put(b'0003_0p8_0p08', small)
        transaction.put(b'0003_0p8_0p04', cv2.imencode('.png', photographs(1)[0][..., 0])[1].tobytes())
    meta = out / 'OTS_lq.lmdb' / 'meta_info.txt'
    meta.write_text(meta.read_text().replace('0 0002\n', '0 0009\n', 1))
    (out / 'WED.partial').mkdir()
    done = prepare('verify', out)
    assert done.returncode == 1
    for words in ('0001_0p8_0p04 is listed in meta_info.txt but not stored', '0002_0p8_0p06 cannot be decoded',
                  '0003_0p8_0p08 is 60x50, in meta_info.txt 160x140', '0003_0p8_0p04 is not a plain 8-bit colour',
                  'has no clean image 0009', '8 images stored, 9 listed', 'WED.partial is unfinished'):  # fmt: skip
        assert words in done.stderr, words
    assert prepare('verify', tmp_path).returncode == 1
