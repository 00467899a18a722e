"""The command `airnet` and the older names of its parts: what they start, with what, and what a wheel holds."""

import os
import re
import subprocess
import sys
import zipfile
from importlib import import_module

import pytest
import yaml
from conftest import ROOT, run_python

from airnet_basicsr.__main__ import COMMANDS, REFERENCE
from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.prepare.option_files import available, copy


def test_help_fits_a_screen_and_imports_little():
    program = "import sys; sys.argv[1:] = ['--help']; from airnet_basicsr.__main__ import main\n"
    program += "try:\n    main()\nfinally:\n    print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = run_python('-c', program, cwd=ROOT, COLUMNS='80')
    *lines, imported = done.stdout.splitlines()
    assert imported == 'False False'
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert all(f'    {command} ' in done.stdout for command in COMMANDS)


def test_every_command_has_its_program():
    for place in [place for _, place in COMMANDS.values()] + [REFERENCE]:
        module, _, function = place.partition(':')
        assert callable(getattr(import_module(module), function)), place


def test_a_command_hands_on_its_own_options():
    done = run_python('-m', 'airnet_basicsr', 'model', 'info', '--help', cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith('usage: airnet model info [-h] MODEL')
    done = run_python('-m', 'airnet_basicsr', 'restored', cwd=ROOT)
    assert done.returncode == 2 and "invalid choice: 'restored'" in done.stdout


@pytest.mark.parametrize('command', [['options'], ['prepare', '--list']])
def test_a_reader_that_goes_away_is_no_error(command):
    """As in ``airnet options | head -1``."""
    ends = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    program = subprocess.Popen([sys.executable, '-m', 'airnet_basicsr', *command], cwd=ROOT, text=True, **ends)
    program.stdout.close()
    assert program.stderr.read() == ''
    program.stderr.close()
    assert program.wait(60) == 1


@pytest.mark.parametrize('chosen', [None, 'ACTIVE'])
def test_threads_wait_quietly_unless_the_user_says_otherwise(chosen):
    """It must be set when PyTorch is imported, whose OpenMP reads it once."""
    program = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == 'torch':
            print(os.environ.get('OMP_WAIT_POLICY'))
            sys.exit()
sys.meta_path.insert(0, Watch())
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name='__main__')
"""
    environment = {key: value for key, value in os.environ.items() if key != 'OMP_WAIT_POLICY'}
    for module in ('train', 'test', 'restore', '__main__ model'):
        done = subprocess.run(
            [sys.executable, '-c', program, *f'airnet_basicsr.{module}'.split(), 'x'],
            env=environment | ({'OMP_WAIT_POLICY': chosen} if chosen else {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.split() == [chosen or 'PASSIVE'], (module, done.stderr)


def test_what_is_not_installed_is_said_in_one_line(tmp_path):
    program = (
        'import sys; sys.modules[{!r}] = None; sys.argv[:] = {!r}; from airnet_basicsr.__main__ import main; main()'
    )
    for package, command, advice in (
        ('basicsr', 'train', 'pip install --no-build-isolation basicsr'),
        ('jinja2', 'report', 'pip install "airnet-basicsr[report]"'),
    ):
        done = run_python('-c', program.format(package, ['airnet', command, 'x']), cwd=tmp_path)
        assert done.returncode == 1 and 'Traceback' not in done.stdout, done.stdout
        last = done.stdout.strip().splitlines()[-1]
        assert last.startswith('Error: ') and advice in last, done.stdout


def test_option_files_are_copied_with_what_they_derive_from(tmp_path):
    names = available()
    assert list(names)[0] == 'test_airnet_aio.yml' and all(names.values())
    written = copy(['reference/ablation_wo_dcn', 'options/train_airnet_wo_dcn.yml'], tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        'reference/ablation_wo_dcn.yml',
        'reference/ablation_full.yml',
        'reference/train_reference.yml',
        'train_airnet_wo_dcn.yml',
        'train_airnet_denoise.yml',
        'train_airnet_aio.yml',
    }
    # All of them, so that none refers to what stays behind.
    copy(list(names), tmp_path)
    for name in names:
        assert load_options(tmp_path / name) == load_options(ROOT / 'options' / name)
    assert copy(['train_airnet_aio'], tmp_path) == []


def test_a_user_s_option_file_is_never_written_over(tmp_path):
    mine = tmp_path / 'train_airnet_aio.yml'
    mine.write_text('mine')
    with pytest.raises(InputError, match='train_airnet_aio.yml is there already, with other content'):
        copy(['train_airnet_dehaze'], tmp_path)
    assert mine.read_text() == 'mine' and list(tmp_path.iterdir()) == [mine]
    for path in (mine, mine / 'below'):  # a file where a folder is wanted
        with pytest.raises(InputError, match='train_airnet_aio.yml cannot be written'):
            copy(['train_airnet_aio'], path)
    mine.rename(tmp_path / 'mine')
    (tmp_path / 'train_airnet_aio.yml').mkdir()
    with pytest.raises(InputError, match='train_airnet_aio.yml is there already'):
        copy(['train_airnet_aio'], tmp_path)
    with pytest.raises(InputError, match='there is no option file train_airnet'):
        copy(['train_airnet'], tmp_path)


def _wheel(folder, **environment):
    """Built from a copy: a build leaves files in its tree."""
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split('\0')):
        if not name.startswith(('docs/', 'tests/', 'benchmarks/')):
            target = folder / 'source' / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = ['-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'source']
    done = run_python(*build, cwd=folder, **environment)
    assert done.returncode == 0, done.stdout
    (wheel,) = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        return wheel, set(archive.namelist())


def test_a_wheel_built_without_a_compiler_is_for_every_platform(tmp_path):
    wheel, files = _wheel(tmp_path, CC='false', CXX='false')
    assert wheel.name.endswith('-py3-none-any.whl')
    tracked = {path.relative_to(ROOT / 'options').as_posix() for path in (ROOT / 'options').rglob('*.yml')}
    assert {f'airnet_basicsr/prepare/option_files/{name}' for name in tracked} < files
    packaged = ('airnet_basicsr/weights/airnet_small.safetensors', 'airnet_basicsr/report/page.html')
    assert files.issuperset(packaged) and not any('_native' in name for name in files)


@pytest.mark.slow
def test_a_wheel_is_for_every_python_of_its_platform(tmp_path):
    wheel, files = _wheel(tmp_path)
    assert '-py3-none-' in wheel.name and not wheel.name.endswith('-any.whl')
    assert any('_native' in name for name in files)


def test_the_release_is_described_once():
    """The version is the package's alone; who is cited, CITATION.cff's."""
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['preferred-citation']['year'] == 2022


@pytest.mark.parametrize('command', ['train', 'test'])
def test_help_lists_what_basicsr_and_the_program_take(command):
    program = f"""
import sys
import airnet_basicsr.plugin
from airnet_basicsr.__main__ import main
from basicsr.utils.options import parse_options
for call, words in ((main, ['airnet', '{command}']), (lambda: parse_options('.', False), ['basicsr'])):
    sys.argv[:] = [*words, '--help']
    try:
        call()
    except SystemExit as end:
        assert not end.code
    print('\\f')
"""
    ours, basicsr, _ = run_python('-c', program, cwd=ROOT, COLUMNS='100').stdout.split('\f')
    options = set(re.findall(r'(?<=^  )--?\w+', basicsr, re.MULTILINE)) - {'-h'}
    assert {'-opt', '--force_yml', '--launcher', '--debug'} < options
    # The first is torch.distributed.launch's, which torchrun replaced; a test has nothing to resume.
    options -= {'--local_rank'} if command == 'train' else {'--local_rank', '--auto_resume'}
    options |= {'--dry-run'} if command == 'train' else set()
    for option in options:
        assert re.search(rf'^  {option}\b.*\n? +\w', ours, re.MULTILINE), option
