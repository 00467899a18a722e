"""Folders of pictures scored: against scikit-image and BasicSR, in all the ways in which folders can be wrong."""

import csv
import json
import os

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim
from conftest import ROOT, run_python, write_image
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.harm import Harm
from airnet_basicsr.report.protocols import DEFAULT, USES, correct_brightness, describe, measure, split_key, standing
from airnet_basicsr.report.score import compare, main, score


@pytest.fixture
def folders(tmp_path, photos):
    """Clean, degraded and restored pictures of five photographs, the last ones named as BasicSR does."""
    rng = np.random.default_rng(0)
    for name, clean in list(photos.items())[:5]:
        write_image(tmp_path / f'clean/{name}.png', clean)
        for folder, sigma, ending in (('noisy', 25, ''), ('restored', 8, '_run'), ('other', 12, '_other')):
            image = np.clip(clean + rng.normal(0, sigma, clean.shape), 0, 255).astype(np.uint8)
            write_image(tmp_path / f'{folder}/{name}{ending}.png', image)
    return tmp_path


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_every_protocol_against_the_libraries(folders):
    scores = score(folders / 'restored', folders / 'clean', everything=True)
    assert len(scores.values) == 5 and scores.rule == "'_run' taken off" and not scores.not_measured
    for name, values in scores.values.items():
        restored, clean = read(folders / 'restored' / name), read(folders / 'clean' / scores.partners[name])
        bgr = [np.ascontiguousarray(image[..., ::-1]) for image in (restored, clean)]
        exact = [image / 255 for image in (restored, clean)]
        basicsr = {
            'psnr_rgb8': calculate_psnr(*bgr, 0),
            'ssim_gaussian_rgb8': calculate_ssim(*bgr, 0),
            'psnr_rgb8_border4': calculate_psnr(*bgr, 4),
            'ssim_gaussian_rgb8_border4': calculate_ssim(*bgr, 4),
            'psnr_y': calculate_psnr(*bgr, 0, test_y_channel=True),
            'ssim_gaussian_y': calculate_ssim(*bgr, 0, test_y_channel=True),
            'psnr_y_border4': calculate_psnr(*bgr, 4, test_y_channel=True),
            'ssim_gaussian_y_border4': calculate_ssim(*bgr, 4, test_y_channel=True),
        }
        # MATLAB's rgb2ycbcr of 8 bits, as its documentation has it.
        y8 = [np.round(16 + image @ (65.481, 128.553, 24.966) / 255).astype(np.uint8) for image in (restored, clean)]
        middle = [image[:, 4:100] for image in exact]  # 96 x 104
        skimage = {
            'psnr_rgb': peak_signal_noise_ratio(*exact, data_range=1),
            'ssim_uniform_rgb': structural_similarity(*exact, data_range=1, channel_axis=2),
            'ssim_gaussian_sample_rgb': structural_similarity(
                *exact, data_range=1, channel_axis=2, gaussian_weights=True
            ),
            'psnr_rgb_multiple16': peak_signal_noise_ratio(*middle, data_range=1),
            'ssim_uniform_rgb_multiple16': structural_similarity(*middle, data_range=1, channel_axis=2),
            'psnr_y8': peak_signal_noise_ratio(*y8),
            'ssim_uniform_y8': structural_similarity(*y8),
        }
        assert {key: values[key] for key in basicsr | skimage} == pytest.approx(basicsr | skimage, abs=1e-6)


def test_the_command_prints_and_writes_what_it_measured(folders):
    command = ['-m', 'airnet_basicsr.report.score', 'restored', 'other', '--gt', 'clean', '--input', 'noisy', '--all']
    done = run_python(*command, '--out', 'scores', cwd=folders)
    assert done.returncode == 0, done.stdout
    told = json.loads((folders / 'scores/score.json').read_text())
    with open(folders / 'scores/score.csv') as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for found in told['folders']:
        psnrs = [calculate_psnr(read(folders / found['folder'] / p['restored']), read(folders / 'clean' / p['gt']), 0)
                 for p in found['pictures']]  # fmt: skip
        assert found['means']['psnr_rgb8']['value'] == pytest.approx(np.mean(psnrs), abs=1e-6)
        assert f'BasicSR: PSNR {np.mean(psnrs):.2f} ±' in done.stdout
        mine = [float(line['psnr_rgb8']) for line in lines if line['folder'] == found['folder']]
        assert mine == pytest.approx(psnrs, abs=1e-6)
        assert found['harm'] | {'worst_loss': 0, 'worst_image': ''} == {
            'images': 5,
            'share_made_worse': 0,
            'worst_loss': 0,
            'worst_image': '',
            'clean_given_back': None,
            'clean_least': None,
        }
        assert found['means_of_input']['psnr_rgb8']['value'] < 21
    first, second = ([picture['values']['psnr_rgb8'] for picture in found['pictures']] for found in told['folders'])
    differences = np.subtract(second, first)
    low, high = stats.t.interval(0.95, 4, loc=differences.mean(), scale=stats.sem(differences))
    difference = told['comparisons'][0]['differences']['psnr_rgb8']
    assert difference['value'] - difference['interval'] == pytest.approx(low)
    assert difference['value'] + difference['interval'] == pytest.approx(high)
    assert f'psnr_rgb8: {differences.mean():+.4f} ±' in done.stdout
    for words in ('comparable with: ', 'not with: ', 'y8_multiple16', 'corrected (!)', 'unclipped noise'):
        assert words in done.stdout


def test_the_order_of_files_changes_nothing(folders, monkeypatch):
    before = score(folders / 'restored', folders / 'clean').values
    walk = __import__('os').walk
    monkeypatch.setattr('os.walk', lambda *a, **k: ((top, dirs, names[::-1]) for top, dirs, names in walk(*a, **k)))
    assert list(score(folders / 'restored', folders / 'clean').values.items()) == list(before.items())


def test_equal_pictures(folders):
    scores = score(folders / 'clean', folders / 'clean', everything=True)
    for values in scores.values.values():
        assert all(value == (np.inf if key.startswith('psnr') else pytest.approx(1)) for key, value in values.items())
    assert 'equals its clean one' in ' '.join(scores.notes)


def test_y_of_grey():
    """Y has a range of 219 in place of 255: of grey pictures it is that much closer."""
    rng = np.random.default_rng(0)
    clean = np.repeat(rng.integers(0, 256, (48, 48, 1), dtype=np.uint8), 3, axis=2)
    restored = np.clip(clean + np.int16(5), 0, 255).astype(np.uint8)
    values = measure(restored, clean, everything=True)
    assert values['psnr_y'] - values['psnr_rgb8'] == pytest.approx(20 * np.log10(255 / 219), abs=1e-4)


def test_brightness_given_back(photos):
    """Half as bright a picture is the clean one to a test that corrects the brightness; of 8 bits up to rounding."""
    clean = photos['coffee2'] / 255
    assert measure(clean * 0.5, clean, everything=True)['psnr_corrected'] > 100
    assert measure(clean * 0.5, clean, everything=True)['psnr_rgb'] < 15
    halved = np.round(photos['coffee2'] * 0.5).astype(np.uint8)
    # The rounding, doubled again by the correction: of an even value 0, of an odd one 1 of 255.
    scale = (clean.mean((0, 1)) @ (0.299, 0.587, 0.114)) / ((halved / 255).mean((0, 1)) @ (0.299, 0.587, 0.114))
    rounding = np.clip(halved * scale, 0, 255) - photos['coffee2']
    expected = 10 * np.log10(255**2 / np.mean(rounding**2))
    assert measure(halved, photos['coffee2'], everything=True)['psnr_corrected'] == pytest.approx(expected, abs=1e-6)
    assert expected > 48
    black = np.zeros_like(clean)
    np.testing.assert_array_equal(correct_brightness(black, clean), black)


def test_sixteen_bits(folders):
    """A picture of 16 bits keeps them where RGB is taken with all bits, and is rounded where it is BasicSR's."""
    rng = np.random.default_rng(1)
    exact = {}
    for path in sorted((folders / 'clean').iterdir()):
        exact[path.name] = np.clip(read(path) / 255 + rng.normal(0, 0.003, (96, 104, 3)), 0, 1)
        deep = np.round(exact[path.name] * 65535).astype(np.uint16)
        (folders / 'deep').mkdir(exist_ok=True)
        cv2.imwrite(str(folders / 'deep' / path.name), deep[..., ::-1])
    scores = score(folders / 'deep', folders / 'clean')
    assert not scores.eight_bits
    for name, values in scores.values.items():
        clean = read(folders / 'clean' / name) / 255
        of_floats = peak_signal_noise_ratio(clean, exact[name], data_range=1)
        of_bytes = peak_signal_noise_ratio(clean, np.round(exact[name] * 255) / 255, data_range=1)
        assert values['psnr_rgb'] == pytest.approx(of_floats, abs=1e-3)
        assert values['psnr_rgb8'] == pytest.approx(of_bytes, abs=2e-3)
        assert values['psnr_rgb'] - values['psnr_rgb8'] > 0.3


def test_alpha_grey_and_jpeg(folders):
    names = sorted(path.name for path in (folders / 'clean').iterdir())
    for name in names:
        image = cv2.imread(str(folders / 'clean' / name))
        alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
        if name == names[0]:
            alpha[3, 3] = 254
        (folders / 'mixed').mkdir(exist_ok=True)
        cv2.imwrite(str(folders / 'mixed' / name), np.concatenate([image, alpha], 2))
    (folders / 'mixed' / names[1]).unlink()
    jpeg = folders / 'mixed' / names[1].replace('png', 'jpg')
    cv2.imwrite(str(jpeg), cv2.imread(str(folders / 'clean' / names[1])))
    cv2.imwrite(str(folders / 'mixed' / names[2]), cv2.imread(str(folders / 'clean' / names[2]), cv2.IMREAD_GRAYSCALE))
    (folders / 'mixed' / names[3]).write_bytes(b'\x89PNG')
    scores = score(folders / 'mixed', folders / 'clean')
    assert set(scores.not_measured) == {names[0], names[3]}
    assert 'has transparent parts' in scores.not_measured[names[0]]
    assert scores.values[names[4]]['psnr_rgb8'] == np.inf
    expected = calculate_psnr(cv2.imread(str(jpeg)), cv2.imread(str(folders / 'clean' / names[1])), 0)
    # Decoders of JPEG may differ by a level here and there.
    assert scores.values[jpeg.name]['psnr_rgb8'] == pytest.approx(expected, abs=0.05)
    assert '1 restored pictures are JPEGs' in ' '.join(scores.notes)
    assert '1 restored pictures are grey' in ' '.join(scores.notes)
    with pytest.raises(InputError, match='2 pictures were not measured and are in no mean'):
        main([str(folders / 'mixed'), '--gt', str(folders / 'clean')])


@pytest.mark.parametrize(
    ('window', 'words'),
    [
        ((slice(5, 85), slice(3, 99)), 'cut around the middle'),
        ((slice(0, 80), slice(0, 96)), 'cut at the right and the bottom'),
        ((slice(10, -10), slice(10, -10)), 'cut by 10 pixels at each side (SOTS indoor)'),
    ],
)
def test_crops_of_restored_pictures(tmp_path, photos, window, words):
    """Of 91 x 102 pixels multiples of 16 are left, around the middle or from the corner; the inputs are whole."""
    rng = np.random.default_rng(0)
    expected = {}
    for name, image in photos.items():
        clean = image[:91, :102]
        restored = np.clip(clean[window] + rng.normal(0, 5, clean[window].shape), 0, 255).astype(np.uint8)
        write_image(tmp_path / f'clean/{name}.png', clean)
        write_image(tmp_path / f'noisy/{name}.png', np.clip(clean + np.int16(20), 0, 255).astype(np.uint8))
        write_image(tmp_path / f'restored/{name}.png', restored)
        expected[f'{name}.png'] = calculate_psnr(restored, clean[window], 0)
    scores = score(tmp_path / 'restored', tmp_path / 'clean', tmp_path / 'noisy')
    assert scores.of('psnr_rgb8') == pytest.approx(expected, abs=1e-6)
    assert words in ' '.join(scores.notes) and scores.harm.count == len(photos)


def test_sizes_that_no_test_makes_are_refused(folders):
    path = next((folders / 'restored').iterdir())
    write_image(path, read(path)[:-1, :-1])
    scores = score(folders / 'restored', folders / 'clean')
    assert list(scores.not_measured) == [path.name]
    assert '103x95 pixels, the clean one 104x96: no crop' in scores.not_measured[path.name]
    assert len(scores.values) == 4


def test_folders_that_are_not_what_they_are_called(folders):
    for path in list((folders / 'noisy').iterdir()):
        path.rename(path.with_name(path.name.replace('.png', '_0.8_0.2.png')))
    swapped = score(folders / 'noisy', folders / 'clean', folders / 'restored')
    assert 'are the restored and the degraded folder swapped?' in ' '.join(swapped.notes)
    hazy = folders / 'hazy'
    for i, path in enumerate(sorted((folders / 'clean').iterdir())):
        path.rename(path.with_name(f'{i:04}.png'))
        write_image(hazy / f'{i:04}_0.8_0.{i + 1}.png', read(folders / f'clean/{i:04}.png'))
    with pytest.raises(InputError, match='swap the two folders'):
        score(folders / 'clean', hazy)
    with pytest.raises(InputError, match='no name in .*restored .* has a partner in'):
        score(folders / 'restored', folders / 'clean')


def test_runs_are_compared_over_the_pictures_that_both_have(folders):
    next((folders / 'other').iterdir()).unlink()
    first, second = (score(folders / name, folders / 'clean') for name in ('restored', 'other'))
    compared = compare(first, second)
    assert compared['images'] == 4 and len(compared['alone']) == 1
    assert compared['differences']['psnr_rgb8']['value'] < -2
    assert len([note for note in second.notes if '1 clean pictures have no restored one' in note]) == 1


def test_harm():
    harm = Harm.of({'a': 30.0, 'b': 27.96, 'c': 25.0, 'd': 40.0}, {'a': 20.0, 'b': 28.0, 'c': 26.5, 'd': 39.0})
    assert (harm.count, harm.share, harm.worst_image) == (4, 0.25, 'c') and harm.worst == pytest.approx(1.5)
    assert harm.given_back is None and str(harm).startswith('25.0% of 4 pictures made worse by more than 0.05 dB')
    back = Harm.of({'a': np.inf, 'b': 40.0, 'c': 30.0}, dict.fromkeys('abc', np.inf))
    assert back.given_back == pytest.approx((60 + 40 + 30) / 3) and back.least == 30
    assert 'come back at 43.33 dB' in str(back)
    assert Harm.of({'a': 30.0}, {}) is None and Harm.of({'a': np.nan}, {'a': 20.0}) is None


def test_who_may_stand_beside_whom():
    basicsr, release = DEFAULT
    beside, apart = standing(release, eight_bits=False)
    assert 'PromptIR' in ' '.join(beside) and 'OneRestore' not in ' '.join(beside)
    # Of 8-bit files rounding changes nothing.
    assert 'OneRestore (CDD-11)' in standing(release, eight_bits=True)[0]
    assert 'MoCE-IR, because: SSIM with a Gaussian 11x11 window, sample covariance (PSNR alone may)' in apart
    assert 'unclipped noise' in ' '.join(standing(basicsr, eight_bits=True)[0])
    docs = (ROOT / 'docs/score.md').read_text().replace('`', '')
    for use in USES:
        assert use.whose.partition(' (')[0] in docs and use.source.removeprefix('docs/') in docs
        assert split_key(use.psnr)[0] == 'psnr' and describe(use.ssim)


def test_names_that_are_no_text(folders, capsys):
    for folder in ('clean', 'other'):
        first = min((folders / folder).iterdir())
        first.rename(os.fsdecode(os.fsencode(folders / folder) + b'/caf\xe9.png'))
    main([str(folders / 'other'), '--gt', str(folders / 'clean'), '--out', str(folders / 'out')])
    found = json.loads((folders / 'out/score.json').read_text())
    assert 'caf\udce9.png' in [picture['restored'] for picture in found['folders'][0]['pictures']]
    assert 'caf\\udce9.png' in (folders / 'out/score.csv').read_text()
