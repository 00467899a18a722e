"""Mutated pictures: a few of every format always, a thousand of each in the slow tests."""

from pathlib import Path

import pytest
from conftest import ROOT, run_python

FUZZ = Path(__file__).with_name('fuzz_pictures.py')


@pytest.mark.parametrize('count', [15, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_pictures_are_refused_or_read_as_others_read_them(count):
    done = run_python(FUZZ, str(count), cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count("'wrong': 0") >= 22
