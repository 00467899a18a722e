"""MATLAB files (MatConvNet) of DnCNN and FFDNet, as their authors published them: read into a PyTorch state dict.

They are of version 7.3, which is HDF5. ``net.layers`` is a cell array with a struct for each layer. A convolution has
``weights``, a cell array of kernel (height x width x in x out) and bias; a ReLU has none, or an empty one. BatchNorm is
folded into the convolutions.
"""

from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airnet_basicsr.errors import InputError

# Some files also say where FFDNet goes to half the size (SubP) and takes the noise level (concat).
_WITHOUT_WEIGHTS = ('', 'relu', 'loss', 'subp', 'concat')
_HELP = 'pip install "airnet-basicsr[matlab]"'


def read_matlab(path: str | PathLike) -> dict[str, Tensor]:
    """The state dict of a network, with the names of :class:`~airnet_basicsr.network.dncnn.DnCNN`'s tensors.

    Raises:
        InputError: The file cannot be read, holds no network of MatConvNet, or one with other layers than 3 x 3
            convolutions and ReLUs.
    """
    path = fspath(path)
    if not _is_hdf5(path):
        # SciPy reads them, and ends the process where one is damaged.
        raise InputError(
            f'checkpoint {path} is a MATLAB file of an older version than 7.3: load it in MATLAB and save it again, '
            'with `save(FILE, "net", "-v7.3")`'
        )
    try:
        return _state(list(_layers(path)), path)
    except ImportError as error:
        raise InputError(f'checkpoint {path} is a MATLAB file, which needs h5py: {_HELP}') from error
    except InputError:
        raise
    except Exception as error:  # h5py raises whatever a damaged file leads it to
        raise InputError(
            f'checkpoint {path} cannot be read as a MATLAB file of a network: it is damaged, or has no `net` with '
            f'`layers` as MatConvNet writes it ({type(error).__name__}: {error})'
        ) from error


def is_matlab(path: str | PathLike) -> bool:
    """Whether the file at ``path`` begins as MATLAB's do."""
    try:
        with open(path, 'rb') as file:
            return file.read(7) == b'MATLAB ' or _is_hdf5(path)
    except OSError:
        return False


def _is_hdf5(path: str | PathLike) -> bool:
    # MATLAB leaves 512 bytes for a text before what HDF5 begins with.
    with open(path, 'rb') as file:
        content = file.read(520)
    return b'\x89HDF\r\n\x1a\n' in (content[:8], content[512:])


def _layers(path: str) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Type and weights of each layer, arrays as MATLAB sees them."""
    import h5py

    with h5py.File(path, 'r') as file:
        for reference in file['net']['layers'][()].ravel():
            layer = file[reference]
            kind = ''.join(map(chr, layer['type'][()].ravel())) if 'type' in layer else ''
            weights = layer.get('weights')
            # An empty cell array is an array of numbers, its size.
            if weights is None or weights.dtype != h5py.ref_dtype:
                yield kind, []
            else:
                # Column-major: HDF5 shows the axes in reverse.
                yield kind, [np.asarray(file[part]).T for part in weights[()].ravel()]


def _state(layers: list[tuple[str, list[Any]]], path: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for place, (kind, weights) in enumerate(layers):
        if not weights and kind.lower() in _WITHOUT_WEIGHTS:
            continue
        if len(weights) != 2 or kind not in ('', 'conv'):
            raise InputError(
                f'checkpoint {path}: layer {place + 1} is {kind or "of no known type"} with {len(weights)} arrays of '
                'weights; only files with convolutions (kernel and bias) and ReLUs can be read, BatchNorm folded in'
            )
        kernel, bias = weights
        # MATLAB drops the last axes where they are 1: a network for grey pictures gives one channel.
        kernel = kernel.reshape(kernel.shape + (1,) * (4 - kernel.ndim)).transpose(3, 2, 0, 1)
        if kernel.shape[2:] != (3, 3) or bias.size != kernel.shape[0]:
            raise InputError(
                f'checkpoint {path}: layer {place + 1} has a kernel of {kernel.shape[2]} x {kernel.shape[3]} pixels, '
                f'{kernel.shape[0]} outputs and {bias.size} biases; expected 3 x 3 and as many biases as outputs'
            )
        number = 2 * (len(state) // 2)  # ReLUs lie between
        for part, array in (('weight', kernel), ('bias', bias.ravel())):
            state[f'model.{number}.{part}'] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if not state:
        raise InputError(f'checkpoint {path} holds no convolutions in net.layers')
    return state
