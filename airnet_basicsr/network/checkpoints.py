"""Checkpoint files: BasicSR's own (params, params_ema), with extra keys of ours, the official AirNet release's,
and the MATLAB files of DnCNN and FFDNet.

Our files may also hold, beside the networks:

- ``contrast``: key encoder and queue, as in :class:`~airnet_basicsr.network.momentum_contrast.MomentumContrast`;
- ``reference``: for each kind of degradation by name what :func:`airnet_basicsr.restore.explain.fit` found of its
  patches (in older files ``embeddings``, N x D: the encoder's pooled features of N patches), ``patch_size`` and, for
  noise, ``sigma`` on the scale 0 to 255 (numbers in tensors). Names that begin with ``_`` are no kinds.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from os import PathLike, fspath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import MADE_WITH
from airnet_basicsr.network.files import write_whole
from airnet_basicsr.network.matconvnet import is_matlab, read_matlab
from airnet_basicsr.network.tensor_files import flattened, is_safetensors_name, read_tensors, write_safetensors

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
_OFFICIAL_ANCHOR = 'R.head.0.weight'
_EXTRAS = ('contrast', 'reference', 'facts')
_OF_THE_NETWORK = ('architecture', 'options')  # metadata for other programs: here the tensors tell
# Under these keys networks lie in BasicSR's files, those of PyTorch's examples, Lightning, timm, KAIR and spandrel.
_WRAPPERS: tuple[str, ...] = ('params', 'params_ema', 'params-ema', 'state_dict', 'model_state_dict', 'model')
_WRAPPERS += ('net', 'network', 'net_g', 'netG', 'generator', 'ema', 'net_g_ema', 'model_ema', 'state_dict_ema')


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    networks: dict[str, StateDict]
    """State dicts in our names, by BasicSR's param key: ``params`` and, with an average, ``params_ema``."""
    contrast: StateDict | None
    """``key_encoder.*``, ``queue`` and ``queue_ptr``, as official files and those converted from them have."""
    reference: dict[str, StateDict] | None = None
    """What the degradations look like to the encoder, where the file says so; see the module's description."""
    official: bool = False
    """Whether it is a file of the official release."""
    facts: dict[str, str] = {}  # noqa: RUF012
    """What the file says of itself for people: data, licence, figures."""


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
        if name.startswith('E.E.encoder_q.'):
            network[f'encoder.{_rename(name.removeprefix("E.E.encoder_q."), _ENCODER_NAMES)}'] = tensor
        elif name.startswith('E.E.encoder_k.'):
            contrast[f'key_encoder.{_rename(name.removeprefix("E.E.encoder_k."), _ENCODER_NAMES)}'] = tensor
        elif name.startswith('E.E.'):
            contrast[name.removeprefix('E.E.')] = tensor
        else:  # names that the release does not have stay as they are, and are refused by them
            network[_rename(name, _RESTORER_NAMES)] = tensor
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


def _renamed(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> StateDict:
    found: StateDict = {}
    for name, tensor in state.items():
        plain = rename(name)
        if plain in found:
            raise InputError(f'the tensor {plain} is there twice, with and without a prefix')
        found[plain] = tensor
    return found


def networks_of(state: Mapping[str, Tensor]) -> tuple[dict[str, StateDict], StateDict, bool]:
    """The networks in a flat state dict, whatever wrapped them: DataParallel, torch.compile, a Lightning module.

    Returns:
        State dicts in our names, by param key (see :class:`Checkpoint`); the contrastive part, empty where there is
        none; whether the names were those of the official release. A state dict of another network comes back as
        ``params``.

    Raises:
        InputError: Two names are one without their prefixes.
    """
    state = _renamed(state, lambda name: name.replace('_orig_mod.', ''))
    networks: dict[str, StateDict] = {}
    contrast: StateDict = {}
    official = False
    for anchor in ('restorer.head.weight', _OFFICIAL_ANCHOR):
        for name in state:
            if name != anchor and not name.endswith(f'.{anchor}'):
                continue
            prefix = name.removesuffix(anchor)
            # Beside a wrapped network lies what belongs to the wrapper: losses, a discriminator.
            inner = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
            if anchor == _OFFICIAL_ANCHOR:
                inner, contrast = from_official(inner)
                official = True
            networks.setdefault(_param_key(prefix.replace('.', ' ')), inner)
    if not networks:
        networks['params'] = _renamed(state, lambda name: name.removeprefix('module.'))
    return networks, contrast, official


def _param_key(name: str) -> str:
    """What BasicSR calls the network that others call ``name``."""
    return 'params_ema' if re.search(r'(^|[^a-z])(ema|averaged?|avg)([^a-z]|$)', name.lower()) else 'params'


def _is_state_dict(value: Any) -> bool:
    """Whether it is meant as one: it holds tensors and no further dictionaries."""
    return (
        isinstance(value, Mapping)
        and any(isinstance(v, Tensor) for v in value.values())
        and not any(isinstance(v, Mapping) for v in value.values())
    )


def _state_dicts(content: Any, key: str = 'params', depth: int = 0) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The state dicts in nested dictionaries, by the key that they lie under."""
    if _is_state_dict(content):
        yield key, content
    elif isinstance(content, Mapping) and depth < 3:
        known = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        for inner in known or [key for key in content if key not in _EXTRAS]:
            yield from _state_dicts(content[inner], str(inner), depth + 1)


def read_checkpoint(path: str | PathLike) -> Checkpoint:
    """Read a checkpoint of ours, of BasicSR or of the official release, however wrapped, without running code from it.

    Raises:
        InputError: The file is missing, damaged, holds more than tensors and plain values, or holds no network; the
            message says what it is instead.
    """
    if is_matlab(path):
        return Checkpoint({'params': read_matlab(path)}, None)
    content, metadata = read_tensors(path)
    return understand(content, metadata, f'checkpoint {fspath(path)}')


def understand(content: Any, metadata: Mapping[str, str], source: str) -> Checkpoint:
    """The checkpoint that a file's content is. ``source`` names the file in messages; raises as read_checkpoint."""
    if isinstance(content, Mapping) and {'iter', 'optimizers'} <= content.keys():
        raise InputError(
            f'{source} is the state of a training run, which path:resume_state takes: the network lies in its models/, '
            f'as net_g_{content["iter"]}.pth'
        )
    extras: dict[str, Any] = {}
    if _is_state_dict(content):
        content, extras = _without_extras(content)
    elif isinstance(content, Mapping):
        extras = {key: content[key] for key in _EXTRAS if content.get(key) is not None}
    networks: dict[str, StateDict] = {}
    contrast: StateDict = {}
    official = False
    for key, state in _state_dicts(content):
        _check_tensors(state, source)
        try:
            found, found_contrast, is_official = networks_of(state)
        except InputError as error:
            raise InputError(f'{source}: {error}') from error
        for inner, network in found.items():
            networks.setdefault(inner if inner != 'params' else _param_key(key), network)
        contrast = contrast or found_contrast
        official = official or is_official
    if not networks:
        raise InputError(
            f'{source} holds no network but {_described(content)}: expected a file of BasicSR (with `params` or '
            '`params_ema`) or of the official AirNet release'
        )
    reference, facts = extras.get('reference'), _facts(extras.get('facts'), source)
    facts |= {name: fact for name, fact in metadata.items() if name not in _OF_THE_NETWORK}
    contrast = extras.get('contrast') or contrast
    network = networks.get('params') or next(iter(networks.values()))
    if contrast:
        _check_contrast(contrast, network, source)
    if reference:
        _check_reference(reference, network, source)
    return Checkpoint(networks, contrast or None, reference or None, official, facts)


def _without_extras(state: Mapping[str, Tensor]) -> tuple[StateDict, dict[str, Any]]:
    """A flat state dict, as safetensors are, and what lies in it under the names of our extras."""
    network: StateDict = {}
    extras: dict[str, Any] = {}
    for name, tensor in state.items():
        part, _, rest = str(name).partition('.')
        if part == 'contrast':
            extras.setdefault(part, {})[rest] = tensor
        elif part == 'reference':
            kind, _, key = rest.rpartition('.')
            extras.setdefault(part, {}).setdefault(kind, {})[key] = tensor
        else:
            network[name] = tensor
    return network, extras


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        names = ', '.join(str(name)[:40] for name in list(content)[:5])
        return f'a dictionary of {names}' if names else 'an empty dictionary'
    return f'a {type(content).__name__}'


def _check_tensors(state: Mapping[Any, Any], source: str) -> None:
    """Raise InputError for what is no plain tensor in ``state``, or has no name."""
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise InputError(f'{source}: a tensor is named by {name!r}, which is no text')
        if not isinstance(tensor, Tensor):
            raise InputError(f'{source}: {name} is a {type(tensor).__name__}, not a tensor')
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            kinds = {'quantized': tensor.is_quantized, 'nested': tensor.is_nested, 'without values': tensor.is_meta}
            kind = next((kind for kind, so in kinds.items() if so), str(tensor.layout).removeprefix('torch.'))
            raise InputError(f'{source}: {name} is a tensor of a kind that cannot be used here ({kind})')
        if tensor._backward_hooks:  # part of how a tensor is pickled; it may be anything
            raise InputError(f'{source}: {name} has hooks, which a file of weights cannot have')
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f'{source}: {name} has shape {tuple(tensor.shape)}, more values than the file holds')


def _check_contrast(contrast: Any, network: Mapping[str, Tensor], source: str) -> None:
    if not _is_state_dict(contrast):
        raise InputError(f'{source}: contrast is {_described(contrast)}, not a state dict')
    _check_tensors(contrast, source)
    expected = {f'key_{name}': tuple(tensor.shape) for name, tensor in network.items() if name.startswith('encoder.')}
    found = {name: tuple(tensor.shape) for name, tensor in contrast.items()}
    queue = found.pop('queue', ())
    pointer = found.pop('queue_ptr', None)
    if len(queue) != 2 or 0 in queue or not contrast['queue'].is_floating_point() or pointer != (1,):
        raise InputError(f'{source}: the queue of its contrastive part is missing or damaged')
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        raise InputError(
            f'{source}: the key encoder does not fit the encoder; {len(different)} tensors are missing, unknown or of '
            f'another shape, among them {different[0]}'
        )


def _check_reference(reference: Any, network: Mapping[str, Tensor], source: str) -> None:
    def refuse(what: str) -> None:
        raise InputError(f'{source}: its reference embeddings are damaged ({what}); make them anew')

    if not isinstance(reference, Mapping) or not all(isinstance(kind, Mapping) for kind in reference.values()):
        refuse('no dictionary of dictionaries')
    for name, kind in reference.items():
        if not isinstance(name, str):
            refuse(f'a kind is named {name!r}')
        if any('.' in key for key in kind if isinstance(key, str)):
            refuse(f'{name}: a name in it has a dot')
        _check_tensors(kind, f'{source}: reference: {name}')
        for key, tensor in kind.items():
            if tensor.is_complex() or not tensor.float().isfinite().all():
                refuse(f'{name}: {key} holds values that are no numbers')

    def number(name: str, key: str, least: float) -> None:
        value = reference[name].get(key)
        if value is None or value.numel() != 1 or value.item() < least:
            refuse(f'{name}: {key} is missing or no number of at least {least:g}')

    head = network.get('restorer.head.weight')
    features = 4 * head.shape[0] if head is not None and head.dim() == 4 else None
    kinds = [name for name in reference if name != '_lda']
    if not kinds:
        refuse('it names no kind')
    fitted = reference.get('_lda')
    if fitted is not None:
        projection = fitted.get('projection')
        number('_lda', 'reach', 1e-12)
        if projection is None or projection.dim() != 2 or features not in (None, projection.shape[0]):
            refuse('_lda: projection is missing or of another size')
    patches = 0
    for name in kinds:
        number(name, 'patch_size', 1)
        if 'sigma' in reference[name]:
            number(name, 'sigma', 0)
        values = reference[name].get('mean' if fitted is not None else 'embeddings')
        if fitted is not None and (values is None or tuple(values.shape) != (projection.shape[1],)):
            refuse(f'{name}: mean is missing or of another size')
        if fitted is None and (values is None or values.dim() != 2 or features not in (None, values.shape[1])):
            refuse(f'{name}: embeddings are missing or of another size')
        patches += len(values)
    if fitted is None and patches <= len(kinds):
        refuse('too few embeddings')


def _facts(facts: Any, source: str) -> dict[str, str]:
    if facts is None:
        return {}
    if not isinstance(facts, Mapping) or not all(isinstance(v, str) for pair in facts.items() for v in pair):
        raise InputError(f'{source}: facts is {_described(facts)}, not a dictionary of texts')
    return dict(facts)


def write_checkpoint(path: str | PathLike, checkpoint: Checkpoint, metadata: Mapping[str, str] | None = None) -> None:
    """Write one of our files, which :func:`read_checkpoint` reads, whole or not at all.

    Args:
        path: A name that ends in ``.safetensors`` gives that format: a single network under its own names, as other
            programs expect it, anything else below its key (``params_ema.``, ``contrast.``, ``reference.``).
        checkpoint: What to write.
        metadata: What a safetensors file is to say beside the checkpoint's facts: architecture and options.

    Raises:
        InputError: It cannot be written.
    """
    extras = {key: getattr(checkpoint, key) for key in _EXTRAS if getattr(checkpoint, key)}
    if not is_safetensors_name(path):
        save_whole(path, {**checkpoint.networks, **extras})
        return
    metadata = {**extras.pop('facts', {}), **(metadata or {})}
    alone = len(checkpoint.networks) == 1
    networks = next(iter(checkpoint.networks.values())) if alone else checkpoint.networks
    write_safetensors(path, dict(flattened({**networks, **extras})), metadata)


def save_whole(path: str | PathLike, content: Any) -> None:
    """``torch.save``, whole or not at all. Raises InputError where the file cannot be written."""
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue())


def preferred_network(checkpoint: Checkpoint) -> StateDict:
    """The network that a user wants: the average over training where there is one."""
    networks = checkpoint.networks
    return networks.get('params_ema') or networks.get('params') or next(iter(networks.values()))


def differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What keeps ``state`` from being loaded where ``expected`` is, in words: names, shapes, kinds of numbers."""
    faults = [f'{name} is missing' for name in expected if name not in state]
    faults += [f'{name} is unknown to it' for name in state if name not in expected]
    for name in expected:
        if name not in state:
            continue
        given, wanted = state[name], expected[name]
        if given.shape != wanted.shape:
            faults.append(f'{name} has shape {tuple(given.shape)} instead of {tuple(wanted.shape)}')
        # Counts may have been made halves of along with the weights; weights are never whole numbers.
        elif given.is_complex() or (wanted.is_floating_point() and not given.is_floating_point()):
            dtypes = (str(tensor.dtype).removeprefix('torch.') for tensor in (given, wanted))
            faults.append(f'{name} holds {" instead of ".join(dtypes)}')
    return faults


def _fitting(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``state``, or the part of it, below one prefix, that has all names of ``expected``."""
    first = next(iter(expected), '')
    for name in state:
        if name.endswith(f'.{first}'):
            prefix = name.removesuffix(first)
            inner = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
            if expected.keys() == inner.keys():
                return inner
    return state


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: str | PathLike) -> None:
    """Load ``state``, read from ``path``, into ``net``; every tensor must be there, with the right shape, and no other.

    Raises:
        InputError: Naming the tensors that are missing, unknown or of another shape. ``net`` is left as it was.
    """
    expected = net.state_dict()
    state = _fitting(state, expected)
    faults = differences(state, expected)
    faults = faults or [
        f'{name} is {state[name].item()} instead of {tensor.item()}'
        for name, tensor in expected.items()
        if name.startswith(MADE_WITH) and state[name].item() != tensor.item()
    ]
    if faults:
        shown = '; '.join(faults[:4]) + ('; ...' if len(faults) > 4 else '')
        raise InputError(
            f'checkpoint {fspath(path)} does not fit the network {type(net).__name__} ({len(faults)} of '
            f'{len(expected)} tensors differ): {shown}. Is it a file of this network, with the options of network_g?'
        )
    net.load_state_dict(state)
