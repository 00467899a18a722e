"""Haze, streaks and clean pictures drawn while training; how often each degradation comes."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from conftest import write_image

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.data.degradations import build_degradation
from airnet_basicsr.plugin.data.drawn import draw_tone
from airnet_basicsr.plugin.data_order import Draw

PATCH = 48
WHERE = 'datasets:train:degradations:x'


@pytest.fixture(scope='module')
def root(tmp_path_factory, photos) -> Path:
    """Photographs, their depth maps, layers of streaks smaller and larger than them."""
    folder = tmp_path_factory.mktemp('weather')
    rng = np.random.RandomState(0)
    for name, image in photos.items():
        write_image(folder / 'clean' / f'{name}.png', image)
        depth = np.tile(np.linspace(40000, 8000, image.shape[0]).astype(np.uint16)[:, None], (1, image.shape[1]))
        (folder / 'depth').mkdir(exist_ok=True)
        cv2.imwrite(str(folder / 'depth' / f'{name}.png'), depth)
    (folder / 'streaks').mkdir()
    for number, size in enumerate(((60, 70), (200, 180))):
        layer = np.uint8(rng.choice((0, 60), size, p=(0.9, 0.1)))
        cv2.imwrite(str(folder / 'streaks' / f'{number}.png'), layer)
    return folder


def described(root: Path, kind: str, **changes) -> dict:
    roots = {'dataroot_gt': str(root / 'clean')}
    roots |= {'dataroot_depth': str(root / 'depth')} if kind == 'Haze' else {}
    roots |= {'dataroot_streaks': str(root / 'streaks')} if kind == 'RainStreaks' else {}
    return {'type': kind, **roots, **changes}


def build(root: Path, kind: str, **changes):
    return build_degradation(described(root, kind, **changes), WHERE)


def drawn(degradation, index=0, seed=0):
    """The clean image and the degraded one, float32 on the scale of 255, as one pair draws them."""
    rng = np.random.default_rng(seed)
    settled = degradation.settled(rng)
    clean, source = settled.load(index)
    return settled, clean.astype(np.float32), settled.degrade(source, rng) * 255


def test_haze_is_atmospheric_scattering_over_the_depth_map(root):
    haze = build(root, 'Haze', airlight=[0.7, 0.9], beta=[0.1, 0.2])
    found = []
    for seed in range(50):
        settled, clean, hazy = drawn(haze, 2, seed)
        depth = cv2.imread(haze.path(2).replace('/clean/', '/depth/'), cv2.IMREAD_UNCHANGED)[..., None] / 4096
        t = np.exp(-settled.beta * depth)
        np.testing.assert_allclose(hazy, clean * t + 255 * settled.airlight * (1 - t), atol=0.51)
        found.append((settled.airlight, settled.beta))
    assert np.min(found, 0) == pytest.approx((0.7, 0.1), abs=0.02)
    assert np.max(found, 0) == pytest.approx((0.9, 0.2), abs=0.02)
    assert not np.array_equal(drawn(haze, 2, 1)[2], drawn(haze, 2, 2)[2])


def test_streaks_are_added(root):
    """At scale 1 and strength 1 what is added is the layer, in one of its four flips, also where it is mirrored on."""
    rain = build(root, 'RainStreaks', strength=[1, 1], scale=[1, 1])
    layers = {str(i): cv2.imread(str(root / 'streaks' / f'{i}.png'), 0) for i in range(2)}
    seen = set()
    for seed in range(60):
        settled, clean, rainy = drawn(rain, 1, seed)
        layer = layers[settled.layer]
        flipped = layer[:: -1 if settled.mode & 1 else 1, :: -1 if settled.mode & 2 else 1]
        flipped = np.pad(flipped, ((0, 60), (0, 60)), mode='symmetric')[: clean.shape[0], : clean.shape[1]]
        np.testing.assert_array_equal(rainy, np.minimum(clean + flipped[..., None], 255))
        seen.add((settled.layer, settled.mode))
    assert len(seen) == 8
    ranges = [drawn(build(root, 'RainStreaks'), 1, seed)[0] for seed in range(60)]
    for name, least, most in (('strength', 0.6, 1.3), ('scale', 0.7, 1.4)):
        values = [getattr(settled, name) for settled in ranges]
        assert min(values) == pytest.approx(least, abs=0.05) and max(values) == pytest.approx(most, abs=0.05)
    scaled, clean, rainy = drawn(build(root, 'RainStreaks', strength=[2, 2], scale=[1.4, 1.4]), 1)
    assert scaled.scale == 1.4 and (rainy - clean).max() == 120


def test_tones_change_the_clean_picture_and_what_is_made_of_it(root, photos):
    name = sorted(photos)[0]
    share = 0
    for seed in range(300):
        settled, clean, same = drawn(build(root, 'CleanPictures', tone=0.3), 0, seed)
        np.testing.assert_allclose(same, clean, atol=1e-4)
        share += not np.array_equal(clean, photos[name])
    assert share / 300 == pytest.approx(0.3, abs=0.08)
    for seed in range(20):
        curve = draw_tone(np.random.default_rng(seed))
        assert curve.shape == (256, 1, 3) and (np.diff(curve[:, 0].astype(int), axis=0) >= 0).all()
    _, clean, hazy = drawn(build(root, 'Haze', tone=1, beta=[0, 0]))
    assert not np.array_equal(clean, photos[name])
    np.testing.assert_allclose(hazy, clean, atol=1e-4)


def options(root: Path, **changes) -> dict:
    kinds = {
        'noise': {**described(root, 'GaussianNoise'), 'sigma': [0, 50], 'protocol': 'float'},
        'rain': described(root, 'RainStreaks', tone=0.5, weight=3),
        'haze': described(root, 'Haze', tone=0.5, weight=2),
        'clean': described(root, 'CleanPictures', tone=0.5),
    }
    return {
        'name': 'test',
        'type': 'MultiDegradationDataset',
        'phase': 'train',
        'gt_size': PATCH,
        'degradations': kinds,
        'num_worker_per_gpu': 0,
        'batch_size_per_gpu': 1,
        **changes,
    }


def epoch(opt: dict, number: int = 0) -> list:
    torch.manual_seed(7)
    dataset = build_dataset(opt)
    sampler = EnlargedSampler(dataset, 1, 0, 1)
    sampler.set_epoch(number)
    return list(build_dataloader(dataset, opt, num_gpu=0, dist=False, sampler=sampler, seed=7))


def test_the_same_bits_for_any_number_of_workers_and_across_a_resume(root):
    reference = epoch(options(root))
    for batch in reference:
        assert batch['degradation'].tolist() == [[0, 1, 1, 1, 2, 2, 3]]
        # Query and key share what was drawn, the tone too: of a clean picture both are clean.
        assert torch.equal(batch['lq'][0, 6], batch['gt'][0, 6])
    for a, b in zip(reference, epoch(options(root, num_worker_per_gpu=4)), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ('lq', 'key', 'gt'))
    # As after a resume: the last items of the epoch alone, out of a dataset built anew.
    torch.manual_seed(7)
    dataset = build_dataset(options(root))
    sampler = EnlargedSampler(dataset, 1, 0, 1)
    sampler.set_epoch(0)
    for draw, batch in list(zip(sampler, reference, strict=True))[4:]:
        assert isinstance(draw, Draw)
        assert torch.equal(dataset[draw]['lq'], batch['lq'][0])


def test_weights_are_kept_over_10000_draws(root):
    torch.manual_seed(7)
    opt = options(root, contrastive=False, gt_size=8)
    dataset = build_dataset(opt)
    counted = Counter()
    number = 0
    while sum(counted.values()) < 10_000:
        sampler = EnlargedSampler(dataset, 1, 0, 1)
        sampler.set_epoch(number)
        # What each item would be of: loading ten thousand patches is not needed to count them.
        counted.update(dataset.slots[draw.ordinal % len(dataset.slots)] for draw in sampler)
        number += 1
    total = sum(counted.values())
    assert [round(7 * counted[which] / total, 3) for which in range(4)] == [1, 3, 2, 1]
    seen = Counter(batch['degradation'].item() for batch in epoch(opt))
    assert seen == {0: 7, 1: 21, 2: 14, 3: 7}


def test_options(root, tmp_path, photos):
    with pytest.raises(InputError, match="option x: expected a section with the key `type`, found 'Haze'"):
        build_degradation('Haze', 'x')
    for kind, change, message in (
        ('CleanPictures', {'tone': 1.5}, 'x:tone: expected a number from 0 to 1, found 1.5'),
        ('Haze', {'tone': 'half'}, 'x:tone: expected a number'),
        ('Haze', {'airlight': 0.9}, r'x:airlight: expected .from, to., both 0 to 1'),
        ('Haze', {'airlight': [0.9, 1.2]}, r'x:airlight: expected .from, to., both 0 to 1'),
        ('Haze', {'beta': [0.2, 0.1]}, 'x:beta: .* ends before it begins'),
        ('Haze', {'betas': [0.1, 0.2]}, 'unknown key `betas`. Did you mean `beta`'),
        ('Haze', {'dataroot_depth': None}, 'the key `dataroot_depth` is missing'),
        ('RainStreaks', {'scale': [0, 1]}, r'x:scale: expected .from, to., both 0.1 to 10'),
        ('RainStreaks', {'strength': [-1, 1]}, 'x:strength'),
        ('RainStreaks', {'dataroot_streaks': str(root / 'none')}, 'dataroot_streaks: there is no folder'),
    ):
        with pytest.raises(InputError, match=message):
            build(root, kind, **change)
    for wrong in (0, -1, 1.5, 'two', True):
        with pytest.raises(InputError, match='degradations:noise:weight: expected a whole number above 0'):
            kinds = {'noise': {**described(root, 'GaussianNoise'), 'sigma': 1, 'weight': wrong}}
            build_dataset(options(root, degradations=kinds))
    write_image(tmp_path / 'more' / 'alone.png', photos['coffee2'])
    with pytest.raises(InputError, match='1 images have no depth map of their name in .*alone.png'):
        build(root, 'Haze', dataroot_gt=[str(root / 'clean'), str(tmp_path / 'more')])
    cv2.imwrite(str(tmp_path / 'more' / 'alone.png'), np.zeros((96, 104), np.uint8))
    write_image(tmp_path / 'one' / 'alone.png', photos['coffee2'])
    shallow = {'dataroot_gt': str(tmp_path / 'one'), 'dataroot_depth': str(tmp_path / 'more')}
    with pytest.raises(InputError, match=r'alone.png is no grey picture of 16 bits'):
        build(root, 'Haze', **shallow).load(0)
    cv2.imwrite(str(tmp_path / 'more' / 'alone.png'), np.zeros((90, 104), np.uint16))
    with pytest.raises(InputError, match=r'alone.png has 104x90 pixels, its image .*one/alone.png 104x96'):
        build(root, 'Haze', **shallow).load(0)


def test_clean_pictures_can_be_tested(root, photos):
    opt = {'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test'}
    dataset = build_dataset({**opt, 'degradation': described(root, 'CleanPictures')})
    assert dataset.record['protocol'] is None and len(dataset) == len(photos)
    assert all(torch.equal(item['lq'], item['gt']) for item in dataset)


def test_layers_of_few_pixels_do_not_vanish(root, tmp_path):
    cv2.imwrite(str(tmp_path / 'tiny.png'), np.full((2, 3), 60, np.uint8))
    _, clean, rainy = drawn(build(root, 'RainStreaks', dataroot_streaks=str(tmp_path), scale=[0.1, 0.1]))
    assert (rainy >= clean).all() and (rainy > clean).any()
