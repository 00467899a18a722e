"""The network that ships with the package, on photographs that it never saw: those of scikit-image."""

import hashlib
import re

import cv2
import numpy as np
import pytest
from conftest import run_python
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from airnet_basicsr import Restorer
from airnet_basicsr.restore.restorer import DEFAULT_MODEL


@pytest.fixture(scope='module')
def restorer():
    return Restorer(device='cpu')


def noisy(image, sigma):
    return np.float32(image / 255 + np.random.RandomState(0).standard_normal(image.shape) * sigma / 255)


def rainy(image):
    pytest.importorskip('basicsr.data')
    from airnet_basicsr.plugin.data.synthesis import add_rain

    return add_rain(image, np.random.RandomState(1), angle=20, density=0.004)


def hazy(image):
    pytest.importorskip('basicsr.data')
    from airnet_basicsr.plugin.data.synthesis import add_haze, estimate_depth

    return add_haze(image, estimate_depth(image), airlight=0.8, beta=0.2)


def eight_bits(image):
    return image if image.dtype == np.uint8 else np.uint8(np.rint(np.clip(image, 0, 1) * 255))


@pytest.mark.parametrize(
    ('degrade', 'gain'),
    [
        (lambda image: noisy(image, 15), 8),
        (lambda image: noisy(image, 25), 10),
        (lambda image: noisy(image, 50), 12),
        (rainy, 6),
        (hazy, 6),
    ],
    ids=['sigma 15', 'sigma 25', 'sigma 50', 'rain', 'haze'],
)
def test_restores(restorer, degrade, gain):
    gains = []
    for image in (data.astronaut()[:320, :320], data.coffee()[:300, :300], data.chelsea()):
        degraded = degrade(image)
        after, before = (peak_signal_noise_ratio(image, eight_bits(x)) for x in (restorer(degraded), degraded))
        gains.append(after - before)
    assert np.mean(gains) > gain, gains


@pytest.mark.parametrize(
    ('degrade', 'kind', 'sigma'),
    [
        (lambda x: noisy(x, 15), 'noise', 15),
        (lambda x: noisy(x, 25), 'noise', 25),  # between two levels of the reference
        (lambda x: noisy(x, 50), 'noise', 50),
        (rainy, 'rain', None),
        (hazy, 'haze', None),
        (lambda x: x, 'clean', None),
    ],
    ids=['sigma 15', 'sigma 25', 'sigma 50', 'rain', 'haze', 'clean'],
)
def test_says_what_a_picture_suffers_from(restorer, degrade, kind, sigma):
    for image in (data.astronaut()[:320, :320], data.rocket()):
        found = restorer.explain(degrade(image))
        assert found.kind == kind
        assert sigma is None or abs(found.sigma - sigma) < 2
        assert (found.reason_to_leave_alone is not None) == (kind == 'clean')


def test_the_card_is_of_this_file():
    card = DEFAULT_MODEL.with_name('README.md').read_text()
    assert hashlib.sha256(DEFAULT_MODEL.read_bytes()).hexdigest() in card
    assert DEFAULT_MODEL.stat().st_size < 5e6


def test_a_user_s_photograph_without_naming_a_model(tmp_path):
    photo = data.chelsea()[:200, :200]
    cv2.imwrite(str(tmp_path / 'noisy.png'), eight_bits(noisy(photo, 25))[..., ::-1])
    done = run_python('-m', 'airnet_basicsr.restore', 'noisy.png', '-o', 'clean.png', '--explain', cwd=tmp_path)
    assert done.returncode == 0 and re.search('noise of about sigma 2[456] ', done.stdout), done.stdout
    restored = cv2.imread(str(tmp_path / 'clean.png'))[..., ::-1]
    degraded = eight_bits(noisy(photo, 25))
    assert peak_signal_noise_ratio(photo, restored) > peak_signal_noise_ratio(photo, degraded) + 8


def test_seams_are_invisible(restorer):
    """A clean picture: its brightness is judged from far around each pixel, the worst case for tiles."""
    photo = np.float32(data.rocket()[:420, :640]) / 255
    calls = []
    tiled = Restorer(device='cpu', tile=400).restore(photo, lambda done, total: calls.append(total))
    difference = np.abs(tiled - restorer.restore(photo)).max(axis=2)
    assert calls[-1] > 1 and np.quantile(difference, 0.999) < 2 / 255, (calls[-1], difference.max() * 255)
