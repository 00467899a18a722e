"""Each dataset in each layout that circulates: recognised, prepared, verified, and trained from."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import ROOT, content, photographs, pictures, prepare, reside, save

from airnet_basicsr.plugin.data.multi_degradation_dataset import MultiDegradationDataset


def _clean(*names: str):
    def build(folder: Path) -> None:
        for name, image in zip(names, photographs(len(names)), strict=True):
            save(folder / name, image)

    return build


def _pairs(clean: str, degraded: str, numbers: range = range(1, 4)):
    def build(folder: Path) -> None:
        for number, image in zip(numbers, photographs(len(numbers)), strict=True):
            save(folder / clean.format(number), image)
            save(folder / degraded.format(number), np.clip(image.astype(int) + 30, 0, 255).astype(np.uint8))

    return build


def _sots(hazy: str, clean: str):
    def build(folder: Path) -> None:
        for number, image in enumerate(photographs(2), 1):
            save(folder / clean / f'{number:04d}.png', image)
        for name, image in zip(('0001_0.8_0.2', '0001_0.95_0.12', '0002_1_0.08'), photographs(3), strict=True):
            save(folder / hazy / f'{name}.jpg', image)

    return build


def _ots(haze: str, clear: str):
    return lambda folder: reside(folder, 2, 2, haze, clear)


# Dataset, layout, what it says about itself, how it is built.
LAYOUTS = [
    ('bsd400', 'flat', 'one folder of images', _clean('100007.jpg', '2018.png', 'any name.jpg')),
    ('bsd400', 'archive', 'BSDS500', _clean('data/images/train/100007.jpg', 'data/images/test/2018.png',
                                            'data/images/test/any name.jpg', 'bench/data/images/3.jpg')),
    ('wed', 'archive', 'NNNNN.bmp', _clean('pristine_images/00001.bmp', 'pristine_images/00002.bmp')),
    ('bsd400-wed', 'one-folder', 'one folder of images', _clean('100007.jpg', '00001.bmp')),
    ('cbsd68', 'flat', 'one folder of images', _clean('101085.png', '101087.png')),
    ('cbsd68', 'archive', 'original_png', _clean('original_png/101085.png', 'original_png/101087.png',
                                                 'noisy15/101085.png')),
    ('urban100', 'plain', 'img_NNN', _clean('img_001.png', 'img_002.png')),
    ('urban100', 'sr', 'img_NNN_SRF_4_HR', _clean('image_SRF_4/img_001_SRF_4_HR.png',
                                                  'image_SRF_4/img_002_SRF_4_HR.png',
                                                  'image_SRF_4/img_001_SRF_4_LR.png')),
    ('rain100l-train', 'release', 'release', _pairs('gt/norain-{}.png', 'rainy/rain-{}.png')),
    ('rain100l-train', 'original', 'original archive',
     _pairs('rain_data_train_Light/norain/norain-{}.png', 'rain_data_train_Light/rain/norain-{}x2.png')),
    ('rain100l-test', 'release', 'release', _pairs('target/{}.png', 'input/{}.png')),
    ('rain100l-test', 'original', 'rainy, norain-NNN', _pairs('norain-{:03d}.png', 'rainy/rain-{:03d}.png')),
    ('rain100l-test', 'light', 'rain/X2', _pairs('rain_data_test_Light/norain/norain-{:03d}.png',
                                                 'rain_data_test_Light/rain/X2/norain-{:03d}x2.png')),
    ('ots', 'reside', 'RESIDE', _ots('haze/part3', 'clear')),
    ('ots', 'release', 'release', _ots('synthetic/part1', 'original')),
    ('sots-outdoor', 'reside', 'RESIDE', _sots('hazy', 'gt')),
    ('sots-outdoor', 'release', 'release', _sots('input', 'target')),
]  # fmt: skip
PUBLISHED = {
    'bsd400': '400 clean', 'wed': '4744 clean', 'bsd400-wed': '5144 clean', 'cbsd68': '68 clean',
    'urban100': '100 clean', 'rain100l-train': '200 clean and 200 degraded', 'ots': '2061 clean and 72135 degraded',
    'rain100l-test': '100 clean and 100 degraded', 'sots-outdoor': '492 clean and 500 degraded',
}  # fmt: skip


@pytest.fixture(scope='module')
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every dataset from every layout: the output folder by (dataset, layout)."""
    base = tmp_path_factory.mktemp('downloads')
    outs = {}
    for dataset, layout, words, build in LAYOUTS:
        source = base / f'{dataset}-{layout}'
        build(source / 'download')
        # One output folder takes the first layout of each dataset, as a user's would.
        first = dataset not in {other for other, _ in outs}
        out = base / ('datasets' if first else f'out-{dataset}-{layout}')
        # The download folder itself or the one above it: both are looked into.
        done = prepare(dataset, '--source', source if first else source / 'download', '--out', out)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        assert PUBLISHED[dataset] + ' are published' in done.stdout
        outs[dataset, layout] = out
    return outs


def test_every_layout_gives_the_same_lmdbs(prepared: dict[tuple[str, str], Path]) -> None:
    for (dataset, layout), out in prepared.items():
        first = next(other for (name, _), other in prepared.items() if name == dataset)
        for path in [] if out == first else out.glob('*.lmdb'):
            assert content(path) == content(first / path.name), (dataset, layout)


def test_verify_accepts_what_was_written(prepared: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    datasets = prepared['bsd400', 'flat']
    done = prepare('verify', datasets, '--sample', 3, '--save', tmp_path / 'sheets')
    assert done.returncode == 0, done.stderr
    assert sorted(path.stem for path in (tmp_path / 'sheets').iterdir()) == [
        'BSD400', 'BSD400_WED', 'CBSD68', 'OTS', 'Rain100L_test', 'Rain100L_train', 'SOTS_outdoor', 'Urban100', 'WED'
    ]  # fmt: skip
    rows = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()}
    assert rows['OTS'] == ['6', '4'] and rows['SOTS_outdoor'] == ['5', '3'] and rows['WED'] == ['2', '0']


def test_samples_of_thin_pictures(tmp_path: Path) -> None:
    save(tmp_path / 'thin/thin.png', np.zeros((3, 2000, 3), np.uint8))
    assert prepare('clean', '--name', 'thin', '--source', tmp_path / 'thin', '--out', tmp_path).returncode == 0
    done = prepare('verify', tmp_path / 'thin.lmdb', '--sample', 1, '--save', tmp_path / 'sheets')
    assert done.returncode == 0 and (tmp_path / 'sheets/thin.png').is_file(), done.stderr


def test_compressed_bytes_are_kept_and_shared_clean_images_stored_once(
    prepared: dict[tuple[str, str], Path],
) -> None:
    out = prepared['ots', 'reside']
    source = out.parent / 'ots-reside' / 'download'
    values, meta = content(out / 'OTS_lq.lmdb')
    assert values[b'0001_0p8_0p04'] == (source / 'haze/part3/0001_0.8_0.04.jpg').read_bytes()
    assert meta.splitlines()[0] == '0001_0p8_0p04.jpg (140,160,3) 0 0001'
    assert list(content(out / 'OTS_gt.lmdb')[0]) == [b'0001', b'0002']
    bmp = pictures(out / 'WED.lmdb')
    np.testing.assert_array_equal(bmp['00001'], photographs(1)[0])


def test_basicsr_reads_pairs(prepared: dict[tuple[str, str], Path]) -> None:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    out = prepared['rain100l-train', 'release']
    roots = {f'dataroot_{kind}': str(out / f'Rain100L_train_{kind}.lmdb') for kind in ('gt', 'lq')}
    dataset = PairedImageDataset({**roots, 'io_backend': {'type': 'lmdb'}, 'phase': 'val', 'scale': 1})
    assert [item['gt_path'] for item in dataset] == ['001', '002', '003']
    item = dataset[1]
    np.testing.assert_allclose(item['gt'].numpy().transpose(1, 2, 0)[..., ::-1] * 255, photographs(2)[1], atol=1e-3)
    assert (item['lq'] >= item['gt']).all()


def test_each_hazy_image_is_read_with_its_clean_one(prepared: dict[tuple[str, str], Path]) -> None:
    out = prepared['ots', 'reside']
    pairs = {'type': 'PairedImages', 'dataroot_gt': str(out / 'OTS_gt.lmdb'), 'dataroot_lq': str(out / 'OTS_lq.lmdb')}
    dataset = MultiDegradationDataset(
        {
            'phase': 'train',
            'name': 'x',
            'type': 'MultiDegradationDataset',
            'gt_size': 128,
            'contrastive': False,
            'degradations': {'haze': pairs},
        }
    )
    assert len(dataset) == 4
    # The hazy images are 0.7 J + 40 or 41: a wrong partner would not fit.
    for item in dataset:
        difference = item['lq'] - (0.7 * item['gt'] + 40.5 / 255)
        assert difference.abs().mean() < 0.02


def test_the_option_file_trains_from_what_was_written(prepared: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    (tmp_path / 'datasets').symlink_to(prepared['bsd400', 'flat'])
    small = ['num_gpu=0', 'network_g:num_feat=8', 'network_g:num_group=1', 'network_g:num_block=1',
             'train:total_iter=2', 'train:encoder_warmup_iter=1', 'train:queue_size=10', 'logger:print_freq=1',
             'datasets:train:num_worker_per_gpu=0']  # fmt: skip
    command = [sys.executable, '-m', 'airnet_basicsr.train', '-opt', str(ROOT / 'options/train_airnet_aio.yml')]
    done = subprocess.run([*command, '--force_yml', *small], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'iter:       2' in done.stdout + done.stderr
