"""Option files: the shipped ones against the facts of the paper and the release; deriving one from another."""

import json
import os
import re
import sys

import pytest
import torch
from basicsr.models.lr_scheduler import MultiStepRestartLR
from basicsr.utils.options import parse_options
from conftest import ROOT, run_python

import airnet_basicsr
import basicsr.train
from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.options import load_options, read_options
from airnet_basicsr.report.published import TABLES

PLUGIN = "plugin: !!python/name:airnet_basicsr.plugin.__name__ ''\n"
BASE = """
name: base
num_gpu: 0
manual_seed: 7
path: {}
datasets:
  val: {name: noisy, dataroot_gt: a}
  val_2: {name: rainy, dataroot_gt: b, dataroot_lq: c}
network_g: {type: AirNet, num_feat: 64}
train:
  optim_g: {type: Adam, lr: !!float 1e-3, betas: [0.9, 0.99]}
  ema_decay: 0
"""
DERIVED = """
base: !base base.yml
name: derived
datasets:
  val: !remove
  val_2:
    dataroot_lq: d
  val_3: {name: hazy}
network_g: !replace {type: RIDNet}
train:
  optim_g: {betas: [0.5]}
  ema_decay: ~
"""
CODE = 'x: !!python/object/apply:os.mkdir [made]\n'
MERGED = {
    'plugin': 'airnet_basicsr.plugin',
    'name': 'derived',
    'num_gpu': 0,
    'manual_seed': 7,
    'path': {},
    'datasets': {'val_2': {'name': 'rainy', 'dataroot_gt': 'b', 'dataroot_lq': 'd'}, 'val_3': {'name': 'hazy'}},
    'network_g': {'type': 'RIDNet'},
    'train': {'optim_g': {'type': 'Adam', 'lr': 1e-3, 'betas': [0.5]}, 'ema_decay': None},
}


def released_rate(epoch: int) -> float:
    """The learning rate that the release sets after epoch ``epoch`` (0-based) has ended."""
    return 1e-3 * 0.1 ** (epoch // 60) if epoch <= 100 else 1e-4 * 0.5 ** ((epoch - 100) // 125)


def test_learning_rate_of_every_epoch_is_the_release_s():
    train = load_options(ROOT / 'options/train_airnet_aio.yml')['train']
    train['scheduler'].pop('type')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=train['optim_g']['lr'])
    scheduler = MultiStepRestartLR(optimizer, **train['scheduler'])
    rates = {}
    for iteration in range(1, 600_001):  # the paper's length; BasicSR steps before each but the first
        if iteration > 1:
            scheduler.last_epoch += 1
            if scheduler.last_epoch in scheduler.milestones or scheduler.last_epoch in scheduler.restarts:
                for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
                    group['lr'] = rate
        if iteration % 400 in (1, 0):
            rates[iteration] = optimizer.param_groups[0]['lr']
    assert rates[1] == rates[400] == 1e-3
    for epoch in range(1, 1500):
        for iteration in (400 * epoch + 1, 400 * epoch + 400):
            assert rates[iteration] == pytest.approx(released_rate(epoch - 1)), iteration


def shipped(kind):
    """The options of each file that reproduces a row of the paper, and the comment on top of it."""
    for path in sorted((ROOT / 'options').rglob(f'{kind}_*.yml')):
        options, comment = load_options(path), path.read_text().partition('plugin:')[0]
        # Later settings have names instead of the paper's numbers: tests/report/test_published.py.
        paper = options.get('paper') or {}
        if paper.get('row') and isinstance(paper['table'], int):
            yield options, comment


def test_every_row_of_airnet_in_the_paper_has_its_files():
    tables = [table for table in TABLES.values() if isinstance(table.number, int)]
    rows = {(table.number, row) for table in tables for row in table.rows if 'AirNet' in row or row == 'Ours'}
    rows |= {(5, row) for row in TABLES[5].rows} | {(7, row) for row in TABLES[7].rows}
    # The same networks as in these rows of other tables.
    rows -= {(4, 'One-By-One, AirNet'), (5, 'noise'), (5, 'rain'), (5, 'haze'), (5, 'noise+rain+haze'), (7, 'Ours')}
    for kind, without in (('test', set()), ('train', {(6, 'Ours')})):
        ours = [options['paper'] for options, _ in shipped(kind) if options['model_type'] == 'AirNetModel']
        assert {(paper['table'], paper['row']) for paper in ours} == rows - without


def test_the_shipped_files_say_what_the_paper_reports():
    for kind in ('test', 'train'):
        for options, comment in shipped(kind):
            table = TABLES[options['paper']['table']]
            row = dict(zip(table.columns, table.rows[options['paper']['row']], strict=True))
            reported = {name: f'{cell[0]:.2f}/{cell[1]:.4f}' for name, cell in row.items() if cell}
            assert f'Table {table.number}' in comment
            assert set(reported.values()) == set(re.findall(r'\d\d\.\d\d/0\.\d{4}', comment)), options['name']
            if kind == 'test':
                assert [dataset['name'] for dataset in options['datasets'].values()] == list(reported)
            elif options['model_type'] == 'AirNetModel':
                assert options['train']['queue_size'] == 256 * len(options['datasets']['train']['degradations'])


def test_a_baseline_is_trained_as_airnet_is_after_its_warm_up():
    ours = load_options(ROOT / 'options/train_airnet_aio.yml')['train']
    warmup, schedule = ours['encoder_warmup_iter'], ours['scheduler']
    last_restart = schedule['restarts'][-1]
    assert last_restart < warmup < schedule['milestones'][0]
    for path in (*(ROOT / 'options/baselines').glob('train_*.yml'), *(ROOT / 'options/rivals').glob('train_*.yml')):
        train = load_options(path)['train']
        assert train['total_iter'] == ours['total_iter'] - warmup
        assert train['optim_g']['lr'] == pytest.approx(ours['optim_g']['lr'] * schedule['restart_weights'][-1])
        assert train['scheduler']['milestones'] == [milestone - warmup for milestone in schedule['milestones']]
        assert train['scheduler']['gamma'] == schedule['gamma']
        assert train['pixel_opt'] == ours['pixel_opt'] and train['ema_decay'] == ours['ema_decay']


def test_a_rival_is_trained_one_by_one_with_one_line_more(tmp_path):
    """The lines of docs/rivals.md."""
    text = (ROOT / 'docs/rivals.md').read_text()
    lines = re.findall(r'^(?:# )?(datasets: .*})$', text, re.MULTILINE)
    kept = [list(rival_alone(tmp_path, line)['datasets']['train']['degradations']) for line in lines]
    assert kept == [['rain'], ['haze'], ['noise15', 'noise25', 'noise50']]


def rival_alone(folder, line):
    base = os.path.relpath(ROOT / 'options/rivals/train_brdnet_aio.yml', folder)
    (folder / 'alone.yml').write_text(f'{PLUGIN}base: !base {base}\nname: alone\n{line}\n')
    return load_options(folder / 'alone.yml')


@pytest.fixture
def files(tmp_path):
    """Writes option files by name."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f'{name}.yml').write_text(PLUGIN + text)
        return tmp_path

    return write


def test_a_derived_file_says_what_differs(files, monkeypatch):
    folder = files(base=BASE, derived=DERIVED, second='base: !base derived.yml\nname: second\npath: {models: m}\n')
    assert load_options(folder / 'derived.yml') == MERGED
    assert load_options(folder / 'second.yml') == {**MERGED, 'name': 'second', 'path': {'models': 'm'}}
    # BasicSR's own reading and its command line: a base's value is there to be changed.
    monkeypatch.chdir(folder.parent)
    path = f'{folder.name}/derived.yml'
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', path, '--force_yml', 'manual_seed=8', 'train:optim_g:lr=2'])
    options, _ = parse_options.__wrapped__('root', is_train=False)
    assert (options['name'], options['manual_seed'], options['train']['optim_g']['lr']) == ('derived', 8, 2)
    assert options['datasets']['val_3']['phase'] == 'val' and 'val' not in options['datasets']


def test_basicsr_alone_reads_a_derived_file(files):
    """As in a checkout of BasicSR, where the file's own line is what first imports the plugin."""
    folder = files(base=BASE, derived=DERIVED)
    read = """
import json, sys, yaml
from collections import OrderedDict
yaml.CLoader.add_constructor('tag:yaml.org,2002:map', lambda loader, node: OrderedDict(loader.construct_pairs(node)))
assert 'airnet_basicsr' not in sys.modules
with open('derived.yml') as file:
    print(json.dumps(yaml.load(file, Loader=yaml.CLoader)))
"""
    done = run_python('-c', read, cwd=folder)
    assert json.loads(done.stdout.splitlines()[-1]) == MERGED, done.stdout


def test_the_experiment_s_copy_needs_no_base(files, tmp_path_factory):
    folder, experiment = files(base=BASE, derived=DERIVED, plain=BASE), tmp_path_factory.mktemp('experiment')
    copy_opt_file = basicsr.train.copy_opt_file
    copy_opt_file(str(folder / 'derived.yml'), str(experiment))
    copy = experiment / 'derived.yml'
    assert load_options(copy) == MERGED
    assert 'GENERATE TIME' in copy.read_text() and PLUGIN in copy.read_text()
    copy_opt_file(str(copy), str(experiment))  # as when a training run is resumed with it
    assert load_options(copy) == MERGED
    copy_opt_file(str(folder / 'plain.yml'), str(experiment))
    assert (experiment / 'plain.yml').read_text().endswith(PLUGIN + BASE)  # comments and all


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('base: !base none.yml', 'wrong.yml, line 2: the base {folder}/none.yml does not exist'),
        ('base: base.yml', 'wrong.yml, line 2: write `base: !base FILE`'),
        ('base: !base wrong.yml', 'derives from it: wrong.yml -> wrong.yml'),
        ('base: !base around.yml', 'derives from it: wrong.yml -> around.yml -> wrong.yml'),
        ('base: !base broken.yml', 'broken.yml, line 3: '),
        ('base: !base list.yml', 'list.yml: expected a mapping'),
        ('name: [wrong', 'wrong.yml, line 3: '),
        (
            'base: !base base.yml\nval: !remove',
            'wrong.yml, line 3: the base has no key `val` to remove. It has: plugin',
        ),
        (
            'base: !base base.yml\ndatasets:\n  val2: !remove',
            'line 4: the base has no key `val2` to remove. Did you mean',
        ),
        ('base: !base base.yml\ndatasets:\nval: {name: x}', 'line 3: `datasets` is a mapping of keys in the base'),
        ('name: !remove', 'wrong.yml, line 2: !remove changes a key of a base, and there is none'),
        ('base: !base base.yml\nname: !remove x', 'wrong.yml, line 3: write !remove alone'),
        ('base: !base base.yml\nname: !replace x', 'wrong.yml, line 3: !replace is for mappings'),
        ('name: a\nname: b', 'wrong.yml, line 3: the key `name` is there twice'),
        ('val: &v {a: 1}\nx: {<<: *v}', 'wrong.yml, line 3: BasicSR does not merge `<<`'),
        ('x: !!python/object/apply:os.mkdir [made]', 'line 2: !!python/object/apply:os.mkdir is refused'),
        ('x: !!python/object/new:os.system [ls]', 'line 2: !!python/object/new:os.system is refused'),
        ('x: [{y: !!python/module:this }]', 'line 2: !!python/module:this is refused'),
        ('x: !!python/tuple [1]', 'line 2: !!python/tuple is refused: option files run no code'),
        ('base: !base coded.yml', 'coded.yml, line 2: !!python/object/apply:os.mkdir is refused'),
        ('base: !base base.yml\nname: !removed', "could not determine a constructor for the tag '!removed'"),
        ('datasets: {val: !base base.yml }', 'wrong.yml, line 2: !base belongs to the key `base` at the top level'),
    ],
)
def test_bad_derived_files(files, monkeypatch, text, message):
    folder = files(base=BASE, wrong=text, around='base: !base wrong.yml', broken='name: {', coded=CODE)
    (folder / 'list.yml').write_text('- 1')
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(folder / 'wrong.yml')])
    with pytest.raises(InputError, match=re.escape(message.format(folder=folder))):
        parse_options('root')
    with pytest.raises(InputError, match=re.escape(message.format(folder=folder))):
        load_options(folder / 'wrong.yml')


def test_programs_that_only_read_import_nothing(files, monkeypatch):
    folder = files(base=BASE, derived=DERIVED)
    (folder / 'imported_by_an_option_file.py').write_text('raise SystemExit')
    monkeypatch.syspath_prepend(str(folder))
    with open(folder / 'derived.yml', 'a') as file:
        file.write("mine: !!python/name:imported_by_an_option_file.x ''\n")
    assert read_options(folder / 'derived.yml') == {
        **MERGED,
        'plugin': 'airnet_basicsr.plugin.__name__',
        'mine': 'imported_by_an_option_file.x',
    }
    with pytest.raises(SystemExit):
        load_options(folder / 'derived.yml')


def test_option_files_with_the_old_line_still_work(files):
    folder = files(base=BASE)
    path = folder / 'base.yml'
    path.write_text(path.read_text().replace('airnet_basicsr.plugin.__name__', 'airnet_basicsr.__version__'))
    assert load_options(path)['plugin'] == airnet_basicsr.__version__
