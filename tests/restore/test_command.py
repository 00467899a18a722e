"""The airnet-restore command on folders of real files: what is written where, what is refused, what resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, run_python
from PIL import Image
from skimage import data
from small_models import identity_network, save, small_network

from airnet_basicsr.errors import InputError
from airnet_basicsr.restore.command import main
from airnet_basicsr.restore.image_files import read_picture


@pytest.fixture(scope='module')
def identity(tmp_path_factory):
    return str(save(identity_network(), tmp_path_factory.mktemp('model') / 'identity.pth'))


@pytest.fixture
def album(tmp_path):
    """A folder of good pictures: by place below it, their pixels."""
    photo = data.astronaut()
    pictures = {
        'a.png': photo[:40, :50],
        'grey.PNG': photo[:30, :40, 1],
        'trips/b.jpg': photo[100:140, :60],
        'trips/2024/c.webp': photo[:20, :20],
        'trips/2024/d.tif': photo[:20, :30],
        'e.bmp': photo[:1, :1],
    }
    for place, pixels in pictures.items():
        path = tmp_path / 'album' / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / 'album/notes.txt').write_text('not a picture')
    (tmp_path / 'album/._a.png').write_bytes(b'what macOS leaves behind')
    return tmp_path / 'album', pictures


def places(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_a_folder_keeps_its_structure_and_formats(album, identity, tmp_path, capsys):
    folder, pictures = album
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 0
    assert capsys.readouterr().out.startswith('6 restored, 0 already there, 0 failed')
    assert places(tmp_path / 'out') == sorted(pictures)
    for place in ('a.png', 'grey.PNG', 'trips/2024/d.tif', 'e.bmp'):
        np.testing.assert_array_equal(read_picture(tmp_path / 'out' / place).pixels, pictures[place])
    # A second run has nothing to do, a third resumes where a file is missing.
    before = {place: (tmp_path / 'out' / place).stat().st_mtime_ns for place in pictures}
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 0
    assert '0 restored, 6 already there' in capsys.readouterr().out
    (tmp_path / 'out/a.png').unlink()
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 0
    assert '1 restored, 5 already there' in capsys.readouterr().out
    after = {place: (tmp_path / 'out' / place).stat().st_mtime_ns for place in pictures}
    assert [place for place in pictures if before[place] != after[place]] == ['a.png']
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity, '--overwrite']) == 0
    assert '6 restored, 0 already there' in capsys.readouterr().out


def test_files_patterns_and_other_formats(album, identity, tmp_path):
    folder, pictures = album
    out = tmp_path / 'out'
    assert main([str(folder / 'a.png'), '-o', str(tmp_path / 'new/one.tiff'), '-m', identity]) == 0
    np.testing.assert_array_equal(read_picture(tmp_path / 'new/one.tiff').pixels, pictures['a.png'])
    (folder / 'trips/loop').symlink_to(folder)
    assert main([str(folder / '**/*.[jt][pi]*'), '-o', str(out), '-m', identity]) == 0
    assert places(out) == ['trips/2024/d.tif', 'trips/b.jpg']
    (folder / 'trips/loop').unlink()
    # Of a folder that it matches, what is below, as where a shell expands the pattern.
    assert main([str(folder / 't*'), '-o', str(tmp_path / 'below'), '-m', identity]) == 0
    assert places(tmp_path / 'below') == ['trips/2024/c.webp', 'trips/2024/d.tif', 'trips/b.jpg']
    arguments = [str(folder / 'a.png'), str(folder / 'trips'), '-o', str(tmp_path / 'deep'), '-m', identity]
    assert main([*arguments, '--format', 'png', '--depth', '16']) == 0
    assert places(tmp_path / 'deep') == ['2024/c.png', '2024/d.png', 'a.png', 'b.png']
    np.testing.assert_array_equal(read_picture(tmp_path / 'deep/a.png').pixels, pictures['a.png'] * np.uint16(257))


def test_an_output_folder_inside_the_input_is_no_input(album, identity, capsys):
    folder, pictures = album
    for _ in range(2):
        assert main([str(folder), '-o', str(folder / 'restored'), '-m', identity, '--overwrite']) == 0
        assert '6 restored' in capsys.readouterr().out
    assert places(folder / 'restored') == sorted(pictures)
    with pytest.raises(InputError, match='is the input folder'):
        main([str(folder), '-o', str(folder), '-m', identity])
    before = (folder / 'a.png').read_bytes()
    assert main([str(folder / 'a.png'), '-o', str(folder), '-m', identity, '--overwrite']) == 1
    assert 'would be written over' in capsys.readouterr().err
    assert (folder / 'a.png').read_bytes() == before


def test_two_pictures_for_one_file_are_told(album, identity, tmp_path, capsys):
    folder, _ = album
    (folder / 'a.jpg').write_bytes((folder / 'trips/b.jpg').read_bytes())
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity, '--format', 'png']) == 1
    told = capsys.readouterr()
    assert '6 restored, 0 already there, 1 failed' in told.out
    assert 'a.png: would be written to' in told.err


def test_before_and_after(album, identity, tmp_path):
    folder, pictures = album
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity, '--compare']) == 0
    panel = read_picture(tmp_path / 'out/a.png.compare.jpg').pixels.astype(int)
    assert panel.shape == (40, 50 + 8 + 50, 3)
    assert np.abs(panel[:, :50] - pictures['a.png']).mean() < 3 and np.abs(panel[:, 58:] - pictures['a.png']).mean() < 3
    assert len(places(tmp_path / 'out')) == 12


def test_explanations_are_printed_and_written(album, tmp_path, capsys):
    folder, pictures = album
    net = small_network()
    generator = torch.Generator().manual_seed(0)
    reference = {
        name: {'embeddings': torch.randn(8, 64, generator=generator), 'patch_size': torch.tensor(32), **sigma}
        for name, sigma in (('weak', {'sigma': torch.tensor(15.0)}), ('rain', {}))
    }
    torch.save({'params': net.state_dict(), 'reference': reference}, tmp_path / 'explains.pth')
    arguments = [str(folder), '-o', str(tmp_path / 'out'), '-m', str(tmp_path / 'explains.pth')]
    # The references are drawn: next to them every picture would be strange, and left alone.
    assert main([*arguments, '--explain', '--no-leave-alone']) == 0
    said = json.loads((tmp_path / 'out/trips/b.jpg.json').read_text())
    assert said['kind'] in ('noise', 'rain') and said['probabilities'].keys() == {'weak', 'rain'}
    assert said['confidence'] == pytest.approx(max(said['probabilities'].values()))
    assert said['sigma'] == (15 if said['kind'] == 'noise' else None)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'b.jpg: ' in line]
    assert len(lines) == 1 and f'({said["confidence"]:.0%})' in lines[0]


def test_bad_pictures_are_listed_and_the_others_restored(album, identity, tmp_path):
    folder, _ = album
    (folder / 'empty.png').touch()
    (folder / 'text.png').write_text('hello')
    (folder / 'cut.jpg').write_bytes((folder / 'trips/b.jpg').read_bytes()[:-300])
    frames = [Image.new('RGB', (9, 9), colour) for colour in ('red', 'blue')]
    frames[0].save(folder / 'moving.gif', save_all=True, append_images=frames[1:])
    frames[0].save(folder / 'moving.webp', save_all=True, append_images=frames[1:])
    Image.new('CMYK', (20, 10)).save(folder / 'cmyk.jpg')
    arguments = (folder, 'nowhere', 'no*where', '-o', tmp_path / 'out', '-m', identity)
    done = run_python('-m', 'airnet_basicsr.restore', *arguments, cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert '7 restored, 0 already there, 7 failed' in done.stdout
    for expected in (
        'empty.png is empty (0 bytes)',
        'text.png is no PNG, JPEG, ',
        'cut.jpg is damaged: image file is truncated',
        'moving.gif is a GIF picture',
        'moving.webp holds 2 pictures',
        'nowhere: there is no such file or folder',
        'no*where: no picture matches this pattern',
    ):
        assert done.stdout.count(expected) == 1, expected
    assert len(places(tmp_path / 'out')) == 7


def test_an_output_that_names_a_file_makes_no_folder(album, identity, tmp_path):
    folder, _ = album
    one, two = str(folder / 'a.png'), str(folder / 'e.bmp')
    for arguments, message in (
        ([one, two, '-o', 'x.jpg'], 'names one file'),
        ([str(folder), '-o', 'x.jpg'], 'names one file'),
        ([str(folder / '*.png'), '-o', 'x.JPG'], 'names one file'),
        ([one, '-o', 'x.heic'], r'.heic cannot be written. Take one of .png'),
        ([one, '-o', 'x.gif'], r'.gif cannot be written'),
        ([one, '-o', 'x.pdf'], r'.pdf cannot be written'),
        ([str(folder), '-o', 'x.avif'], r'.avif cannot be written'),
        ([one, '-o', 'x.jpg', '--format', 'png'], 'contradict each other'),
    ):
        arguments[arguments.index('-o') + 1] = str(tmp_path / 'out' / arguments[arguments.index('-o') + 1])
        with pytest.raises(InputError, match=message):
            main([*arguments, '-m', identity])
        assert not (tmp_path / 'out').exists()
    assert main([one, '-o', str(tmp_path / 'out/x.jpeg'), '--format', 'jpg', '-m', identity]) == 0
    assert main([one, '-o', str(tmp_path / 'out/of.2024'), '-m', identity]) == 0
    (tmp_path / 'out/folder.jpg').mkdir()
    assert main([one, two, '-o', str(tmp_path / 'out/folder.jpg'), '-m', identity]) == 0
    assert places(tmp_path / 'out') == ['folder.jpg/a.png', 'folder.jpg/e.bmp', 'of.2024/a.png', 'x.jpeg']


def test_a_tilde_is_the_home_folder(album, identity, tmp_path, monkeypatch):
    folder, _ = album
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / 'home/album')
    shutil.copy(identity, tmp_path / 'home/model.pth')
    assert main(['~/album/*.png', '--output=~/x', '--model=~/model.pth']) == 0
    assert main(['~/album/e.bmp', '--output=~/y.png', '--model=~/model.pth']) == 0
    assert places(tmp_path / 'home/x') == ['a.png'] and (tmp_path / 'home/y.png').exists()
    assert not (tmp_path / '~').exists()


def test_advice_for_two_pictures_of_one_name_helps(album, identity, tmp_path, capsys):
    folder, _ = album
    (folder / 'a.jpg').write_bytes((folder / 'trips/b.jpg').read_bytes())
    out = str(tmp_path / 'out')
    assert main([str(folder), '-o', out, '-m', identity, '--format', 'png']) == 1
    assert 'or leave --format out' in capsys.readouterr().err
    assert main([str(folder), '-o', str(tmp_path / 'second'), '-m', identity]) == 0
    shutil.copy(folder / 'a.png', folder / 'trips/a.png')
    assert (
        main([str(folder / 'a.png'), str(folder / 'trips/a.png'), '-o', str(tmp_path / 'third'), '-m', identity]) == 1
    )
    assert 'give the folder above both' in capsys.readouterr().err
    # What is written beside a picture is no other picture's.
    shutil.copy(folder / 'trips/b.jpg', folder / 'a.png.compare.jpg')
    assert main([str(folder), '-o', str(tmp_path / 'fourth'), '-m', identity, '--compare']) == 1
    assert 'a.png.compare.jpg' in capsys.readouterr().err


def test_pictures_of_other_formats_are_restored_or_named(album, identity, tmp_path, capsys):
    folder, pictures = album
    image = Image.fromarray(pictures['a.png'])
    image.save(folder / 'browser.jfif', 'JPEG', quality=95)
    image.save(folder / 'old.jpe', 'JPEG', quality=95)
    for name in ('game.tga', 'net.ppm', 'film.jp2', 'still.gif'):
        image.save(folder / name)
    Image.fromarray(pictures['a.png']).save(folder / 'camera.dng', 'TIFF')
    (folder / 'phone.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 1
    told = capsys.readouterr()
    assert '11 restored, 0 already there, 3 failed' in told.out
    for name in ('still.gif is a GIF', 'camera.dng is a raw file of a camera', 'phone.heic is '):
        assert name in told.err
    new = ['browser.jfif', 'film.jp2.png', 'game.tga.png', 'net.ppm.png', 'old.jpe']
    assert places(tmp_path / 'out') == sorted([*pictures, *new])
    np.testing.assert_array_equal(read_picture(tmp_path / 'out/net.ppm.png').pixels, pictures['a.png'])


def test_linked_folders_are_walked_and_loops_end(album, identity, tmp_path, capsys):
    folder, pictures = album
    (tmp_path / 'elsewhere').mkdir()
    shutil.copy(folder / 'a.png', tmp_path / 'elsewhere/far.png')
    (folder / 'linked').symlink_to(tmp_path / 'elsewhere')
    (folder / 'trips/again').symlink_to(folder)
    (folder / 'self').symlink_to(folder / 'self')
    (tmp_path / 'elsewhere/back').symlink_to(tmp_path / 'elsewhere')
    (folder / 'gone.png').symlink_to(tmp_path / 'nowhere.png')
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 1
    assert 'gone.png cannot be opened' in capsys.readouterr().err
    assert places(tmp_path / 'out') == sorted([*pictures, 'linked/far.png'])


def test_names_that_are_no_text_keep_their_pictures(identity, tmp_path):
    folder = tmp_path / 'album'
    folder.mkdir()
    name = os.fsdecode(b'caf\xe9.png')
    Image.fromarray(data.astronaut()[:24, :32]).save(tmp_path / 'a.png')
    shutil.copy(tmp_path / 'a.png', folder / name)
    (folder / os.fsdecode(b'bad\xff.png')).write_bytes(b'nothing')
    for encoding in ('utf-8', 'ascii'):
        out = tmp_path / encoding
        arguments = ('-m', 'airnet_basicsr.restore', folder, '-o', out, '--explain')
        done = run_python(*arguments, cwd=ROOT, PYTHONIOENCODING=encoding)
        assert done.returncode == 1 and 'Traceback' not in done.stdout, done.stdout
        assert '1 restored, 0 already there, 1 failed' in done.stdout and 'Error' not in done.stdout
        assert sorted(os.listdir(out)) == [name, f'{name}.json']


def test_what_a_new_file_cannot_hold_is_listed_once(identity, tmp_path, capsys):
    folder = tmp_path / 'album'
    folder.mkdir()
    for i in range(3):
        Image.fromarray(data.astronaut()[:24, :32]).save(folder / f'{i}.jpg', dpi=(300, 300), comment=b'hello')
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity, '--format', 'webp']) == 0
    told = capsys.readouterr()
    assert told.err.count('Left out: ') == 2
    assert f'Left out: resolution, of {folder / "0.jpg"} and 2 more' in told.err
    assert main([str(folder), '-o', str(tmp_path / 'out2'), '-m', identity]) == 0
    assert 'Left out' not in capsys.readouterr().err


def test_damage_of_any_kind_does_not_end_a_run(identity, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / 'damaged'
    folder.mkdir()
    photo = Image.fromarray(data.astronaut()[:24, :32])
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, 'An Artist'
    for suffix in ('png', 'jpg', 'webp', 'tif', 'bmp'):
        photo.save(folder / f'good.{suffix}', exif=exif)
        content = np.frombuffer((folder / f'good.{suffix}').read_bytes(), np.uint8)
        for i in range(50):
            changed = content.copy()
            if i % 2:
                changed = changed[: rng.integers(len(changed))]
            else:
                # Half of the flips in the first bytes, where the structure is.
                where = rng.integers(len(changed) if i % 4 else min(200, len(changed)), size=rng.integers(1, 6))
                changed[where] ^= np.uint8(1) << rng.integers(8, size=len(where), dtype=np.uint8)
            (folder / f'{i}.{suffix}').write_bytes(changed.tobytes())
    done = run_python('-m', 'airnet_basicsr.restore', folder, '-o', tmp_path / 'out', '-m', identity, cwd=tmp_path)
    assert done.returncode == 1, done.stdout[-2000:]
    assert 'Traceback' not in done.stdout
    summary = next(line for line in done.stdout.splitlines() if ' restored, ' in line)
    restored, _, failed = (int(part.split()[0]) for part in summary.split(';')[0].split(', '))
    assert restored + failed == 255 and failed > 100
    assert len(places(tmp_path / 'out')) == restored
    for suffix in ('png', 'jpg', 'webp', 'tif', 'bmp'):
        read_picture(tmp_path / f'out/good.{suffix}')
    for path in (tmp_path / 'out').iterdir():
        read_picture(path)


def test_shards_share_the_pictures(album, identity, tmp_path, capsys):
    folder, pictures = album
    counts = []
    for i in (1, 2, 3, 4):
        assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity, '--shard', f'{i}/4']) == 0
        counts.append(int(capsys.readouterr().out.split()[0]))
    assert sorted(counts) == [1, 1, 2, 2]
    assert places(tmp_path / 'out') == sorted(pictures)
    for wrong in ('0/4', '5/4', '2', 'a/b'):
        with pytest.raises(InputError, match='expected I/N'):
            main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity, '--shard', wrong])


def test_torchrun_splits_a_folder_and_tells_once(album, identity, tmp_path):
    folder, pictures = album
    (folder / 'text.png').write_text('hello')
    arguments = ('-m', 'airnet_basicsr.restore', folder, '-o', tmp_path / 'out', '-m', identity)
    done = run_python('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', *arguments, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout.count('restored, ') == 1 and '6 restored, 0 already there, 1 failed' in done.stdout
    assert done.stdout.count('text.png is no PNG') == 1
    assert places(tmp_path / 'out') == sorted(pictures)


def test_an_interrupted_run_resumes(identity, tmp_path):
    (tmp_path / 'many').mkdir()
    Image.fromarray(data.astronaut()).save(tmp_path / 'many/0.png')
    (tmp_path / 'many/00.png').write_text('broken')
    for i in range(1, 200):
        shutil.copy(tmp_path / 'many/0.png', tmp_path / f'many/{i}.png')
    command = [sys.executable, '-m', 'airnet_basicsr.restore', tmp_path / 'many', '-o', tmp_path / 'out']
    process = subprocess.Popen([*command, '-m', identity], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / 'out').exists() or len(places(tmp_path / 'out')) < 5:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and 'resumes from here' in said and 'Traceback' not in said
    assert ', 1 failed' in said and '00.png is no PNG' in said
    written = places(tmp_path / 'out')
    assert 5 <= len(written) < 200
    for place in written:
        assert read_picture(tmp_path / 'out' / place).pixels.shape == (512, 512, 3)


def test_folders_that_cannot_be_used(album, identity, tmp_path, capsys):
    folder, _ = album
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(InputError, match='the output folder .*file cannot be written: File exists'):
        main([str(folder), '-o', str(tmp_path / 'file'), '-m', identity])
    # What stands in the way of one picture only is told at the end.
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/trips').write_text('in the way')
    assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 1
    assert capsys.readouterr().err.count('cannot be written: ') == 3
    (tmp_path / 'out/trips').unlink()
    (tmp_path / 'nothing').mkdir()
    with pytest.raises(InputError, match='no pictures in .*nothing'):
        main([str(tmp_path / 'nothing'), '-m', identity])
    if os.geteuid():
        (folder / 'trips').chmod(0)
        assert main([str(folder), '-o', str(tmp_path / 'out'), '-m', identity]) == 1
        assert 'trips: the folder cannot be read: Permission denied' in capsys.readouterr().err
        (folder / 'trips').chmod(0o700)


def test_a_first_minute(album, tmp_path):
    """From --help alone, with the network that ships."""
    folder, pictures = album
    done = run_python('-m', 'airnet_basicsr.restore', '--help', cwd=ROOT)
    assert done.returncode == 0 and 'airnet restore photos/ -o restored/\n' in done.stdout
    done = run_python('-m', 'airnet_basicsr.restore', folder, '-o', 'restored/', cwd=tmp_path)
    assert done.returncode == 0 and '6 restored, 0 already there, 0 failed' in done.stdout, done.stdout
    assert places(tmp_path / 'restored') == sorted(pictures)
