"""Metrics of pyiqa, or what is said where it is not installed."""

import importlib.util

import numpy as np
import pytest
from basicsr.metrics import calculate_metric

from airnet_basicsr.errors import InputError

IMAGES = {name: np.full((64, 64, 3), 100, np.uint8) for name in ('img', 'img2')}


@pytest.mark.skipif(importlib.util.find_spec('pyiqa') is not None, reason='pyiqa is installed')
def test_without_pyiqa():
    with pytest.raises(InputError, match=r'needs the package pyiqa .*pip install "airnet-basicsr\[perceptual\]"'):
        calculate_metric(dict(IMAGES), {'type': 'calculate_pyiqa', 'metric': 'lpips'})


def test_with_pyiqa():
    pytest.importorskip('pyiqa')
    psnr = calculate_metric({**IMAGES, 'img': IMAGES['img'] + 10}, {'type': 'calculate_pyiqa', 'metric': 'psnr'})
    assert psnr == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    with pytest.raises(InputError, match='pyiqa knows no metric .lpipps'):
        calculate_metric(dict(IMAGES), {'type': 'calculate_pyiqa', 'metric': 'lpipps'})


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    pytest.importorskip('pyiqa')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:1')
    with pytest.raises(InputError, match="weights of pyiqa's lpips cannot be loaded"):
        calculate_metric(dict(IMAGES), {'type': 'calculate_pyiqa', 'metric': 'lpips'})
