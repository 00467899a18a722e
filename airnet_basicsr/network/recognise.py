"""A network from a state dict alone, for programs that load models by inspecting them: AirNet, and its rivals."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import aodnet, brdnet, dncnn, ffdnet, ircnn, mprnet, nafnet, promptir
from airnet_basicsr.network.airnet import MADE_WITH, AirNet
from airnet_basicsr.network.checkpoints import from_official, load_strictly
from airnet_basicsr.network.traits import Traits, traits_of

# What only the embedding needs; files for inference leave it out.
EMBEDDING_PARTS = ('encoder.blocks.1.', 'encoder.blocks.2.', 'encoder.mlp.')
_HEAD, _TAIL = 'restorer.head.weight', 'restorer.tail.weight'

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
    def traits(self) -> Traits:
        return traits_of(self.model)


def detect(state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` is AirNet's, in our names or the official release's (with or without ``module.``)."""
    names = {name.removeprefix('module.') for name in state}
    ours = {_HEAD, _TAIL, 'encoder.blocks.0.body.0.weight'}
    return ours <= names or {'R.head.0.weight', 'R.tail.0.weight', 'E.E.encoder_q.E_pre.backbone.0.weight'} <= names


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of :class:`~airnet_basicsr.network.airnet.AirNet` that fit ``state``, in our names."""
    head = state[_HEAD]
    markers = _markers(state)
    places = [m for m in (re.match(r'restorer\.groups\.(\d+)\.blocks\.(\d+)\.', name) for name in state) if m]
    return {
        'num_in_ch': head.shape[1] // markers['unshuffle'] ** 2,
        'num_feat': head.shape[0],
        'num_group': 1 + max((int(place[1]) for place in places), default=-1),
        'num_block': 1 + max((int(place[2]) for place in places), default=-1),
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
        known = {'unshuffle': range(2, 9), 'image_residual': range(1, 2)}[option]
        value = tensor.item() if tensor.numel() == 1 else tuple(tensor.shape)
        if value not in known:
            raise InputError(f'the marker {name} is {value!r}; expected {known.start} to {known.stop - 1}')
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
    if not detect(state):
        return _load_rival({name.removeprefix('module.'): tensor for name, tensor in state.items()}, source)
    state = {name.removeprefix('module.'): tensor for name, tensor in state.items()}
    if 'R.head.0.weight' in state:
        state = from_official(state)[0]
    options = network_options(state)
    model = AirNet(**options)
    can_embed = any(name.startswith(EMBEDDING_PARTS) for name in state)
    if not can_embed:
        unused = {name: t for name, t in model.state_dict().items() if name.startswith(EMBEDDING_PARTS)}
        state = {**unused, **state}
    load_strictly(model, state, source)
    return Descriptor(model.eval().requires_grad_(False), options, can_embed)


def load_airnet(state: Mapping[str, Tensor], source: str) -> tuple[Descriptor, AirNet]:
    """As :func:`load`, for what only AirNet can, and the network. Raises InputError for another network too."""
    described = load(state, source)
    if not isinstance(described.model, AirNet):
        raise InputError(f'{source} is of the network {described.architecture}; this is for AirNet only')
    return described, described.model


def _load_rival(state: Mapping[str, Tensor], source: str) -> Descriptor:
    state = {name: tensor for name, tensor in state.items() if not promptir.UNUSED.match(name)}
    for network, options_of in RIVALS.items():
        try:
            options = options_of(state)
            if options is None:
                continue
            model = network(**options)
        except (IndexError, KeyError, ValueError, ZeroDivisionError):
            continue  # names as this network's, with shapes that it cannot have
        load_strictly(model, state, source)
        return Descriptor(model.eval().requires_grad_(False), options, False, network.__name__)
    shown = ', '.join(list(state)[:3])
    known = ', '.join(sorted(network.__name__ for network in RIVALS))
    raise InputError(
        f'{source} is of no network that is known here: it has {len(state)} tensors ({shown}, ...), not those of '
        f'AirNet, {known}'
    )
