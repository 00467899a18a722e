"""Each degradation against its definition; composites; what is drawn depends on seed, epoch and place alone."""

import io
import itertools
import sys

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from conftest import write_image

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin import sheet
from airnet_basicsr.plugin.data import camera
from airnet_basicsr.plugin.data.degradations import DEGRADATION_REGISTRY, build_degradation
from airnet_basicsr.plugin.data_order import Draw

WHERE = 'datasets:train:degradations:x'
KINDS = ('Snow', 'LowLight', 'Blur', 'CameraNoise', 'Resizing', 'Compression')
RAMP = np.float32(np.tile(np.linspace(20, 235, 400)[None, :, None], (400, 1, 3)))


@pytest.fixture(scope='module')
def root(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp('camera')
    for name, image in photos.items():
        write_image(folder / 'clean' / f'{name}.png', image)
    return folder


def settled(root, kind, seed=0, **opt):
    described = {'type': kind, 'dataroot_gt': str(root / 'clean'), **opt}
    return build_degradation(described, WHERE).settled(np.random.default_rng(seed))


def applied(degradation, image, seed=1):
    return degradation.apply(image, image[..., :0], np.random.default_rng(seed))


def test_noise_has_the_variance_of_its_signal(root):
    noise = settled(root, 'CameraNoise', shot=[0.5, 0.5], read=[3, 3], demosaic=False)
    found = np.stack([applied(noise, RAMP, seed) - RAMP for seed in range(4)])
    for level in (60, 120, 200):
        near = np.abs(RAMP - level) < 4
        assert np.var(found[:, near]) == pytest.approx(0.5 * level + 9, rel=0.05)
        assert abs(found[:, near].mean()) < 0.2
    neighbours = np.corrcoef(found[:, :, :-1].ravel(), found[:, :, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01


def test_demosaicing_correlates_noise_and_keeps_that_of_each_pixel_s_own_colour(root):
    noise = settled(root, 'CameraNoise', shot=[0, 0], read=[10, 10])
    flat = np.full((300, 300, 3), 128, np.float32)
    found = applied(noise, flat) - flat
    corrected = [np.corrcoef(found[:, :-1, c].ravel(), found[:, 1:, c].ravel())[0, 1] for c in range(3)]
    assert min(corrected) > 0.3
    # One of the four pixels of the pattern has each of red and blue, two have green, at full deviation.
    deviations = [[found[y::2, x::2, c].std() for y in (0, 1) for x in (0, 1)] for c in range(3)]
    assert [sum(abs(value - 10) < 0.5 for value in each) for each in deviations] == [1, 2, 1]
    # Bilinear: a pixel between two has half their variance, one between four a quarter.
    assert sorted(deviations[0])[:3] == pytest.approx([5, 10 / 2**0.5, 10 / 2**0.5], rel=0.05)
    assert sorted(deviations[1])[:2] == pytest.approx([5, 5], rel=0.05)


def test_blur_is_its_kernel(root):
    """An impulse shows the kernel: its extent is what the options say."""
    impulse = np.zeros((101, 101, 3), np.float32)
    impulse[50, 50] = 1
    place = np.arange(101) - 50

    def moments(degradation):
        kernel = applied(degradation, impulse)[..., 0]
        assert kernel.sum() == pytest.approx(1, abs=1e-4) and kernel.min() > -1e-6
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
        y, x = np.meshgrid(place, place, indexing='ij')
        spread = np.array([[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)])
        return kernel, np.sqrt(np.linalg.eigvalsh(spread))

    for seed in range(5):
        _, axes = moments(settled(root, 'Blur', seed, kinds=['gaussian'], sigma=[2, 2]))
        assert axes == pytest.approx([2, 2], rel=0.03)
        _, (short, long) = moments(settled(root, 'Blur', seed, kinds=['motion'], length=[15, 15]))
        assert long == pytest.approx(15 / 12**0.5, rel=0.1) and short < 0.6
        kernel, axes = moments(settled(root, 'Blur', seed, kinds=['defocus'], radius=[6, 6]))
        assert axes == pytest.approx([3, 3], rel=0.05)  # of a disk: half its radius
        assert (kernel > 0.5 * kernel.max()).sum() == pytest.approx(np.pi * 36, rel=0.05)
    assert camera.motion_kernel(1, 0.3).max() > 0.8  # hardly any motion


def test_compression_is_that_of_its_quality(root, photos):
    """But for rounding what Pillow's encoder makes of the picture, with its blocks at one of 64 places."""
    photo = photos['rocket6']
    jpeg = settled(root, 'Compression', formats=['jpeg'], quality=[30, 30])
    found = [applied(jpeg, photo.astype(np.float32), seed) for seed in range(3)]
    differences = []
    for top, left in np.ndindex(8, 8):
        file = io.BytesIO()
        PIL.Image.fromarray(np.pad(photo, ((top, 0), (left, 0), (0, 0)), 'symmetric')).save(file, 'JPEG', quality=30)
        expected = np.asarray(PIL.Image.open(file))[top:, left:].astype(np.float32)
        differences.append([np.abs(one - expected).mean() for one in found])
    assert (np.min(differences, 0) < 0.5).all() and len(set(np.argmin(differences, 0))) == 3
    drawn = [settled(root, 'Compression', seed) for seed in range(200)]
    assert {one.format for one in drawn} == {'jpeg', 'webp'}
    assert min(one.quality for one in drawn) < 25 and max(one.quality for one in drawn) > 85
    webp = [settled(root, 'Compression', formats=['webp'], quality=[q, q]) for q in (10, 90)]
    worse, better = (np.abs(applied(one, photo.astype(np.float32)) - photo).mean() for one in webp)
    assert worse > 2 * better > 0


def test_low_light_resizing_and_snow(root):
    dark = applied(settled(root, 'LowLight', alpha=[0.9, 0.9], beta=[0.5, 0.5], gamma=[2, 2]), RAMP)
    np.testing.assert_allclose(dark, 255 * 0.5 * (0.9 * RAMP / 255) ** 2, rtol=1e-4)
    waves = 128 + 100 * np.sin(np.arange(128) * np.pi * np.array([0.9, 0.1])[:, None])
    fine, coarse = (np.float32(np.tile(wave[None, :, None], (128, 1, 3))) for wave in waves)
    for seed in range(6):
        small = settled(root, 'Resizing', seed, scale=[0.25, 0.25])
        assert applied(small, fine).std() < 0.35 * fine.std()  # what is finer than the small one's pixels is gone
        assert applied(small, coarse).std() > 0.8 * coarse.std()
        assert np.abs(applied(settled(root, 'Resizing', seed, scale=[1, 1]), fine) - fine).max() < 1e-3
    snow = settled(root, 'Snow', density=[2, 2], size=[5, 5], opacity=[0.8, 0.8])
    black = np.zeros((300, 300, 3), np.float32)
    fallen = applied(snow, black)
    assert fallen.max() == pytest.approx(0.8 * 255, rel=0.02) and 0.005 < (fallen > 20).mean() < 0.1
    assert (applied(snow, RAMP) >= RAMP - 1e-3).all()
    assert (applied(settled(root, 'Snow', density=[0, 0]), RAMP) == RAMP).all()
    dense = applied(settled(root, 'Snow', density=[8, 8], size=[5, 5], opacity=[0.8, 0.8]), black)
    assert dense.mean() == pytest.approx(4 * fallen.mean(), rel=0.3)


def test_composites_draw_some_parts_in_the_order_of_light_and_camera(root, photos):
    parts = [
        {'type': 'Compression'},
        {'type': 'GaussianNoise', 'sigma': [5, 30]},
        {'type': 'Blur'},
        {'type': 'LowLight'},
    ]
    seen, counts = set(), []
    for seed in range(200):
        composite = settled(root, 'Composite', seed, of=parts, any='1-3')
        names = [type(part).__name__ for part in composite.chosen]
        assert names == sorted(names, key=('LowLight', 'Blur', 'GaussianNoise', 'Compression').index)
        seen.add(tuple(names))
        counts.append(len(names))
    assert len(seen) == 4 + 6 + 4
    assert [counts.count(number) / 200 for number in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.12)
    blur = {'type': 'Blur', 'kinds': ['defocus'], 'radius': [3, 3]}
    dark = {'type': 'LowLight', 'alpha': [1, 1], 'beta': [1, 1], 'gamma': [3, 3]}
    both = settled(root, 'Composite', of=[blur, dark])
    clean, source = both.load(0)
    expected = cv2.filter2D(255 * (clean.astype(np.float32) / 255) ** 3, -1, camera.defocus_kernel(3))
    np.testing.assert_allclose(both.degrade(source, None) * 255, expected, atol=0.51)


def test_composites_give_each_part_its_depth_or_layer(root, photos):
    for name, image in photos.items():
        for folder, plane in (('depth', np.full(image.shape[:2], 20480, np.uint16)), ('streaks', image[..., 0] // 4)):
            (root / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(root / folder / f'{name}.png'), plane)
    rain = {'type': 'RainStreaks', 'dataroot_streaks': str(root / 'streaks'), 'strength': [1, 1], 'scale': [1, 1]}
    haze = {'type': 'Haze', 'dataroot_depth': str(root / 'depth'), 'airlight': [0.9, 0.9], 'beta': [0.1, 0.1]}
    both = settled(
        root, 'Composite', of=[rain, {'type': 'LowLight', 'gamma': [1, 1], 'beta': [1, 1], 'alpha': [1, 1]}, haze]
    )
    clean, source = both.load(2)
    layer = both.chosen[1].planes(2, clean.shape[:2]).astype(float)
    t = np.exp(-0.1 * 5)
    expected = np.clip(clean * t + 255 * 0.9 * (1 - t) + layer, 0, 255)
    np.testing.assert_allclose(both.degrade(source, None) * 255, expected, atol=0.51)


def options(root, **changes):
    clean = str(root / 'clean')
    kinds = {kind: {'type': kind, 'dataroot_gt': clean} for kind in KINDS}
    kinds['mixed'] = {'type': 'Composite', 'dataroot_gt': clean, 'of': [{'type': kind} for kind in KINDS], 'any': '1-3'}
    train = {'type': 'MultiDegradationDataset', 'gt_size': 48, 'degradations': kinds}
    return {'name': 'x', 'phase': 'train', 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1, **train, **changes}


def test_the_same_bits_for_any_number_of_workers_and_across_a_resume(root):
    found = []
    for workers in (0, 4):
        torch.manual_seed(7)
        opt = options(root, num_worker_per_gpu=workers)
        dataset = build_dataset(opt)
        sampler = EnlargedSampler(dataset, 1, 0, 1)
        sampler.set_epoch(1)
        found.append(list(build_dataloader(dataset, opt, num_gpu=0, dist=False, sampler=sampler, seed=7)))
    for a, b in zip(*found, strict=True):
        for name in ('lq', 'key', 'gt'):
            assert torch.equal(a[name], b[name])
        assert a['lq'].min() >= 0 and a['lq'].max() <= 1
    torch.manual_seed(7)
    dataset = build_dataset(options(root))
    for draw, batch in list(zip(sampler, found[0], strict=True))[5:]:
        assert isinstance(draw, Draw)
        assert torch.equal(dataset[draw]['key'], batch['key'][0])


def test_in_a_test_what_is_drawn_follows_from_the_name(root, tmp_path, photos):
    write_image(tmp_path / 'coffee2.png', photos['coffee2'])
    mixed = options(root)['degradations']['mixed']
    # As training has it, also where the sigma is a range.
    mixed = {**mixed, 'of': [*mixed['of'], {'type': 'GaussianNoise', 'sigma': [5, 50]}]}
    test = {'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test'}
    (alone,) = build_dataset({**test, 'degradation': {**mixed, 'dataroot_gt': str(tmp_path)}})
    items = build_dataset({**test, 'degradation': mixed})
    (among,) = [item for item in items if 'coffee2' in item['lq_path']]
    assert torch.equal(alone['lq'], among['lq']) and not torch.equal(alone['lq'], alone['gt'])
    assert items.record['degradation']['any'] == '1-3'


def test_options(root):
    for kind, change, message in (
        ('Blur', {'kinds': ['box']}, 'x:kinds: expected a list of some of gaussian, motion, defocus'),
        ('Blur', {'sigma': 3}, r'x:sigma: expected .from, to.'),
        ('Compression', {'formats': []}, 'x:formats: expected a list'),
        ('Compression', {'quality': [0, 50]}, 'x:quality: expected .from, to., both 1 to 100'),
        ('CameraNoise', {'demosaic': 'yes'}, 'x:demosaic: expected true or false'),
        ('Resizing', {'scale': [0.5, 2]}, 'x:scale'),
        ('Composite', {'of': {'type': 'Blur'}}, 'x:of: expected a list of degradations'),
        ('Composite', {'of': ['Blur']}, 'x:of:0: expected a mapping with `type`'),
        ('Composite', {'of': [{'type': 'Blur'}], 'any': '1-2'}, 'x:any: expected how many of the 1 parts'),
        ('Composite', {'of': [{'type': 'Blur'}], 'any': 0}, 'x:any'),
        ('Composite', {'of': [{'type': 'CleanPictures'}]}, 'x:of:0:type: CleanPictures cannot be part'),
        ('Composite', {'of': [{'type': 'Composite', 'of': [{'type': 'Blur'}]}]}, 'x:of:0:type: Composite cannot be'),
        ('Composite', {'of': [{'type': 'Blur', 'tone': 1}]}, 'x:of:0: `tone` does not belong to a part'),
        ('Composite', {'of': [{'type': 'Blurr'}]}, 'x:of:0:type: there is no degradation .Blurr'),
    ):
        with pytest.raises(InputError, match=message):
            settled(root, kind, **change)


def test_a_sheet_shows_what_a_training_sees(root, tmp_path, monkeypatch):
    train = options(root)
    (tmp_path / 'train.yml').write_text(
        yaml.safe_dump({'manual_seed': 3, 'datasets': {'train': train}}, sort_keys=False)
    )
    words = ['-opt', str(tmp_path / 'train.yml'), '-o', str(tmp_path / 's.png')]
    monkeypatch.setattr(sys, 'argv', ['sheet', *words, '--count', '2'])
    assert sheet.main() == 0
    drawn = cv2.imread(str(tmp_path / 's.png'))
    torch.manual_seed(3)
    dataset = build_dataset(train)
    draw = Draw(1)
    draw.epoch, draw.position, draw.ordinal = 0, 1, 1
    item = dataset[draw]
    rows = drawn.reshape(7, -1, *drawn.shape[1:])[:, 20:-2]  # below each title
    second = rows[:, :, 100 + 2 : 200 - 2]
    for row, lq, gt in zip(second, item['lq'], item['gt'], strict=True):
        for part, expected in ((row[:, :48], lq), (row[:, 48:], gt)):
            np.testing.assert_allclose(part[..., ::-1], expected.numpy().transpose(1, 2, 0) * 255, atol=0.51)
    monkeypatch.setattr(sys, 'argv', ['sheet', '-opt', str(tmp_path / 'train.yml'), '--count', '0'])
    with pytest.raises(InputError, match='--count'):
        sheet.main()


def test_parts_come_in_the_order_in_which_light_and_camera_make_them():
    order = ['Haze', 'RainStreaks', 'Snow', 'LowLight', 'Blur', 'GaussianNoise', 'Resizing', 'Compression']
    places = [DEGRADATION_REGISTRY.get(kind).order for kind in order]
    assert places[0] > 0 and all(before < after for before, after in itertools.pairwise(places))
    assert DEGRADATION_REGISTRY.get('CameraNoise').order == DEGRADATION_REGISTRY.get('GaussianNoise').order
