"""The release's protocol against scikit-image on the float images; BasicSR's on the rounded ones."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import tensor2img
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from airnet_basicsr.errors import InputError


@pytest.fixture
def pair(photos):
    """Restored and clean: tensors of 1 x 3 x H x W, RGB, the first one not clipped."""
    clean = torch.from_numpy(photos['coffee2'].transpose(2, 0, 1)[None] / 255).float()
    return clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 0.02, clean


def rounded(pair):
    return {'img': tensor2img([pair[0]]), 'img2': tensor2img([pair[1]])}


def test_of_float_images(pair):
    exact = {**rounded(pair), 'float_img': pair[0], 'float_img2': pair[1]}
    restored, clean = (image[0].permute(1, 2, 0).double().clip(0, 1).numpy() for image in pair)
    psnr, ssim = (calculate_metric(dict(exact), {'type': f'calculate_{kind}_release'}) for kind in ('psnr', 'ssim'))
    assert psnr == pytest.approx(peak_signal_noise_ratio(clean, restored, data_range=1), abs=1e-6)
    assert ssim == pytest.approx(structural_similarity(clean, restored, data_range=1, channel_axis=-1), abs=1e-6)


def test_of_8_bit_images_alone(pair):
    """What BasicSR's own models hand over: BasicSR's PSNR, and SSIM with another window."""
    images = rounded(pair)
    psnr = calculate_metric(dict(images), {'type': 'calculate_psnr_release'})
    assert psnr == pytest.approx(calculate_metric(dict(images), {'type': 'calculate_psnr', 'crop_border': 0}), abs=1e-4)
    ssim = calculate_metric(dict(images), {'type': 'calculate_ssim_release'})
    rgb = [cv2.cvtColor(images[name], cv2.COLOR_BGR2RGB) for name in ('img', 'img2')]
    assert ssim == pytest.approx(structural_similarity(*rgb, channel_axis=-1), abs=1e-6)
    assert ssim != pytest.approx(calculate_metric(images, {'type': 'calculate_ssim', 'crop_border': 0}), abs=1e-5)


def test_equal_images(pair):
    images = {'img': tensor2img([pair[1]]), 'img2': tensor2img([pair[1]])}
    assert calculate_metric(dict(images), {'type': 'calculate_psnr_release'}) == np.inf
    assert calculate_metric(dict(images), {'type': 'calculate_ssim_release'}) == 1


def test_bad_input(pair):
    images = rounded(pair)
    with pytest.raises(InputError, match='differ in size: 104x96 and 104x90 pixels'):
        calculate_metric({**images, 'img2': images['img2'][:90]}, {'type': 'calculate_psnr_release'})
    with pytest.raises(InputError, match='6x6 pixels, less than the window'):
        tiny = {name: image[:6, :6] for name, image in images.items()}
        calculate_metric(tiny, {'type': 'calculate_ssim_release'})
