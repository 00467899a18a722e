"""Checkpoint files: the toolbox's own (params, params_ema), with extra keys of ours, the official AirNet release's,
and the MATLAB files of DnCNN and FFDNet.

Our files may also hold, beside the networks:

- ``contrast``: key encoder and queue, as in :class:`~airnet_basicsr.network.momentum_contrast.MomentumContrast`;
- ``reference``: for each kind of degradation by name what :func:`airnet_basicsr.restore.explain.fit` found of its
  patches (in older files ``embeddings``, N x D: the encoder's pooled features of N patches), ``patch_size`` and, for
  noise, ``sigma`` on the scale 0 to 255 (numbers in tensors). Names that begin with ``_`` are no kinds.
"""

import io
import pickle
import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import MADE_WITH
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.network.matconvnet import is_matlab, read_matlab

StateDict = dict[str, Tensor]

# From the release's names to ours. Its query and key encoders are named alike below `encoder_q.` and `encoder_k.`.
_RESTORER_NAMES = (
    (r'R\.(head|tail)\.0\.', r'restorer.\1.'),
    (r'R\.body\.(\d+)\.body\.(\d+)\.(dgm|conv)', r'restorer.groups.\1.blocks.\2.\3'),
    (r'R\.body\.(\d+)\.body\.\d+\.', r'restorer.groups.\1.conv.'),
    (r'R\.body\.\d+\.', r'restorer.conv.'),
    (r'\.conv_(gamma|beta)\.', r'.\1.'),
)
_ENCODER_NAMES = (
    (r'^E_pre\.', 'blocks.0.'),
    (r'^E\.0\.', 'blocks.1.'),
    (r'^E\.1\.', 'blocks.2.'),
    (r'\.backbone\.', '.body.'),
)
_OFFICIAL_ENCODER_NAMES = (
    (r'^blocks\.0\.body\.', 'E_pre.backbone.'),
    (r'^blocks\.0\.', 'E_pre.'),
    (r'^blocks\.([12])\.body\.', lambda m: f'E.{int(m[1]) - 1}.backbone.'),
    (r'^blocks\.([12])\.', lambda m: f'E.{int(m[1]) - 1}.'),
)
_EXTRAS = ('contrast', 'reference')


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    networks: dict[str, StateDict]
    """State dicts in our names, by the toolbox's param key: ``params`` and, with an average, ``params_ema``."""
    contrast: StateDict | None
    """``key_encoder.*``, ``queue`` and ``queue_ptr``, as official files and those converted from them have."""
    reference: dict[str, StateDict] | None = None
    """What the degradations look like to the encoder, where the file says so; see the module's description."""
    official: bool = False
    """Whether it is a file of the official release."""


def _rename(name: str, rules: tuple) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def from_official(state: Mapping[str, Tensor]) -> tuple[StateDict, StateDict]:
    """Split an official state dict, whatever its size or its queue's length, into our network and contrast parts.

    Returns:
        The state dict of :class:`~airnet_basicsr.network.airnet.AirNet` and that of
        :class:`~airnet_basicsr.network.momentum_contrast.MomentumContrast`. Tensors are not copied.
    """
    network: StateDict = {}
    contrast: StateDict = {}
    for name, tensor in state.items():
        part, _, rest = name.partition('.')
        if part == 'R':
            network[_rename(name, _RESTORER_NAMES)] = tensor
            continue
        which, _, inner = rest.removeprefix('E.').partition('.')
        if which == 'encoder_q':
            network[f'encoder.{_rename(inner, _ENCODER_NAMES)}'] = tensor
        elif which == 'encoder_k':
            contrast[f'key_encoder.{_rename(inner, _ENCODER_NAMES)}'] = tensor
        else:
            contrast[which] = tensor
    return network, contrast


def to_official(network: Mapping[str, Tensor], contrast: Mapping[str, Tensor]) -> StateDict:
    """The official release's state dict: the inverse of :func:`from_official`. Tensors are not copied."""
    groups = 1 + max(int(name.split('.')[2]) for name in network if name.startswith('restorer.groups.'))
    blocks = 1 + max(int(name.split('.')[4]) for name in network if '.blocks.' in name and name.startswith('restorer.'))
    restorer_names = (
        (r'^restorer\.(head|tail)\.', r'R.\1.0.'),
        (r'^restorer\.groups\.(\d+)\.blocks\.(\d+)\.', r'R.body.\1.body.\2.'),
        (r'^restorer\.groups\.(\d+)\.conv\.', rf'R.body.\1.body.{blocks}.'),
        (r'^restorer\.conv\.', f'R.body.{groups}.'),
        (r'\.sft\.(gamma|beta)\.', r'.sft.conv_\1.'),
    )
    state: StateDict = {}
    for name, tensor in network.items():
        if name.startswith('restorer.'):
            state[_rename(name, restorer_names)] = tensor
        else:
            state[f'E.E.encoder_q.{_rename(name.removeprefix("encoder."), _OFFICIAL_ENCODER_NAMES)}'] = tensor
    for name, tensor in contrast.items():
        if name.startswith('key_encoder.'):
            name = f'encoder_k.{_rename(name.removeprefix("key_encoder."), _OFFICIAL_ENCODER_NAMES)}'
        state[f'E.E.{name}'] = tensor
    return state


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def read_checkpoint(path: str | PathLike) -> Checkpoint:
    """Read a checkpoint without running code from it.

    Raises:
        InputError: The file is missing, damaged, holds more than plain tensors, or is neither the toolbox's nor the
            official release's.
    """
    path = fspath(path)
    if is_matlab(path):
        return Checkpoint({'params': read_matlab(path)}, None)
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f'checkpoint {path} does not exist') from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition('\n')[0]
        raise InputError(
            f'checkpoint {path} cannot be read: it is damaged, no PyTorch file, or would run code ({reason})'
        ) from error
    if _is_state_dict(content):
        state = {name.removeprefix('module.'): tensor for name, tensor in content.items()}
        if all(name.startswith(('R.', 'E.E.')) for name in state):
            network, contrast = from_official(state)
            return Checkpoint({'params': network}, contrast, official=True)
        return Checkpoint({'params': state}, None)
    if isinstance(content, Mapping):
        networks = {
            key: {name.removeprefix('module.'): tensor for name, tensor in state.items()}
            for key, state in content.items()
            if key not in _EXTRAS and _is_state_dict(state)
        }
        if networks:
            return Checkpoint(networks, *(content.get(key) for key in _EXTRAS))
    raise InputError(
        f'checkpoint {path} holds no network: expected a file of the toolbox (with `params` or `params_ema`) or of the '
        'official AirNet release'
    )


def write_checkpoint(path: str | PathLike, checkpoint: Checkpoint) -> None:
    """Write one of our files, which :func:`read_checkpoint` reads, whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    extras = {key: getattr(checkpoint, key) for key in _EXTRAS if getattr(checkpoint, key)}
    save_whole(path, {**checkpoint.networks, **extras})


def save_whole(path: str | PathLike, content: Any) -> None:
    """``torch.save``, whole or not at all. Raises InputError where the file cannot be written."""
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue())


def preferred_network(checkpoint: Checkpoint) -> StateDict:
    """The network that a user wants: the average over training where there is one."""
    networks = checkpoint.networks
    return networks.get('params_ema') or networks.get('params') or next(iter(networks.values()))


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: str | PathLike) -> None:
    """Load ``state``, read from ``path``, into ``net``; every tensor must be there, with the right shape, and no other.

    Raises:
        InputError: Naming the tensors that are missing, unknown or of another shape. ``net`` is left as it was.
    """
    expected = net.state_dict()
    faults = [f'{name} is missing' for name in expected if name not in state]
    faults += [f'{name} is unknown to it' for name in state if name not in expected]
    faults += [
        f'{name} has shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}'
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    faults += [
        f'{name} is {state[name].item()} instead of {expected[name].item()}'
        for name in expected
        if name.startswith(MADE_WITH) and name in state and not torch.equal(state[name].cpu(), expected[name].cpu())
    ]
    if faults:
        shown = '; '.join(faults[:4]) + ('; ...' if len(faults) > 4 else '')
        raise InputError(
            f'checkpoint {fspath(path)} does not fit the network {type(net).__name__} ({len(faults)} of '
            f'{len(expected)} tensors differ): {shown}. Is it a file of this network, with the options of network_g?'
        )
    net.load_state_dict(state)
