"""PSNR and SSIM in every definition, against scikit-image and BasicSR."""

import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.metrics.similarity import GAUSSIAN, UNIFORM, psnr, ssim_maps


@pytest.fixture(params=['coffee2', 'rocket6'])
def pair(request, photos):
    """Restored and clean, uint8."""
    clean = photos[request.param]
    noise = np.random.default_rng(0).normal(0, 12, clean.shape)
    return np.clip(clean + noise, 0, 255).astype(np.uint8), clean


def test_psnr(pair):
    assert psnr(*pair, 255) == pytest.approx(calculate_psnr(*pair, crop_border=0), abs=1e-9)
    floats = [image / 255 for image in pair]
    assert psnr(*floats, 1) == pytest.approx(peak_signal_noise_ratio(*floats, data_range=1), abs=1e-9)
    assert psnr(pair[0], pair[0], 255) == np.inf


def test_ssim(pair):
    of_all, of_sample = (found.mean() for found in ssim_maps(*pair, 255, GAUSSIAN, (False, True)))
    assert of_all == pytest.approx(calculate_ssim(*pair, crop_border=0), abs=1e-9)
    gaussian = {'channel_axis': 2, 'gaussian_weights': True}
    assert of_sample == pytest.approx(structural_similarity(*pair, **gaussian), abs=1e-9)
    # What BasicSR calls SSIM is what scikit-image gives without the sample covariance.
    assert of_all == pytest.approx(structural_similarity(*pair, **gaussian, use_sample_covariance=False), abs=1e-9)
    (uniform,) = ssim_maps(*pair, 255, UNIFORM, (True,))
    assert uniform.mean() == pytest.approx(structural_similarity(*pair, channel_axis=2), abs=1e-9)


def test_the_map_s_middle_is_the_map_of_the_middle(pair):
    """So that one filtering serves every crop."""
    (whole,) = ssim_maps(*pair, 255, GAUSSIAN, (False,))
    (middle,) = ssim_maps(*(image[4:-4, 4:-4] for image in pair), 255, GAUSSIAN, (False,))
    np.testing.assert_allclose(whole[4:-4, 4:-4], middle, atol=1e-9)


def test_smaller_than_the_window(pair):
    with pytest.raises(InputError, match='40x10 pixels, less than the window of 11x11'):
        ssim_maps(*(image[:10, :40] for image in pair), 255, GAUSSIAN, (False,))
