"""A network from a state dict alone, for programs that load models by inspecting them: AirNet, and its rivals."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import aodnet, brdnet, dncnn, ffdnet, ircnn, mprnet, nafnet, promptir
from airnet_basicsr.network.airnet import MADE_WITH, AirNet
from airnet_basicsr.network.checkpoints import StateDict, differences, load_strictly, preferred_network, understand
from airnet_basicsr.network.traits import Traits, traits_of

# What only the embedding needs; files for inference leave it out.
EMBEDDING_PARTS = ('encoder.blocks.1.', 'encoder.blocks.2.', 'encoder.mlp.')
_HEAD = 'restorer.head.weight'
_SIGNS = {_HEAD, 'restorer.tail.weight', 'encoder.blocks.0.body.0.weight'}
_BLOCK = re.compile(r'restorer\.groups\.(\d+)\.blocks\.(\d+)\.')

# By their state dict's names and shapes, each gives its arguments, or None for another network's.
RIVALS: dict[type[nn.Module], Callable[[Mapping[str, Tensor]], dict[str, Any] | None]] = {
    aodnet.AODNet: aodnet.network_options,
    brdnet.BRDNet: brdnet.network_options,
    dncnn.DnCNN: dncnn.network_options,
    ffdnet.FFDNet: ffdnet.network_options,
    ircnn.IRCNN: ircnn.network_options,
    mprnet.MPRNet: mprnet.network_options,
    nafnet.NAFNet: nafnet.network_options,
    promptir.PromptIR: promptir.network_options,
}


class Descriptor(NamedTuple):
    """A network with what a program must know to use it. Names follow spandrel's descriptors."""

    model: nn.Module
    """In eval mode. Gives B x C x H x W for B x C x H x W, values in [0, 1], not clipped."""
    options: dict[str, Any]
    """The network's arguments, found from the tensors' shapes."""
    can_embed: bool
    """False for a file without the parts that only the embedding needs: ``model`` then only restores."""
    architecture: str = 'AirNet'
    purpose: str = 'Restoration'
    scale: int = 1
    minimum_size: int = 1
    multiple_of: int = 1
    supports_half: bool = True
    supports_bfloat16: bool = True

    @property
    def input_channels(self) -> int:
        # Each network's option has its authors' name; those without one are for colour.
        names = ('num_in_ch', 'img_channel', 'inp_channels')
        return next((self.options[name] for name in names if name in self.options), 3)

    @property
    def output_channels(self) -> int:
        return self.input_channels

    @property
    def metadata(self) -> dict[str, str]:
        """What a file can say to programs that do not look at its tensors."""
        return {'architecture': self.architecture, 'options': json.dumps(self.options)}

    @property
    def traits(self) -> Traits:
        return traits_of(self.model)


def detect(state: Mapping[str, Any]) -> bool:
    """Whether ``state`` is AirNet's, in our names or the official release's, with or without a wrapper's prefixes."""
    try:
        return _is_airnet(_network(state, 'state dict'))
    except InputError:
        return False


def _is_airnet(network: Mapping[str, Tensor]) -> bool:
    return network.keys() >= _SIGNS and all(network[name].dim() == 4 for name in _SIGNS)


def _network(state: Mapping[str, Any], source: str) -> StateDict:
    return preferred_network(understand(state, {}, source))


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of :class:`~airnet_basicsr.network.airnet.AirNet` that fit ``state``, in our names.

    Raises:
        InputError: A marker is unknown or does not fit, or blocks are missing.
    """
    head = state[_HEAD]
    markers = _markers(state)
    places = {(int(m[1]), int(m[2])) for m in map(_BLOCK.match, state) if m}
    groups, blocks = (1 + max((place[i] for place in places), default=-1) for i in (0, 1))
    if len(places) != groups * blocks:
        raise InputError(
            f'it has tensors of {len(places)} blocks, numbered up to {groups} groups of {blocks}: some are missing'
        )
    return {
        'num_in_ch': head.shape[1] // markers['unshuffle'] ** 2,
        'num_feat': head.shape[0],
        'num_group': groups,
        'num_block': blocks,
        'with_sft': any('.sft.' in name for name in state),
        'with_dcn': any('.dcn.conv_offset_mask.' in name for name in state),
        'unshuffle': markers['unshuffle'],
        'image_residual': bool(markers['image_residual']),
    }


def _markers(state: Mapping[str, Tensor]) -> dict[str, int]:
    """What the file says of the options that no shape shows; the paper's network says nothing."""
    markers = {'unshuffle': 1, 'image_residual': 0}
    for name, tensor in state.items():
        if not name.startswith(MADE_WITH):
            continue
        option = name.removeprefix(MADE_WITH)
        if option not in markers:
            raise InputError(
                f'the network was made with the option `{option}`, which this version does not know: a newer '
                'airnet-basicsr may'
            )
        known = {'unshuffle': (2, 4, 8), 'image_residual': (1,)}[option]
        value = tensor.item() if tensor.numel() == 1 else tuple(tensor.shape)
        if value not in known:
            raise InputError(f'the marker {name} is {value!r}; expected {" or ".join(map(str, known))}')
        markers[option] = int(value)
    channels = state[_HEAD].shape[1]
    if channels % markers['unshuffle'] ** 2:
        raise InputError(
            f'the marker {MADE_WITH}unshuffle is {markers["unshuffle"]}, but the head takes {channels} channels'
        )
    return markers


def load(state: Mapping[str, Tensor], source: str = 'state dict') -> Descriptor:
    """Build the network that ``state`` is from. ``source`` names it in messages.

    Raises:
        InputError: It is of no network that is known here, or tensors are missing or of another shape.
    """
    state = _network(state, source)
    if not _is_airnet(state):
        return _load_rival(state, source)
    try:
        options = network_options(state)
    except InputError as error:
        raise InputError(f'{source}: {error}') from error
    can_embed = any(name.startswith(EMBEDDING_PARTS) for name in state)
    # Compared before any memory is taken: shapes in a file may ask for more than there is.
    with torch.device('meta'):
        expected = {
            name: tensor
            for name, tensor in AirNet(**options).state_dict().items()
            if can_embed or not name.startswith(EMBEDDING_PARTS)
        }
    faults = differences(state, expected)
    if faults:
        raise InputError(
            f'{source} is no whole AirNet of {options["num_feat"]} features ({len(faults)} of {len(expected)} tensors '
            f'differ): {"; ".join(faults[:4])}{"; ..." if len(faults) > 4 else ""}'
        )
    model = AirNet(**options)
    load_strictly(model, {**model.state_dict(), **state}, source)
    return Descriptor(model.eval().requires_grad_(False), options, can_embed)


def load_airnet(state: Mapping[str, Tensor], source: str) -> tuple[Descriptor, AirNet]:
    """As :func:`load`, for what only AirNet can, and the network. Raises InputError for another network too."""
    described = load(state, source)
    if not isinstance(described.model, AirNet):
        raise InputError(f'{source} is of the network {described.architecture}; this is for AirNet only')
    return described, described.model


def _without_wrappers(state: StateDict) -> Iterator[StateDict]:
    """``state``, and where all its names begin alike, as below a wrapper, without that."""
    yield state
    beginnings = {name.partition('.')[0] for name in state}
    while len(beginnings) == 1 and all('.' in name for name in state):
        state = {name.partition('.')[2]: tensor for name, tensor in state.items()}
        yield state
        beginnings = {name.partition('.')[0] for name in state}


def _load_rival(state: Mapping[str, Tensor], source: str) -> Descriptor:
    plain = {name: tensor for name, tensor in state.items() if not promptir.UNUSED.match(name)}
    for state, (network, options_of) in itertools.product(_without_wrappers(plain), RIVALS.items()):
        try:
            options = options_of(state)
            if options is None:
                continue
            model = network(**options)
        except (IndexError, KeyError, ValueError, ZeroDivisionError, RuntimeError, MemoryError):
            continue  # names as this network's, with shapes that it cannot have
        load_strictly(model, state, source)
        return Descriptor(model.eval().requires_grad_(False), options, False, network.__name__)
    shown = ', '.join(list(plain)[:3])
    known = ', '.join(sorted(network.__name__ for network in RIVALS))
    raise InputError(
        f'{source} is of no network that is known here: it has {len(plain)} tensors ({shown}, ...), not those of '
        f'AirNet, {known}'
    )
