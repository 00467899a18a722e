"""MATLAB files of DnCNN and FFDNet, laid out as their authors' are; SciPy computes what they should give."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.signal import correlate

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import model_files, recognise
from airnet_basicsr.network.checkpoints import preferred_network, read_checkpoint
from airnet_basicsr.restore.command import main as restore

Layers = list[tuple[np.ndarray, np.ndarray]]


def random_layers(*channels: int) -> Layers:
    """Kernels (height x width x in x out) and biases."""
    rng = np.random.default_rng(0)
    return [
        (rng.normal(0, 0.5 / (9 * a) ** 0.5, (3, 3, a, b)).astype('f4'), rng.normal(0, 0.1, b).astype('f4'))
        for a, b in zip(channels, channels[1:], strict=False)
    ]


def write_hdf5(path, layers: Layers):
    """As MATLAB writes version 7.3: 512 bytes of text, then HDF5 with the axes in reverse and cells as references."""
    with h5py.File(path, 'w', userblock_size=512) as file:
        hidden = file.create_group('#refs#')
        references = []

        def put(array):
            array = np.asarray(array)
            while array.ndim > 2 and array.shape[-1] == 1:
                array = array[..., 0]
            hidden[str(len(hidden))] = array.T
            return hidden[str(len(hidden) - 1)].ref

        for place, (kernel, bias) in enumerate(layers):
            conv = hidden.create_group(f'layer{place}')
            conv['type'] = np.array([list(map(ord, 'conv'))], 'u2').T
            conv.create_dataset('weights', (2, 1), h5py.ref_dtype)[:, 0] = [put(kernel), put(bias[:, None])]
            references.append(conv.ref)
            if place < len(layers) - 1:
                relu = hidden.create_group(f'relu{place}')
                relu['type'] = np.array([list(map(ord, 'relu'))], 'u2').T
                relu['weights'] = np.zeros(2, 'u8')  # an empty cell array
                relu['weights'].attrs['MATLAB_empty'] = 1
                references.append(relu.ref)
        dataset = file.create_dataset('net/layers', (len(references), 1), h5py.ref_dtype)
        dataset[:, 0] = references
    with open(path, 'r+b') as file:
        file.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Fri Feb 02 2018 HDF5 schema 1.00 .')


def convolved(layers: Layers, x: np.ndarray) -> np.ndarray:
    """The chain on channels x height x width."""
    for place, (kernel, bias) in enumerate(layers):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        sums = [correlate(padded, kernel[..., out].transpose(2, 0, 1), 'valid')[0] for out in range(kernel.shape[3])]
        x = np.stack(sums) + bias[:, None, None]
        if place < len(layers) - 1:
            x = np.maximum(x, 0)
    return x


def dncnn(layers: Layers, x: np.ndarray) -> np.ndarray:
    return x - convolved(layers, x)


def ffdnet(layers: Layers, x: np.ndarray, sigma: float) -> np.ndarray:
    """x: 3 x H x W."""
    height, width = x.shape[1:]
    even = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2)), mode='edge')
    cells = [even[c, i::2, j::2] for c in range(3) for i in (0, 1) for j in (0, 1)]
    out = convolved(layers, np.stack([*cells, np.full_like(cells[0], sigma / 255)]))
    restored = np.empty_like(even)
    for c in range(3):
        for k, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            restored[c, i::2, j::2] = out[4 * c + k]
    return restored[:, :height, :width]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).random((3, 11, 8), 'f4')


def test_dncnn(tmp_path, image):
    layers = random_layers(3, 8, 8, 3)
    write_hdf5(tmp_path / 'net.mat', layers)
    found = recognise.load(preferred_network(read_checkpoint(tmp_path / 'net.mat')))
    assert found.options == {'num_in_ch': 3, 'num_feat': 8, 'num_layer': 3, 'batch_norm': False}
    restored = found.model(torch.from_numpy(image)[None])[0].numpy()
    np.testing.assert_allclose(restored, dncnn(layers, image), atol=1e-5)


def test_ffdnet(tmp_path, image):
    layers = random_layers(13, 8, 8, 12)
    write_hdf5(tmp_path / 'net.mat', layers)
    found = recognise.load(preferred_network(read_checkpoint(tmp_path / 'net.mat')))
    assert found.options == {'num_in_ch': 3, 'num_feat': 8, 'num_layer': 3}
    for sigma in (15, 50):
        restored = found.model(torch.from_numpy(image)[None], sigma)[0].numpy()
        np.testing.assert_allclose(restored, ffdnet(layers, image, sigma), atol=1e-5)


def test_a_network_for_grey_pictures(tmp_path, image):
    layers = random_layers(1, 8, 1)  # of whose last kernel MATLAB drops the last axis
    write_hdf5(tmp_path / 'net.mat', layers)
    found = recognise.load(preferred_network(read_checkpoint(tmp_path / 'net.mat')))
    restored = found.model(torch.from_numpy(image[:1])[None])[0].numpy()
    np.testing.assert_allclose(restored, dncnn(layers, image[:1]), atol=1e-5)


def test_info_and_convert(tmp_path, image):
    layers = random_layers(13, 96, 12)
    write_hdf5(tmp_path / 'net.mat', layers)
    text = '\n'.join(model_files.info(str(tmp_path / 'net.mat')))
    assert 'kind: MATLAB file (MatConvNet)' in text
    assert f'network: FFDNet, {sum(k.size + b.size for k, b in layers):,} parameters' in text
    model_files.convert(str(tmp_path / 'net.mat'), str(tmp_path / 'net.pth'), 'ours')
    found = recognise.load(preferred_network(read_checkpoint(tmp_path / 'net.pth')))
    restored = found.model(torch.from_numpy(image)[None], 25)[0].numpy()
    np.testing.assert_allclose(restored, ffdnet(layers, image, 25), atol=1e-5)
    with pytest.raises(InputError, match='FFDNet'):
        model_files.convert(str(tmp_path / 'net.mat'), str(tmp_path / 'net.pth'), 'official')


def test_pictures_are_restored(tmp_path, capsys):
    pixels = np.random.default_rng(2).integers(0, 256, (45, 38, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    for name, layers in (('dncnn', random_layers(3, 8, 3)), ('ffdnet', random_layers(13, 8, 12))):
        write_hdf5(tmp_path / f'{name}.mat', layers)
    planes = pixels.transpose(2, 0, 1) / np.float32(255)
    command = [str(tmp_path / 'photo.png'), '-m']

    def result(out: str) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / out)).transpose(2, 0, 1) / 255

    assert restore([*command, str(tmp_path / 'dncnn.mat'), '-o', str(tmp_path / 'a.png')]) == 0
    expected = dncnn(random_layers(3, 8, 3), planes).clip(0, 1)
    np.testing.assert_allclose(result('a.png'), expected, atol=0.51 / 255)

    told = [*command, str(tmp_path / 'ffdnet.mat'), '--sigma', '50', '-o', str(tmp_path / 'b.png')]
    assert restore(told) == 0
    expected = ffdnet(random_layers(13, 8, 12), planes, 50).clip(0, 1)
    np.testing.assert_allclose(result('b.png'), expected, atol=0.51 / 255)

    with pytest.raises(InputError, match='--sigma'):
        restore([*command, str(tmp_path / 'ffdnet.mat'), '-o', str(tmp_path / 'c.png')])
    with pytest.raises(InputError, match='--sigma'):
        restore([*command, str(tmp_path / 'dncnn.mat'), '--sigma', '25', '-o', str(tmp_path / 'c.png')])
    assert not (tmp_path / 'c.png').exists()


def test_what_is_no_network_is_refused_by_name(tmp_path):
    path = tmp_path / 'net.mat'
    write_hdf5(path, random_layers(3, 4, 3))
    content = path.read_bytes()
    with h5py.File(tmp_path / 'other.mat', 'w', userblock_size=512) as file:
        file['x'] = np.zeros(3)
    savemat(tmp_path / 'old.mat', {'x': np.zeros(3)})
    (tmp_path / 'short.mat').write_bytes(content[: len(content) // 2])
    (tmp_path / 'header.mat').write_bytes(b'MATLAB 7.3 MAT-file')
    write_hdf5(tmp_path / 'five.mat', [(np.zeros((5, 5, 3, 3), 'f4'), np.zeros(3, 'f4'))])
    for name, why in (
        ('other', 'no `net`'),
        ('short', 'damaged'),
        ('five', '5 x 5'),
        ('old', '-v7.3'),
        ('header', '7.3'),
    ):
        with pytest.raises(InputError, match=f'{name}.mat.*{why}'):
            read_checkpoint(tmp_path / f'{name}.mat')
