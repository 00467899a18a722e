"""Training items: balance, alignment, independence of workers and processes."""

from collections import Counter

import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import build_model
from conftest import write_image, write_lmdb

PATCH = 32


@pytest.fixture(scope='module')
def roots(tmp_path_factory, photos):
    """Clean images and their negatives, as LMDBs and as folders."""
    folder = tmp_path_factory.mktemp('images')
    for name, images in (('clean', photos), ('negative', {key: 255 - image for key, image in photos.items()})):
        write_lmdb(folder / f'{name}.lmdb', images)
        for key, image in images.items():
            write_image(folder / name / 'deep' / f'{key}.png', image)
    return folder


def options(roots, suffix='.lmdb', **changes):
    clean = str(roots / f'clean{suffix}')
    return {
        'name': 'test',
        'type': 'MultiDegradationDataset',
        'phase': 'train',
        'gt_size': PATCH,
        'degradations': {
            'noise15': {'type': 'GaussianNoise', 'sigma': 15, 'protocol': 'float', 'dataroot_gt': clean},
            'noise50': {'type': 'GaussianNoise', 'sigma': 50, 'protocol': 'float', 'dataroot_gt': [clean, clean]},
            'negative': {
                'type': 'PairedImages',
                'dataroot_gt': clean,
                'dataroot_lq': str(roots / f'negative{suffix}'),
            },
        },
        'num_worker_per_gpu': 0,
        'batch_size_per_gpu': 2,
        **changes,
    }


def epoch(opt, number=0, world_size=1, rank=0, ratio=1):
    """The batches of one epoch as BasicSR's train.py makes them in process ``rank``."""
    torch.manual_seed(7)
    dataset = build_dataset(opt)
    sampler = EnlargedSampler(dataset, world_size, rank, ratio)
    sampler.set_epoch(number)
    return list(build_dataloader(dataset, opt, num_gpu=0, dist=world_size > 1, sampler=sampler, seed=7))


@pytest.mark.parametrize('workers', [0, 4])
@pytest.mark.parametrize('ranks', [1, 2])
def test_each_batch_holds_each_degradation_equally_often(roots, workers, ranks):
    for contrastive, size in ((True, 2), (False, 6)):
        opt = options(roots, num_worker_per_gpu=workers, batch_size_per_gpu=size, contrastive=contrastive)
        for rank in range(ranks):
            batches = epoch(opt, world_size=ranks, rank=rank)
            assert batches
            for batch in batches:
                assert Counter(batch['degradation'].flatten().tolist()) == {0: 2, 1: 2, 2: 2}


def test_items_are_aligned_degraded_as_named_and_of_one_image(roots):
    spread = {0: [], 1: []}
    for batch in epoch(options(roots), ratio=3):
        assert batch['lq'].shape == batch['key'].shape == batch['gt'].shape == (2, 3, 3, PATCH, PATCH)
        lq, gt = batch['lq'], batch['gt']
        for which in spread:
            spread[which].append((lq - gt)[:, which].flatten())
        # Same crop, same flip: the negative of the clean patch, up to float rounding.
        torch.testing.assert_close(lq[:, 2], 1 - gt[:, 2], rtol=0, atol=1e-6)
        assert not torch.equal(batch['key'], lq)
    for which, sigma in ((0, 15), (1, 50)):
        assert torch.cat(spread[which]).std().item() == pytest.approx(sigma / 255, rel=0.02)


@pytest.mark.parametrize('contrastive', [True, False])
def test_each_item_tells_the_noise_that_was_drawn(roots, contrastive):
    clean = str(roots / 'clean.lmdb')
    noise = {'type': 'GaussianNoise', 'sigma': [5, 50]}
    both = {'type': 'Composite', 'dataroot_gt': clean, 'of': [noise, {'type': 'Snow'}]}
    described = {
        'drawn': {**noise, 'protocol': 'float', 'dataroot_gt': clean},
        'snow': {'type': 'Snow', 'dataroot_gt': clean},
        'pairs': {'type': 'PairedImages', 'dataroot_gt': clean, 'dataroot_lq': clean},
        'camera': {'type': 'CameraNoise', 'dataroot_gt': clean},
        'both': both,
    }
    size = 1 if contrastive else 5
    opt = options(roots, degradations=described, batch_size_per_gpu=size, contrastive=contrastive)
    levels = {name: [] for name in described}
    for batch in epoch(opt, ratio=3):
        kinds, told = batch['degradation'].flatten(), batch['noise_level'].flatten()
        difference = 255 * (batch['lq'] - batch['gt']).reshape(len(kinds), -1)
        for kind, level, spread in zip(kinds.tolist(), told.tolist(), difference.std(1).tolist(), strict=True):
            levels[list(described)[kind]].append(level)
            if kind == 0:
                assert level == pytest.approx(spread, rel=0.08)  # of 3072 values
    assert len(levels['drawn']) > 15 and len(set(levels['drawn'])) == len(levels['drawn'])
    assert set(levels['snow']) == {0}
    assert np.isnan(levels['pairs'] + levels['camera']).all()
    assert all(5 <= level <= 50 for level in levels['both'])


def test_an_epoch_shows_every_image_and_all_eight_orientations(tmp_path):
    # Images of one grey value, brighter to the right: the value names the image, the slope the orientation.
    across, down = (np.linspace(0, end, PATCH).astype(np.uint8) for end in (20, 8))
    ramp = across[None, :, None] + down[:, None, None]
    write_lmdb(tmp_path / 'ramps.lmdb', {f'{i}': np.broadcast_to(ramp + 25 * i, (PATCH, PATCH, 3)) for i in range(9)})
    noise = {'type': 'GaussianNoise', 'sigma': 0, 'protocol': 'float', 'dataroot_gt': str(tmp_path / 'ramps.lmdb')}
    opt = options(tmp_path, degradations={'a': noise, 'b': noise}, batch_size_per_gpu=1)
    images, orientations, together = {0: [], 1: []}, set(), 0
    for number in range(8):
        for batch in epoch(opt, number):
            names = [round((batch['gt'][0, which].mean().item() * 255 - 14) / 25) for which in (0, 1)]
            together += names[0] == names[1]
            for which in (0, 1):
                images[which].append(names[which])
                patch = batch['gt'][0, which, 0] - batch['gt'][0, which, 0].mean()
                corners = patch[0, 0], patch[0, -1], patch[-1, 0]
                orientations.add(tuple(torch.tensor(corners).mul(255).round().int().tolist()))
    for which in (0, 1):
        for number in range(8):
            assert sorted(images[which][9 * number : 9 * number + 9]) == list(range(9))
    assert len(orientations) == 8
    assert together < 30  # of 72: the degradations do not go through the images in step


def test_patches_depend_on_seed_and_epoch_but_not_on_workers_or_storage(roots):
    reference = epoch(options(roots))
    for other in (options(roots, num_worker_per_gpu=3), options(roots, '')):
        for a, b in zip(reference, epoch(other), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in ('lq', 'key', 'gt'))
    assert not any(torch.equal(a['lq'], b['lq']) for a, b in zip(reference, epoch(options(roots), 1), strict=True))


def test_two_processes_see_different_parts_of_one_epoch(roots):
    first, second = (epoch(options(roots, batch_size_per_gpu=1), world_size=2, rank=rank) for rank in (0, 1))
    together = [batch['gt'] for part in (first, second) for batch in part]
    alone = [batch['gt'] for batch in epoch(options(roots, batch_size_per_gpu=1))]
    assert len(together) == len(alone)
    assert all(sum(torch.equal(a, b) for b in together) == 1 for a in alone)


def test_plain_indices_draw_anew_each_time(roots):
    dataset = build_dataset(options(roots))
    torch.manual_seed(1)
    first, second = dataset[0], dataset[0]
    torch.manual_seed(1)
    assert torch.equal(dataset[0]['lq'], first['lq'])
    assert not torch.equal(first['lq'], second['lq'])


def test_a_range_of_sigmas_gives_query_and_key_the_same_one(tmp_path):
    grey = write_lmdb(tmp_path / 'grey.lmdb', {'grey': np.full((PATCH, PATCH, 3), 128, np.uint8)})
    noise = {'type': 'GaussianNoise', 'sigma': [5, 50], 'protocol': 'float', 'dataroot_gt': str(grey)}
    dataset = build_dataset(options(tmp_path, degradations={'noise': noise}))
    torch.manual_seed(0)
    items = [dataset[0] for _ in range(100)]
    sigmas = np.array([[item[name].std().item() * 255 for name in ('lq', 'key')] for item in items])
    np.testing.assert_allclose(sigmas[:, 0], sigmas[:, 1], rtol=0.1)
    assert sigmas.min() < 8 and sigmas.max() > 47
    assert sigmas.mean() == pytest.approx(27.5, abs=4)


def test_several_degraded_images_share_a_clean_one(tmp_path, photos):
    names = list(photos)[:2]
    write_lmdb(tmp_path / 'gt.lmdb', {name: photos[name] for name in names})
    hazy = {f'{name}_{i}': np.uint8(photos[name] // 2 + 10 * i) for name in names for i in range(3)}
    path = write_lmdb(tmp_path / 'lq.lmdb', hazy)
    lines = (path / 'meta_info.txt').read_text().splitlines()
    (path / 'meta_info.txt').write_text(''.join(f'{line} {line.split("_")[0]}\n' for line in lines))
    paired = {'type': 'PairedImages', 'dataroot_gt': str(tmp_path / 'gt.lmdb'), 'dataroot_lq': str(path)}
    test_set = build_dataset({'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': paired})
    assert len(test_set) == 6
    for item in test_set:
        clean = photos[item['lq_path'].split('_')[0]]
        np.testing.assert_array_equal(np.rint(item['gt'].numpy().transpose(1, 2, 0) * 255), clean)
        assert item['gt_path'] == item['lq_path'].split('_')[0]


def test_a_key_is_another_crop_of_the_query_s_degraded_image(tmp_path):
    """Images of one grey level with a slope: the level tells which image, and whether it is the degraded one."""
    slope = np.linspace(0, 9, PATCH + 20)[None, :, None] * np.ones((PATCH + 20, 1, 3))
    clean = {f'{i}': np.uint8(10 * i + slope) for i in range(10)}
    write_lmdb(tmp_path / 'clean.lmdb', clean)
    write_lmdb(tmp_path / 'rainy.lmdb', {key: image + 120 for key, image in clean.items()})
    roots = {'dataroot_gt': str(tmp_path / 'clean.lmdb'), 'dataroot_lq': str(tmp_path / 'rainy.lmdb')}
    noise = {'type': 'GaussianNoise', 'sigma': 1, 'protocol': 'float', 'dataroot_gt': roots['dataroot_gt']}
    kinds = {'rain': {'type': 'PairedImages', **roots}, 'noise': noise}
    crops = 0
    for batch in epoch(options(tmp_path, degradations=kinds, batch_size_per_gpu=1)):
        level = {name: batch[name][0].mean((1, 2, 3)).mul(255) for name in ('lq', 'key', 'gt')}
        image = level['gt'] // 10
        assert torch.equal(level['lq'][0] // 10, image[0] + 12) and torch.equal(level['key'][0] // 10, image[0] + 12)
        assert level['key'][1] // 10 == image[1]
        crops += level['key'][0] != level['lq'][0]
    assert crops > 5


def test_basicsr_sr_model_trains_on_plain_items(roots):
    batches = epoch(options(roots, contrastive=False, batch_size_per_gpu=6), ratio=4)
    opt = {
        'model_type': 'SRModel',
        'num_gpu': 0,
        'dist': False,
        'is_train': True,
        'path': {},
        'network_g': {'type': 'RIDNet', 'in_channels': 3, 'mid_channels': 16, 'out_channels': 3, 'num_block': 1},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
        },
    }
    model = build_model(opt)
    losses = []
    for iteration, batch in enumerate(batches, 1):
        assert batch['lq'].shape == batch['gt'].shape == (6, 3, PATCH, PATCH)
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        losses.append(model.log_dict['l_pix'])
    assert len(losses) > 8 and sum(losses[-4:]) < sum(losses[:4])
