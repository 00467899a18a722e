"""Which errors end a program in one line, and which keep their traceback."""

import importlib

import pytest
from conftest import run_python
from torch.utils.data import DataLoader

from airnet_basicsr.errors import InputError, explain

DATASET = """
import os, shutil, signal
from airnet_basicsr.errors import InputError

class Dataset:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        {}
"""


@pytest.fixture
def explained(tmp_path, monkeypatch):
    """What is said of an error in a dataset class of the user's, raised below PyTorch's loader."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(statement, workers):
        (tmp_path / 'of_the_user.py').write_text(DATASET.format(statement))
        monkeypatch.delitem(importlib.sys.modules, 'of_the_user', raising=False)
        importlib.invalidate_caches()
        dataset = importlib.import_module('of_the_user').Dataset()
        try:
            list(DataLoader(dataset, num_workers=workers))
        except Exception as error:
            return explain(error.with_traceback(error.__traceback__.tb_next))  # without this function's frame

    monkeypatch.setattr('sys.dont_write_bytecode', True)
    return run


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    'statement',
    [
        "raise RuntimeError('DataLoader worker is what this message begins with')",
        "raise PermissionError(13, 'Permission denied', 'x')",
        "raise ModuleNotFoundError('no scipy', name='scipy')",
        "shutil.copyfile(__file__, '/dev/full')",
    ],
)
def test_an_error_in_a_user_s_class_keeps_its_traceback(explained, statement, workers):
    assert explained(statement, workers) is None


@pytest.mark.parametrize('workers', [0, 1])
def test_what_ours_says_is_one_line_wherever_it_was_raised(explained, workers):
    assert explained("raise InputError('image x.png cannot be decoded')", workers) == 'image x.png cannot be decoded'


def test_a_worker_that_is_killed_is_explained(explained):
    assert 'Lower num_worker_per_gpu' in explained('os.kill(os.getpid(), signal.SIGKILL)', 1)


def test_a_full_disk_is_explained(tmp_path):
    program = 'import shutil, sys; from airnet_basicsr.errors import end_in_one_line; end_in_one_line()\n'
    program += "shutil.copyfile(sys.executable, '/dev/full')"
    done = run_python('-c', program, cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stdout and 'Make room' in done.stdout, done.stdout


def test_several_lines_of_a_message_stay(tmp_path):
    assert explain(InputError('option a: wrong\noption b: wrong')) == 'option a: wrong\noption b: wrong'
