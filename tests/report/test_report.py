"""From BasicSR's test command to the report in every format; and what is wrong with the folders it is given."""

import base64
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from conftest import ROOT, run_python, write_lmdb
from PIL import Image
from scipy import stats
from small_models import save, small_network

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.ops import available_backends
from airnet_basicsr.report.__main__ import write_report
from airnet_basicsr.report.grids import Grid, Row, Text
from airnet_basicsr.report.outputs import to_latex
from airnet_basicsr.report.runs import read_run, read_runs

DATASETS = ('CBSD68_sigma25', 'CBSD68_sigma50', 'Rain100L', 'Kodak12_sigma25')


def _options(datasets, name):
    noise = {'type': 'GaussianNoise', 'protocol': 'float', 'dataroot_gt': 'datasets/clean.lmdb'}
    rain = {'type': 'PairedImages', 'dataroot_gt': 'datasets/clean.lmdb', 'dataroot_lq': 'datasets/rain.lmdb'}
    kinds = ({**noise, 'sigma': 25}, {**noise, 'sigma': 50}, rain, {**noise, 'sigma': 25})
    return {
        'name': name,
        'model_type': 'AirNetModel',
        'scale': 1,
        'num_gpu': 0,
        'manual_seed': 0,
        'paper': {'table': 4, 'row': 'One-By-One, AirNet'},
        'datasets': {
            f'test_{i}': {'name': name, 'type': 'DegradationTestDataset', 'degradation': kind}
            for i, (name, kind) in enumerate(zip(DATASETS, kinds, strict=True))
            if name in datasets
        },
        'network_g': {'type': 'AirNet', 'num_feat': 16, 'num_group': 1, 'num_block': 1},
        'path': {'pretrain_network_g': 'small.pth', 'strict_load_g': True},
        'val': {
            'save_img': True,
            'suffix': None,
            'metrics': {
                'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False},
                'ssim': {'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': False},
                'psnr_release': {'type': 'calculate_psnr_release'},
                'ssim_release': {'type': 'calculate_ssim_release'},
            },
        },
    }


@pytest.fixture(scope='module')
def tested(tmp_path_factory, photos):
    """Two tests, with BasicSR's command in a checkout's place: results of a small AirNet, and of nothing at all."""
    root = tmp_path_factory.mktemp('tested')
    for folder in ('basicsr', 'datasets'):
        (root / folder).mkdir()
    shutil.copy(ROOT / 'basicsr/test.py', root / 'basicsr')
    few = dict(list(photos.items())[:5])
    write_lmdb(root / 'datasets/clean.lmdb', few)
    write_lmdb(root / 'datasets/rain.lmdb', {key: np.uint8(image * 0.6 + 90) for key, image in few.items()})
    save(small_network(), root / 'small.pth')
    logs = {}
    for name, datasets, force in (
        ('small', DATASETS, ()),
        ('none_at_all', DATASETS[:2], ('--force_yml', 'model_type=NoRestoration')),
    ):
        plugin = "plugin: !!python/name:airnet_basicsr.plugin.__name__ ''\n"
        (root / f'{name}.yml').write_text(plugin + yaml.safe_dump(_options(datasets, name), sort_keys=False))
        done = run_python(root / 'basicsr/test.py', '-opt', f'{name}.yml', *force, cwd=root)
        assert done.returncode == 0, done.stdout[-3000:]
        logs[name] = done.stdout
    return root, logs


@pytest.fixture(scope='module')
def report(tested):
    root, _ = tested
    done = run_python('-m', 'airnet_basicsr.report', 'results/small', 'results/none_at_all', cwd=root)
    assert done.returncode == 0, done.stdout[-3000:]
    folder = root / 'results/small/report'
    assert str(folder.relative_to(root) / 'report.html') in done.stdout
    return {kind: (folder / f'report.{kind}').read_text(encoding='utf-8') for kind in ('md', 'tex', 'json', 'html')}


@pytest.fixture
def copied(tested, tmp_path):
    """A copy of the first test's root, to be damaged, and a function that changes its per_image.jsonl."""
    root = tmp_path / 'root'
    shutil.copytree(tested[0], root)
    path = root / 'results/small/per_image.jsonl'

    def change(act):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(''.join(json.dumps(record) + '\n' for record in records if act(record) is not False))

    return root / 'results/small', change


def logged(log):
    """Means by dataset and metric, as BasicSR prints them."""
    found = {}
    for part in log.split('Validation ')[1:]:
        for metric, value in re.findall(r'# (\w+): ([\d.]+)', part):
            found[part.split()[0], metric] = value
    return found


def rows(markdown, title):
    """Cells by the row's first cells, of the tables under a heading."""
    part = re.search(rf'^#+ {title}.*?(?=^#|\Z)', markdown, re.M | re.S).group()
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in part.splitlines() if line[:1] == '|']


def write(runs, out):
    write_report(read_runs(runs), out)
    return {kind: (out / f'report.{kind}').read_text(encoding='utf-8') for kind in ('md', 'tex', 'json', 'html')}


def test_numbers_are_those_of_the_log(tested, report):
    for name, log in tested[1].items():
        values = logged(log)
        assert len(values) == 4 * (4 if name == 'small' else 2)
        table = rows(report['md'], f'All that {name} measured'.replace('_', r'\\_'))
        shown = {(row[0].replace('\\', ''), row[1].replace('\\', '')): row[5] for row in table[2:]}
        assert shown == values
        data = next(run for run in json.loads(report['json'])['runs'] if run['name'] == name)
        means = {
            (measured['dataset'], metric['name']): f'{metric["restored"]["value"]:.4f}'
            for measured in data['measurements']
            for metric in measured['metrics']
        }
        assert means == values
        for value in values.values():
            assert f' & {value} & ' in report['tex']
            assert f'>{value}</td>' in report['html']


def test_the_paper_s_table_beside_the_run(tested, report):
    values = logged(tested[1]['small'])
    table = rows(report['md'], 'Table 4 of the paper')
    published = next(row for row in table if 'One-By-One, AirNet' in row[0])
    columns = ['34.14/0.9356', '31.48/0.8928', '28.23/0.8057', '34.90/0.9660', '23.18/0.9000', '30.38/0.9000']
    assert published[1:] == ['published', *columns]
    i = next(i for i, row in enumerate(table) if row[0] == 'small (AirNetModel)')
    run, interval, difference = table[i : i + 3]
    assert run[1] == 'float noise, not cropped; calculate\\_psnr/ssim'
    # What was not tested stays a gap, and so does the average over it.
    assert [run[k] for k in (2, 6, 7)] == ['—'] * 3 == [interval[k] for k in (2, 6, 7)]
    for k, dataset in ((3, 'CBSD68_sigma25'), (4, 'CBSD68_sigma50'), (5, 'Rain100L')):
        psnr, ssim = float(values[dataset, 'psnr']), float(values[dataset, 'ssim'])
        assert [float(x) for x in run[k].split('/')] == pytest.approx([psnr, ssim], abs=0.005)
        ours = [float(x) for x in published[k].split('/')]
        told = [float(x.replace('−', '-').strip(' ▲▼')) for x in difference[k].split('/')]
        assert told == pytest.approx([psnr - ours[0], ssim - ours[1]], abs=0.0051)
        assert '▼' in difference[k]
    assert 'All-In-One' not in difference[0]  # the option file says what it reproduces
    for kind in ('md', 'tex', 'html'):
        assert '38.26/0.9816' in report[kind]
        assert 'Kodak12' in report[kind]
    data = json.loads(report['json'])
    assert [table['number'] for table in data['tables']] == [4, None]
    assert data['tables'][1]['columns'] == [{'dataset': 'Kodak12_sigma25', 'heading': 'Kodak12_sigma25'}]


def test_the_input_is_a_row_that_no_restoration_confirms(tested, report):
    values = logged(tested[1]['none_at_all'])
    table = rows(report['md'], 'Table 4 of the paper')
    found = [row for row in table if row[0] == 'Input, no restoration']
    psnr = f'{float(values["CBSD68_sigma50", "psnr"]):.2f}'
    assert [row[4].split('/')[0] for row in found] == [psnr, psnr]


def test_intervals_are_student_s(tested, report):
    root, _ = tested
    lines = (root / 'results/small/per_image.jsonl').read_text().splitlines()
    values = [json.loads(line)['metrics']['psnr'] for line in lines if json.loads(line)['dataset'] == 'Rain100L']
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    data = json.loads(report['json'])
    measured = next(found for found in data['runs'][0]['measurements'] if found['dataset'] == 'Rain100L')
    psnr = next(metric for metric in measured['metrics'] if metric['name'] == 'psnr')['restored']
    assert [psnr['value'] - psnr['interval'], psnr['value'] + psnr['interval']] == pytest.approx([low, high])


def test_json_says_what_was_tested(tested, report):
    root, _ = tested
    run = json.loads(report['json'])['runs'][0]['run']
    assert run['checkpoint']['sha256'] == hashlib.sha256((root / 'small.pth').read_bytes()).hexdigest()
    assert run['option_file'] == 'small.yml'
    assert set(run['versions']) >= {'airnet_basicsr', 'basicsr', 'torch'}
    assert run['dcn_backend'] == available_backends()[0]
    assert f'{run["dcn_backend"]} backend' in report['html']


def test_the_page_holds_its_pictures(tested, report, photos):
    html = report['html']
    assert not re.search(r'(src|href)="(?!data:|#)', html) and 'url(' not in re.sub(r'url\(#\w+\)', '', html)
    found = re.findall(r'alt="(\w+), ([\w ]+)" src="data:image/jpeg;base64,([^"]+)"', html)
    assert {name for _, name, _ in found} == {'input', 'restored', 'clean'}
    assert len(found) == 3 * 3 * len(DATASETS)
    for image, name, content in found:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), float)
        error = np.sqrt(np.mean((picture - photos[image]) ** 2))
        assert error < 4 if name == 'clean' else error > 8
    data = json.loads(report['json'])
    ranks = {choice['rank']: choice['gains']['small'] for choice in data['pictures'][0]['choices']}
    lines = (tested[0] / 'results/small/per_image.jsonl').read_text().splitlines()[:5]
    gains = [json.loads(line)['metrics']['psnr'] - json.loads(line)['input']['psnr'] for line in lines]
    assert ranks == pytest.approx({'best': max(gains), 'median': np.median(gains), 'worst': min(gains)})


def test_runs_side_by_side_over_common_images(copied, tmp_path):
    small, change = copied
    change(lambda record: (record['dataset'], record['index']) != ('CBSD68_sigma25', 0))
    written = write([small, small.parent / 'none_at_all'], tmp_path / 'out')
    table = rows(written['md'], r'none\\_at\\_all against small')
    assert table[2][:3] == ['CBSD68\\_sigma25', 'calculate\\_psnr', '4'] and table[6][2] == '5'
    first, second, difference = (float(cell.strip(' ▲▼').replace('−', '-')) for cell in table[2][3:6])
    assert difference == pytest.approx(second - first, abs=1.1e-4)
    for kind in ('md', 'html'):
        plain = written[kind].replace('\\', '')
        assert 'CBSD68_sigma25: images 1 only in none_at_all (the first is astronaut0)' in plain
        assert '1 of the 5 images of CBSD68_sigma25 have no results' in plain


def test_protocols_that_differ_are_not_compared(copied, tmp_path):
    small, change = copied
    change(lambda record: record.update(protocol='uint8') if record['dataset'] == 'CBSD68_sigma25' else None)
    written = write([small, small.parent / 'none_at_all'], tmp_path / 'out')
    reason = 'CBSD68_sigma25 was made under different protocols (small: uint8 noise, not cropped; none_at_all: float'
    for kind in ('md', 'html'):
        assert reason in written[kind].replace('\\', '')
    assert 'sigma25' not in str(rows(written['md'], r'none\\_at\\_all against small'))
    # Nor where their gains are in one histogram.
    assert reason in written['html'].partition('id="pictures"')[2]
    # A row for each protocol: none mixes them.
    table = rows(written['md'], 'Table 4 of the paper')
    mine = [row for row in table if row[0] == 'small (AirNetModel)' and 'release' not in row[1]]
    assert [(row[1].split()[0], [k for k in range(2, 8) if row[k] != '—']) for row in mine] == [
        ('uint8', [3, 5]),
        ('float', [4]),
    ]


def test_values_that_are_no_numbers_are_told(copied, tmp_path):
    small, change = copied
    change(lambda record: record['metrics'].update(psnr='nan') if record['image'] == 'coffee2' else None)
    written = write([small], tmp_path / 'out')
    for kind in ('md', 'html', 'json'):
        told = written[kind].replace('\\', '')
        assert 'psnr is not finite for 1 of the 5 images of Rain100L (the first is coffee2: nan)' in told
    table = rows(written['md'], 'All that small measured')
    row = next(row for row in table if row[0] == 'Rain100L' and row[1] == 'psnr')
    assert row[5].endswith('\\*') and '\\*' not in row[4]
    finite = [float(record) for record in read_run(small).values('Rain100L', 'psnr').values() if record == record]
    assert float(row[5][:-2]) == pytest.approx(np.mean(finite), abs=1e-4) and len(finite) == 4
    assert 'NaN' not in written['json']


def test_without_kept_pictures_or_data_the_page_says_so(copied, tmp_path):
    small, _ = copied
    shutil.rmtree(small / 'visualization/CBSD68_sigma25')
    shutil.rmtree(small.parents[1] / 'datasets/rain.lmdb')
    (small / 'visualization/CBSD68_sigma50/coffee2_small.png').write_bytes(b'\x89PNG')
    out = tmp_path / 'out'
    html = write([small], out)['html']
    reasons = {entry['dataset']: entry['reason'] for entry in json.loads((out / 'report.json').read_text())['pictures']}
    assert 'test again with `--force_yml val:save_img=true`' in reasons['CBSD68_sigma25']
    assert 'rain.lmdb' in reasons['Rain100L']
    assert reasons['Kodak12_sigma25'] is None
    assert html.count('<figure>') == 3 * sum(reason is None for reason in reasons.values())


def test_data_that_changed_are_not_shown_as_the_tested_ones(copied, tmp_path, photos):
    small, _ = copied
    shutil.rmtree(small.parents[1] / 'datasets/clean.lmdb')
    write_lmdb(small.parents[1] / 'datasets/clean.lmdb', {key: image[::-1] for key, image in photos.items()})
    html = write([small], tmp_path / 'out')['html']
    assert html.count('is not what was tested') == len(DATASETS) and '<figure>' not in html


def edited(name, old, new):
    """A function that changes the text of a file in a folder, once (in run.json: in all places)."""

    def act(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, -1 if name == 'run.json' else 1))

    return act


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: shutil.rmtree(folder), 'there is no folder .*small: give the folder of a test'),
        (lambda folder: (folder / 'run.json').unlink(), 'there is no .*run.json: a test with this package'),
        (lambda folder: (folder / 'run.json').write_text('{"name": '), 'run.json is not whole JSON'),
        (lambda folder: (folder / 'run.json').write_text('[]'), 'run.json has no `name`'),
        (lambda folder: (folder / 'per_image.jsonl').unlink(), 'there is no .*per_image.jsonl'),
        (lambda folder: (folder / 'per_image.jsonl').write_text(''), 'per_image.jsonl is empty'),
        (
            lambda folder: (folder / 'per_image.jsonl').write_text((folder / 'per_image.jsonl').read_text()[:-40]),
            'per_image.jsonl, line 20, is not whole JSON .* test again',
        ),
        (
            lambda folder: (folder / 'per_image.jsonl').write_text(2 * (folder / 'per_image.jsonl').read_text()),
            'line 21, has image 0 of CBSD68_sigma25 a second time',
        ),
        (
            lambda folder: (folder / 'per_image.jsonl').write_text('{"dataset": "CBSD68_sigma25"}\n'),
            'line 1, has no `image`',
        ),
        (lambda folder: (folder / 'embeddings.npz').write_bytes(b'PK'), 'embeddings.npz cannot be read'),
        (edited('per_image.jsonl', '"index": 0', '"index": "0"'), "line 1, has '0' as `index`: it is not what a test"),
        (edited('per_image.jsonl', '"index": 0', '"index": -1'), 'line 1, has an `index` below 0'),
        (edited('per_image.jsonl', '"astronaut0"', '["astronaut0"]'), 'line 1, has .* as `image`: it is not what'),
        (edited('per_image.jsonl', '"protocol": "float"', '"protocol": ["float"]'), 'line 1, has .* as `protocol`'),
        (edited('per_image.jsonl', '"tile": null', '"tile": [1]'), 'line 1, has .* as `tile`'),
        (edited('per_image.jsonl', '"CBSD68_sigma25"', '68'), 'line 1, has 68 as `dataset`'),
        (edited('run.json', '"type": "calculate_psnr",', ''), 'run.json has None as `metrics:psnr:type`'),
        (edited('run.json', '"parameters": ', '"parameters": "many", "x": '), "run.json has 'many' as `parameters`"),
        (edited('run.json', '"test_0": {', '"test_x": null, "test_0": {'), 'has None as `options:datasets:test_x`'),
        (edited('run.json', '"path": "small.pth",', ''), 'run.json has None as `checkpoint:path`'),
    ],
)
def test_what_cannot_be_read_is_named(copied, tmp_path, damage, message):
    damage(copied[0])
    with pytest.raises(InputError, match=message):
        write([copied[0]], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_two_runs_of_one_name_are_refused(copied, tested):
    with pytest.raises(InputError, match="are two runs named 'small'.*--force_yml name="):
        read_runs([copied[0], tested[0] / 'results/small'])


def test_a_row_that_the_paper_does_not_have(copied, tmp_path):
    path = copied[0] / 'run.json'
    path.write_text(path.read_text().replace('One-By-One, AirNet', 'One-By-One, Airnet'))
    with pytest.raises(InputError, match="names the row 'One-By-One, Airnet'.*One-By-One, AirNet"):
        write([copied[0]], tmp_path / 'out')


@pytest.mark.parametrize('damage', [lambda file: file.write_bytes(b''), lambda file: file.write_bytes(b'\x89PNG')])
def test_a_picture_that_basicsr_s_own_dataset_cannot_read(copied, tmp_path, damage):
    small, _ = copied
    images = tmp_path / 'images'
    images.mkdir()
    for i in range(5):
        Image.new('RGB', (104, 96)).save(images / f'{i}.png')
        damage(images / f'{i}.png')
    info = json.loads((small / 'run.json').read_text())
    info['options']['datasets']['test_2'] = {
        'name': 'Rain100L',
        'type': 'PairedImageDataset',
        'io_backend': {'type': 'disk'},
        'dataroot_gt': str(images),
        'dataroot_lq': str(images),
        'phase': 'test',
        'scale': 1,
    }
    (small / 'run.json').write_text(json.dumps(info))
    pictures = json.loads(write([small], tmp_path / 'out')['json'])['pictures']
    reasons = {entry['dataset']: entry['reason'] for entry in pictures}
    assert 'cannot be read any more' in reasons.pop('Rain100L') and set(reasons.values()) == {None}


@pytest.mark.parametrize('paper', [4, {'table': [4]}, {'tabel': 4}])
def test_a_paper_key_that_is_none(copied, tmp_path, paper):
    path = copied[0] / 'run.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'paper': paper}))
    with pytest.raises(InputError, match='run.json has .*4.* as `paper`, which should be {table: ..., row: ...}'):
        write([copied[0]], tmp_path / 'out')


def test_a_mean_over_some_images_is_told(copied):
    small, change = copied
    change(lambda record: record['metrics'].pop('ssim') and None if record['index'] < 2 else None)
    told = 'small: ssim was measured on 3 of the 5 images of Rain100L only, and its mean is over these'
    assert told in ' '.join(read_run(small).notes)


def test_an_image_s_number_far_too_high_costs_nothing(copied):
    small, change = copied
    change(lambda record: record.update(index=10**15) if record['index'] == 4 else None)
    assert f'{10**15 - 4} of the first {10**15 + 1} images of Rain100L have no results' in ' '.join(
        read_run(small).notes
    )


def test_an_interrupted_dataset_is_told(copied):
    small, change = copied
    shutil.rmtree(small / 'visualization')
    change(lambda record: record['index'] < 3 or record['dataset'] != 'Kodak12_sigma25')
    (note,) = read_run(small).notes
    assert note.startswith('small: 2 of the 5 images of Kodak12_sigma25 have no results (the first is number 3)')
    # Earlier versions did not write how many images a dataset has.
    change(lambda record: record.pop('images') and None)
    assert read_run(small).notes == []
    change(lambda record: record['index'] != 1 or record['dataset'] != 'Rain100L')
    (note,) = read_run(small).notes
    assert note.startswith('small: 1 of the first 5 images of Rain100L have no results (the first is number 1)')


def test_datasets_without_results_are_told(copied):
    small, change = copied
    change(lambda record: record['dataset'] != 'Rain100L')
    assert 'no results of the dataset Rain100L' in ' '.join(read_run(small).notes)


def rename(folder, name, **metrics):
    """A copy of a test's folder, as of a run with another name and other names of its metrics."""
    copy = folder.parent / 'copy'
    shutil.copytree(folder, copy)
    info = json.loads((copy / 'run.json').read_text())
    info['name'] = name
    info['options']['val']['suffix'] = 'small'  # of the kept pictures
    info['metrics'] = {metrics.get(key, key): value for key, value in info['metrics'].items() if metrics.get(key, key)}
    (copy / 'run.json').write_text(json.dumps(info))
    records = [json.loads(line) for line in (copy / 'per_image.jsonl').read_text().splitlines()]
    for record in records:
        for which in ('metrics', 'input'):
            values = record[which].items()
            record[which] = {metrics.get(key, key): value for key, value in values if metrics.get(key, key)}
    (copy / 'per_image.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    return copy


def test_a_metric_is_the_same_under_any_name(copied, tmp_path):
    renamed = rename(copied[0], 'renamed', psnr='PSNR', ssim='similarity')
    data = json.loads(write([copied[0], renamed], tmp_path / 'out')['json'])
    compared = {entry['dataset']: {found['name']: found for found in entry['metrics']} for entry in data['comparisons']}
    assert compared.keys() == set(DATASETS)
    assert compared['Rain100L']['PSNR']['difference']['value'] == 0 and compared['Rain100L']['PSNR']['images'] == 5
    for entry in data['pictures']:
        for choice in entry['choices']:
            assert choice['gains']['renamed'] == choice['gains']['small']


def test_a_metric_is_the_same_however_its_parameters_are_written(copied):
    small, _ = copied
    path = small / 'run.json'
    info = json.loads(path.read_text())
    info['metrics'] = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
        'ssim': {'test_y_channel': True, 'crop_border': 4, 'type': 'calculate_ssim', 'better': 'higher'},
    }
    path.write_text(json.dumps(info))
    run = read_run(small)
    assert [(pair.psnr, pair.ssim) for pair in run.pairs] == [('psnr', 'ssim')]
    assert run.named({'type': 'calculate_psnr', 'test_y_channel': True, 'crop_border': 4}) == 'psnr'
    # Parameters left out have their defaults.
    info['metrics'] = {'psnr': {'type': 'calculate_psnr'}, 'ssim': {'type': 'calculate_ssim', 'crop_border': 0}}
    path.write_text(json.dumps(info))
    assert [(pair.psnr, pair.ssim) for pair in read_run(small).pairs] == [('psnr', 'ssim')]


def test_pictures_without_a_psnr_are_not_called_missing(copied, tmp_path):
    alone = rename(copied[0], 'alone', psnr=None, psnr_release=None)
    reasons = {entry['reason'] for entry in json.loads(write([alone], tmp_path / 'out')['json'])['pictures']}
    assert len(reasons) == 1 and 'alone measured none: add calculate_psnr to val:metrics' in reasons.pop()


def test_runs_without_a_common_psnr(copied, tmp_path):
    """Their gains are of different metrics: none stands beside the other, and that is said."""
    other = rename(copied[0], 'other', psnr=None, ssim=None)
    other = other.rename(other.with_name('other'))
    first = rename(copied[0], 'first', psnr_release=None, ssim_release=None)
    written = write([first, other], tmp_path / 'out')
    assert 'other has measured no PSNR that first has measured too' in written['md']
    choice = json.loads(written['json'])['pictures'][0]['choices'][0]
    assert choice['gains'].keys() == {'first'}


def test_runs_with_nothing_in_common(copied, tmp_path):
    small, change = copied
    change(lambda record: record['dataset'] == 'Rain100L')
    told = 'none_at_all and small have no dataset in common: they are not compared'
    assert told in write([small, small.parent / 'none_at_all'], tmp_path / 'out')['md'].replace('\\', '')
    first = rename(small, 'first', psnr=None, psnr_release=None, ssim_release=None)
    first = first.rename(first.with_name('first'))
    second = rename(small, 'second', psnr=None, psnr_release=None, ssim=None)
    written = write([first, second], tmp_path / 'out')['md']
    assert 'Not compared: first and second share no metric with finite values of Rain100L.' in written


def test_harm_is_told(copied, tmp_path):
    small, change = copied

    def harm_two(record):
        if record['dataset'] == 'Rain100L':
            psnr = {'chelsea4': 19.94, 'coffee3': 17.5}.get(record['image'], 30.0)
            record['metrics']['psnr'], record['input']['psnr'] = psnr, 20.0
        if record['dataset'] == 'Kodak12_sigma25':
            record['metrics']['psnr'], record['input']['psnr'] = {'coffee3': 30.0}.get(record['image'], 'inf'), 'inf'

    change(harm_two)
    written = write([small, small.parent / 'none_at_all'], tmp_path / 'out')
    data = json.loads(written['json'])['runs']
    harm = {measured['dataset']: measured['harm'] for measured in data[0]['measurements']}
    assert harm['Rain100L'] == {
        'images': 5,
        'share_made_worse': 0.4,
        'worst_loss': pytest.approx(2.5),
        'worst_image': 'coffee3',
        'clean_given_back': None,
        'clean_least': None,
    }
    assert harm['Kodak12_sigma25']['clean_given_back'] == pytest.approx((4 * 60 + 30) / 5)
    table = {(row[0], row[1]): row[2:] for row in rows(written['md'], 'Images that end worse')}
    assert table['small', 'Rain100L'] == ['5', '40.0 % ▼', '2.50', 'coffee3', '—', '—']
    assert table['small', 'Kodak12\\_sigma25'] == ['5', '—', '—', '—', '54.00', '30.00']
    assert table['none\\_at\\_all', 'CBSD68\\_sigma25'][1:3] == ['0.0 %', '—']
    assert '40.0 %' in written['html'] and '40.0 \\%' in written['tex']


def test_tiles_are_told(copied, tmp_path):
    folder, change = copied
    change(lambda record: record.update(tile=112 if record['index'] == 0 else None))
    run = read_run(folder)
    write_report([run], tmp_path / 'report')
    told = f'{len(run.images)} of {sum(map(len, run.images.values()))} images, of at most 112 pixels a side'
    for kind in ('md', 'html', 'json'):
        assert told in (tmp_path / f'report/report.{kind}').read_text()


def test_names_are_text_on_the_page(copied, tmp_path):
    name = '<i>"A" & co'
    html = write([copied[0], rename(copied[0], name)], tmp_path / 'out')['html']
    assert '<i>' not in html
    assert 'data-name="restored, &lt;i&gt;&#34;A&#34; &amp; co' in html
    # In the head, a card, tables, the tags of pictures and the legend of a histogram.
    assert html.count('&lt;i&gt;') > 10


def test_names_are_text_in_markdown_latex_and_figures(copied, tmp_path):
    name = '_a$b_$c &lt; <i> | ~~d~~ 5% #\ne'
    written = write([copied[0], rename(copied[0], name)], tmp_path / 'out')
    told = r'\_a\$b\_\$c \&lt; \<i\> \| \~\~d\~\~ 5% \# e'
    assert f'### {told} against small\n' in written['md']
    assert f'- **{told}**: model' in written['md']
    told = r'\_a\$b\_\$c \&lt; \textless{}i\textgreater{} \textbar{} \textasciitilde{}\textasciitilde{}d'
    assert told in written['tex']
    assert all(line[:1] in ('%', '\\', '') or '&' in line for line in written['tex'].splitlines())
    # The legend of each histogram; Matplotlib would leave out a name that begins with _ and draw what is between $.
    assert written['html'].count('_a$b_$c &amp;lt; &lt;i&gt; | ~~d~~ 5% #</text>') == len(DATASETS)


def test_a_row_of_latex_may_begin_with_a_bracket():
    rows = [Row('run', [[Text(name)], [Text('1.00')]]) for name in ('[0] rain', '*', 'rain [1]')]
    tex = to_latex({'notes': ['two\nlines'], 'source': 'x'}, {'': [Grid('a', ['', 'PSNR'], rows)]})
    assert r'{}[0] rain & 1.00 \\' in tex and r'{}* & 1.00 \\' in tex and '\nrain [1] &' in tex
    assert '% two lines\n' in tex


@pytest.mark.slow
@pytest.mark.parametrize('width', [1280, 400])
def test_the_slider_in_a_browser(tested, report, browser, width):
    page = browser.new_page(viewport={'width': width, 'height': 900})
    page.set_default_timeout(180_000)  # for machines with other things to do
    page.goto((tested[0] / 'results/small/report/report.html').as_uri())
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    stage = page.locator('.stage').first

    def box():
        stage.evaluate("stage => stage.scrollIntoView({block: 'center', behavior: 'instant'})")
        return stage.bounding_box()

    def seen(part):
        x, y, w, h = (box()[key] for key in ('x', 'y', 'width', 'height'))
        clip = {'x': round(x + part * w), 'y': round(y + 0.1 * h), 'width': round(0.15 * w), 'height': round(0.3 * h)}
        return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert('RGB')).astype(float)

    def drag(start, end):
        x, y, w, h = (box()[key] for key in ('x', 'y', 'width', 'height'))
        page.mouse.move(x + start * w, y + h / 5)
        page.mouse.down()
        page.mouse.move(x + end * w, y + h / 5)
        page.mouse.up()

    right = seen(0.7)
    drag(0.5, 0.95)
    assert abs(float(page.get_by_label('divider').first.input_value()) - 95) < 2
    # Where the restored picture was, the input is now, until the divider is taken back.
    assert np.abs(seen(0.7) - right).mean() > 5
    drag(0.95, 0.5)
    np.testing.assert_array_equal(seen(0.7), right)
    page.get_by_label('right picture').first.select_option(index=2)
    assert page.locator('.tag.right').first.text_content() == 'clean'
    clean = seen(0.7)
    assert np.abs(clean - right).mean() > 5
    page.get_by_label('zoom in').first.click()
    assert np.abs(seen(0.7) - clean).mean() > 5
    page.close()
