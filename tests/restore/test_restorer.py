"""Restoring one picture: sizes, kinds of arrays, seams between tiles, little memory, models that cannot be used."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, run_python
from skimage import data
from small_models import identity_network, save, small_network

import airnet_basicsr
from airnet_basicsr import Restorer
from airnet_basicsr.errors import InputError


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return save(small_network(), tmp_path_factory.mktemp('model') / 'small.pth')


@pytest.fixture(scope='module')
def identity(tmp_path_factory):
    return save(identity_network(), tmp_path_factory.mktemp('model') / 'identity.pth')


def test_equals_the_network_on_the_whole_picture(model):
    photo = data.astronaut()[:50, :70]
    with torch.inference_mode():
        x = torch.from_numpy(np.float32(photo) / 255).permute(2, 0, 1)[None]
        expected = small_network()(x)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    np.testing.assert_allclose(Restorer(model)(np.float32(photo) / 255), expected, atol=1e-5)
    assert np.abs(Restorer(model)(photo) - expected * 255).max() <= 0.51


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (300, 1), (2, 3), (97, 211), (500, 130)])
def test_tiles_give_back_every_pixel(identity, size):
    rng = np.random.default_rng(0)
    restorer = Restorer(identity, tile=96)
    for shape in (size, (*size, 1), (*size, 2), (*size, 3), (*size, 4)):
        for dtype in (np.uint8, np.uint16, np.float32):
            image = rng.random(shape, np.float32)
            image = image if dtype == np.float32 else (image * np.iinfo(dtype).max).astype(dtype)
            restored = restorer(image)
            assert restored.dtype == dtype
            if dtype == np.float32:
                np.testing.assert_allclose(restored, image, atol=1e-6)
            else:
                np.testing.assert_array_equal(restored, image)


def test_seams_are_invisible(model):
    photo = np.float32(data.astronaut()[:300, :400]) / 255
    whole = Restorer(model)(photo)
    assert whole.std() > 0.01
    calls = []
    tiled = Restorer(model, tile=128)(photo, lambda done, total: calls.append((done, total)))
    assert np.abs(tiled - whole).max() <= 1 / 255
    assert len(calls) > 6 and calls == [(i + 1, len(calls)) for i in range(len(calls))]


def test_self_ensemble_treats_flips_and_rotations_alike(model):
    photo = np.float32(data.astronaut()[:40, :56]) / 255
    restorer = Restorer(model, self_ensemble=True)
    restored = restorer(photo)
    for turned in (lambda a: np.rot90(a), lambda a: a[:, ::-1], lambda a: a[::-1].swapaxes(0, 1)):
        np.testing.assert_allclose(restorer(np.ascontiguousarray(turned(photo))), turned(restored), atol=1e-5)
    assert np.abs(restored - Restorer(model)(photo)).max() > 1e-3


def test_lower_precision_is_near(model):
    photo = data.astronaut()[:64, :64]
    exact = Restorer(model)(photo).astype(int)
    for dtype in ('bfloat16', 'float16'):
        assert np.abs(Restorer(model, dtype=dtype)(photo) - exact).max() <= 4


def test_without_memory_smaller_tiles_are_tried(model, tmp_path):
    program = tmp_path / 'little_memory.py'
    program.write_text(
        'import resource, sys\n'
        'import numpy as np\n'
        'from airnet_basicsr import Restorer\n'
        'restorer = Restorer(sys.argv[1], tile=3000)\n'
        'image = np.random.default_rng(0).integers(256, size=(1000, 1000, 3), dtype=np.uint8)\n'
        'restorer(image[:64, :64])\n'
        "size = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        'resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20,) * 2)\n'
        'totals = set()\n'
        'restored = restorer(image, lambda done, total: totals.add(total))\n'
        'print(restored.shape, min(totals) > 1)\n'
    )
    if sys.platform != 'linux':
        pytest.skip('limits memory as Linux does')
    done = run_python(program, model, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == '(1000, 1000, 3) True'


def test_models_and_arguments_that_cannot_be_used(model, tmp_path):
    torch.save({'params': torch.nn.Linear(3, 3).state_dict()}, tmp_path / 'other.pth')
    save(small_network(num_in_ch=1), tmp_path / 'grey.pth')
    broken = small_network().state_dict()
    del broken['restorer.groups.0.blocks.0.conv2.bias']
    torch.save({'params': broken}, tmp_path / 'broken.pth')
    nothing = small_network()
    torch.nn.init.constant_(nothing.restorer.tail.bias, float('nan'))
    save(nothing, tmp_path / 'nan.pth')
    (tmp_path / 'x.ONNX').write_bytes(b'\x08\x07\x12\x07pytorch')
    wrong = [
        (lambda: Restorer(tmp_path / 'x.ONNX'), r'x\.ONNX (cannot|holds|is no)|onnxruntime'),
        (lambda: Restorer(tmp_path / 'none.pth'), 'none.pth does not exist'),
        (lambda: Restorer(tmp_path / 'other.pth'), 'other.pth is of no network that is known here: it has 2 tensors'),
        (lambda: Restorer(tmp_path / 'grey.pth'), 'is for 1 channels, not for RGB'),
        (lambda: Restorer(tmp_path / 'broken.pth'), 'conv2.bias is missing'),
        (lambda: Restorer(tmp_path / 'nan.pth')(np.zeros((4, 4), np.uint8)), 'are no numbers'),
        (lambda: Restorer(model, tile=10), 'tile 10 is too small'),
        (lambda: Restorer(model, dtype='int8'), "dtype 'int8' is unknown"),
        (lambda: Restorer(model, device='cuda:77'), "device 'cuda:77' cannot be used"),
        (lambda: Restorer(model).explain(np.zeros((4, 4), np.uint8)), 'holds no reference embeddings'),
    ]
    for image in (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4), np.float64)):
        wrong.append((lambda image=image: Restorer(model)(image), 'cannot be restored: expected H x W'))
    for act, message in wrong:
        with pytest.raises(InputError, match=message):
            act()


def test_the_package_says_what_it_does_not_have():
    with pytest.raises(AttributeError, match='no attribute'):
        airnet_basicsr.Restorers  # noqa: B018
